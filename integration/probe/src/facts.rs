//! What a process of the guest can see.

use std::{collections::BTreeMap, env, fs, path::Path};

use serde_json::{Value, json};

/// Everything that tests look at.
pub fn all() -> Value {
    json!({
        "uid": rustix::process::getuid().as_raw(),
        "uid_map": words("/proc/self/uid_map"),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "fds": descriptors(),
        "cwd": env::current_dir().ok(),
        "env": env::vars().collect::<BTreeMap<_, _>>(),
        "capabilities": status("CapBnd:"),
        "effective": status("CapEff:"),
        "namespaces": namespaces(),
        "mounts": mounts(),
        "devices": names("/dev"),
        "session_leader": rustix::process::getsid(None).ok() == Some(rustix::process::getpid()),
        "cgroup": fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        "uptime": words("/proc/uptime").first().and_then(|word| word.parse::<f64>().ok()),
        "terminal": terminal(),
        "processes": processes(),
        "interfaces": names("/sys/class/net"),
        "masked": masked(),
    })
}

/// The words of a file.
pub fn words(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The names in a directory, in order.
pub fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The listing itself opens one more, which is not counted.
pub fn descriptors() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in names("/proc/self/fd") {
        if let Ok(target) = fs::read_link(Path::new("/proc/self/fd").join(&name)) {
            found.insert(name, target.to_string_lossy().into_owned());
        }
    }
    found
}

/// A field of `/proc/self/status`.
pub fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default().trim().to_owned()
}

fn namespaces() -> BTreeMap<String, String> {
    names("/proc/self/ns")
        .into_iter()
        .filter_map(|name| {
            let target = fs::read_link(Path::new("/proc/self/ns").join(&name)).ok()?;
            Some((name, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// Mount point, type and flags of every mount, in order.
pub fn mounts() -> Vec<Value> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        Some(json!({
            "root": left.get(3)?,
            "at": left.get(4)?,
            "flags": left.get(5)?,
            "type": right.split(' ').next()?,
        }))
    });
    lines.collect()
}

fn terminal() -> Value {
    match rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) => json!({ "cols": size.ws_col, "rows": size.ws_row }),
        Err(_) => Value::Null,
    }
}

fn processes() -> usize {
    let numbers = names("/proc").into_iter();
    numbers.filter(|name| name.parse::<u32>().is_ok()).count()
}

/// How many bytes can be read of kernel files that tell about the whole machine.
fn masked() -> BTreeMap<&'static str, usize> {
    let files = ["/proc/keys", "/proc/timer_list", "/proc/interrupts"];
    files
        .into_iter()
        .map(|file| (file, fs::read(file).map_or(0, |bytes| bytes.len())))
        .collect()
}
