//! Secrets are where they are needed, for as long as they are needed, and nowhere else.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use cml_integration::{
    Daemon,
    encrypted::{persistent, setup, sh},
};

/// What a token of the golden files has wrapped (services/token/tests/golden).
fn golden_key() -> Vec<u8> {
    (0..96_usize).map(|i| (i * 91 + 17) as u8).collect()
}

/// Where these bytes are in the memory of a process.
fn found_in_memory(pid: u32, secret: &[u8]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let from = u64::from_str_radix(from, 16).unwrap();
        let to = u64::from_str_radix(to, 16).unwrap();
        if !rest.starts_with('r') || rest.contains("[vvar") || rest.contains("[vsyscall") {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // What was unmapped meanwhile holds nothing.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        let finder = memchr::memmem::Finder::new(secret);
        found.extend(finder.find_iter(&bytes).map(|at| {
            let text = String::from_utf8_lossy(&bytes[at.saturating_sub(16)..at]).into_owned();
            format!("{line} at {at:#x} after {text:?}")
        }));
    }
    found
}

fn golden(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/token/tests/golden");
    fs::read(dir.join(name)).unwrap()
}

#[test]
fn neither_pins_nor_keys_stay_in_the_daemons_memory_or_its_logs() {
    let mut daemon = Daemon::prepared(setup());
    daemon.add_guest("persistent", persistent);
    daemon.start();
    let uuid = daemon.create("name: \"web\"\nguest_os: \"persistent\"\n");
    // A token of the existing system, whose key is known.
    let tokens = daemon.base().join("tokens");
    fs::write(tokens.join(format!("{uuid}.p12")), golden("modern.p12")).unwrap();
    let key = daemon.base().join(format!("keys/{uuid}.key"));
    fs::write(&key, golden("envelope.key")).unwrap();
    let control = daemon.control();
    let (first, second) = ("Pin-0ne-zq7", "Pin-tw0-xk9");
    let lines = format!("trustme\n{first}\n{first}\n");
    let changed = control.run_with(&["change_pin", "web"], lines.as_bytes());
    assert_eq!(changed.status, 0, "{changed:?}");
    let wrong = format!("--key={second}");
    control.refused(&["start", "web", &wrong], "CONTAINER_START_PASSWD_WRONG");
    let right = format!("--key={first}");
    control.ok(&["start", "web", &right]);
    daemon.wait_for("web", "RUNNING");
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    // Busy enough that what is free again has been used again by chance, but not by this test.
    control.ok(&["list"]);
    // A word of the program itself: what is there is found.
    assert!(!found_in_memory(daemon.pid(), b"cml-softtoken").is_empty());
    let secrets = [
        ("the first PIN", first.as_bytes().to_vec()),
        ("the wrong PIN", second.as_bytes().to_vec()),
        ("the key", golden_key()),
        ("half of the key", golden_key()[32..64].to_vec()),
        ("the key in hex", hex::encode(golden_key()).into_bytes()),
    ];
    for (name, secret) in &secrets {
        let found = found_in_memory(daemon.pid(), secret);
        assert!(found.is_empty(), "{name}: {found:#?}");
        let log = daemon.log().into_bytes();
        assert!(
            memchr::memmem::find(&log, secret).is_none(),
            "{name} in the log"
        );
        for entry in fs::read_dir(daemon.path("logs"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let log = fs::read(entry.path()).unwrap();
            assert!(
                memchr::memmem::find(&log, secret).is_none(),
                "{name} in {entry:?}"
            );
        }
    }
    control.ok(&["stop", "web", &right]);
    daemon.wait_for("web", "STOPPED");
    let found = found_in_memory(daemon.pid(), first.as_bytes());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_memory_of_the_daemon_is_ever_swapped_out_or_dumped() {
    let daemon = Daemon::default();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    };
    assert!(field("VmLck:") > 0, "{status}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.contains("core file"))
        .unwrap();
    let words: Vec<_> = core.split_whitespace().collect();
    assert!(words.contains(&"0"), "{core}");
}
