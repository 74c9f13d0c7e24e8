//! Everything that confines a process of the guest, as it looks from inside: for a snapshot that is reviewed when
//! it changes. Only what every machine has the same is in it; numbers that differ from run to run are `N`.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::fs::{Mode, OFlags};
use serde_json::{Map, Value, json};

use crate::facts::{descriptors, mounts, names, status, words};

/// The report.
pub fn report() -> Value {
    json!({
        "who": who(),
        "capabilities": capabilities(),
        "seccomp": { "mode": status("Seccomp:"), "filters": status("Seccomp_filters:") },
        "no new privileges": status("NoNewPrivs:"),
        "descriptors": descriptors().into_iter().map(|(fd, what)| format!("{fd} {}", normal(&what))).collect::<Vec<_>>(),
        "environment": env::vars().map(|(name, value)| format!("{name}={value}")).collect::<BTreeSet<_>>(),
        "environment of init": environment_of_init(),
        "mounts": mount_lines(),
        "paths of others": paths_of_others(),
        "devices": devices(),
        "control groups": control_groups(),
        "keys": fs::read_to_string("/proc/keys").map_or(0, |text| text.lines().count()),
        "processes": processes(),
        "interfaces": names("/sys/class/net"),
        "signals": { "ignored": status("SigIgn:"), "blocked": status("SigBlk:") },
    })
}

/// Digits become one `N`.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for letter in text.chars() {
        match letter.is_ascii_digit() {
            true if normal.ends_with('N') => {}
            true => normal.push('N'),
            false => normal.push(letter),
        }
    }
    normal
}

fn who() -> Value {
    json!({
        "user": status("Uid:"),
        "group": status("Gid:"),
        "groups": status("Groups:"),
        "map": words("/proc/self/uid_map").get(2),
        "umask": status("Umask:"),
        "session leader": rustix::process::getsid(None).ok() == Some(rustix::process::getpid()),
        "working directory": env::current_dir().ok(),
    })
}

/// Numbers of the capabilities in each set.
fn capabilities() -> Map<String, Value> {
    let sets = ["Bnd", "Prm", "Eff", "Inh", "Amb"];
    let numbers = |set: &str| {
        let bits = u64::from_str_radix(&status(&format!("Cap{set}:")), 16).unwrap();
        (0..64_u64)
            .filter(|bit| bits >> bit & 1 == 1)
            .collect::<Vec<_>>()
    };
    sets.map(|set| (set.to_owned(), json!(numbers(set))))
        .into_iter()
        .collect()
}

fn environment_of_init() -> Value {
    match fs::read("/proc/1/environ") {
        Ok(bytes) => json!(String::from_utf8_lossy(&bytes).replace('\0', "\n")),
        Err(error) => json!(error.kind().to_string()),
    }
}

/// Covers over single files of the kernel depend on what the kernel has.
fn is_cover(at: &str) -> bool {
    ["/proc/", "/sys/firmware", "/sys/devices/"]
        .iter()
        .any(|dir| at.starts_with(dir))
}

fn mount_lines() -> Vec<String> {
    let text = |mount: &Value, key: &str| mount[key].as_str().unwrap().to_owned();
    let shown = mounts()
        .into_iter()
        .filter(|mount| !is_cover(&text(mount, "at")));
    shown
        .map(|mount| {
            let field = |key| text(&mount, key);
            format!(
                "{} {} {} {}",
                field("at"),
                field("type"),
                field("root"),
                field("flags")
            )
        })
        .collect()
}

/// Whatever looks like a path in what the kernel tells about mounts: sources and options.
fn paths_of_others() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let right = text.lines().filter_map(|line| line.split_once(" - "));
    let words = right.flat_map(|(_, right)| right.split([' ', ',']));
    words
        .filter(|word| word.contains('/'))
        .map(normal)
        .collect()
}

/// Every device node in `/dev`, and whether it can be opened.
fn devices() -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new("/dev").to_owned()];
    while let Some(dir) = dirs.pop() {
        for name in names(dir.to_str().unwrap()) {
            let path = dir.join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let kind = metadata.file_type();
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
                let opened = match rustix::fs::open(&path, flags, Mode::empty()) {
                    Ok(_) => "opens".to_owned(),
                    Err(error) => error.to_string(),
                };
                let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
                found.push(format!("{} {mode:o} {owner} {opened}", path.display()));
            }
        }
    }
    found.sort();
    found
}

fn control_groups() -> Value {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Those of version 1 depend on the machine; of each only the path matters.
    let paths: BTreeSet<_> = own
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .collect();
    let root = Path::new("/sys/fs/cgroup");
    let files = [
        "procs",
        "threads",
        "subtree_control",
        "freeze",
        "kill",
        "max.depth",
    ];
    let owned = files
        .map(|file| format!("cgroup.{file}"))
        .into_iter()
        .filter(|name| fs::metadata(root.join(name)).is_ok_and(|found| found.uid() == 0));
    json!({ "own": paths, "to be written": owned.collect::<Vec<_>>() })
}

fn processes() -> BTreeSet<String> {
    let numbers = names("/proc")
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok());
    numbers
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}
