//! What a guest sees and may do.

use std::{collections::BTreeMap, fs, path::Path};

use cml_integration::Daemon;
use serde_json::Value;

fn namespaces(pid: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/ns")).unwrap().flatten();
    entries
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, target.to_string_lossy().into_owned())
        })
        .collect()
}

const NAMESPACES: [&str; 8] = ["mnt", "pid", "uts", "ipc", "net", "user", "cgroup", "time"];

#[test]
fn a_guest_has_every_namespace_of_its_own_and_commands_join_them_all() {
    let daemon = Daemon::default();
    let uuids = [
        daemon.running("a", "busybox"),
        daemon.running("b", "busybox"),
    ];
    let host = namespaces("self");
    let guests = uuids
        .each_ref()
        .map(|uuid| namespaces(&daemon.init_pid(uuid).to_string()));
    let command = daemon.facts("a")["namespaces"].clone();
    for name in NAMESPACES {
        assert_ne!(guests[0][name], host[name], "{name}");
        assert_ne!(guests[0][name], guests[1][name], "{name}");
        assert_eq!(command[name], guests[0][name], "{name}");
    }
}

#[test]
fn a_guest_sees_no_file_system_of_the_host() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let facts = daemon.facts("web");
    for mount in facts["mounts"].as_array().unwrap() {
        let (at, kind) = (
            mount["at"].as_str().unwrap(),
            mount["type"].as_str().unwrap(),
        );
        let expected = match kind {
            "overlay" => at == "/",
            "proc" => at == "/proc",
            "sysfs" => at == "/sys",
            // Single nodes, and /dev/null over what is masked.
            "devtmpfs" => mount["root"] != "/",
            "tmpfs" => {
                ["/dev", "/dev/shm", "/run"].contains(&at)
                    || at.starts_with("/proc/")
                    || at.starts_with("/sys/")
            }
            "devpts" => at == "/dev/pts",
            "mqueue" => at == "/dev/mqueue",
            // The container's own part: control_groups.rs.
            "cgroup2" => at == "/sys/fs/cgroup",
            _ => false,
        };
        assert!(expected, "{mount}");
    }
}

#[test]
fn the_harmless_devices_are_there_and_no_others() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let facts = daemon.facts("web");
    let mut expected = vec![
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    // Of the default list (runtime.md 2.8), where the host has them; `net` holds `tun`.
    let perhaps = [("fuse", "fuse"), ("hwrng", "hwrng"), ("net", "net/tun")];
    let there = perhaps
        .iter()
        .filter(|(_, node)| Path::new("/dev").join(node).exists());
    expected.extend(there.map(|(name, _)| *name));
    expected.sort_unstable();
    assert_eq!(facts["devices"], serde_json::json!(expected));
}

#[test]
fn a_device_node_that_a_guest_makes_opens_nothing() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        for place in ["/dev", "/dev/shm", "/dev/pts", "/run", "/tmp", "/"] {
            // The loop device behind the guest's own image, the kernel's log, and the machine's memory; harmless
            // ones are in system_calls.rs.
            for (kind, number) in [("b", "7 0"), ("c", "1 11"), ("c", "1 1")] {
                let script =
                    format!("mknod {place}/n {kind} {number}; head -c 1 {place}/n | grep -c .");
                let run = ["run", &name, "nopty", "sh", "-c", &script];
                let read = daemon.control().run(&run);
                assert_eq!(read.out.trim(), "0", "userns {userns}: {script}: {read:?}");
            }
        }
    }
}

#[test]
fn without_a_user_namespace_only_harmless_capabilities_are_left() {
    let daemon = Daemon::default();
    daemon.running_with("x", "busybox", "userns: false\n");
    let facts = daemon.facts("x");
    // docs/adr/0005-capabilities.md, with a network of its own.
    let kept = [
        0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 18, 22, 23, 24, 29, 35,
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ours = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let ours = Value::from(ours.unwrap().trim());
    for number in 0..64 {
        // What this machine gives nobody the guest does not get either.
        let expected = kept.contains(&number) && has(&ours, number);
        assert_eq!(
            has(&facts["capabilities"], number),
            expected,
            "capability {number}"
        );
        assert_eq!(
            has(&facts["effective"], number),
            expected,
            "capability {number}"
        );
    }
    // SYS_BOOT is for shutting down, not for loading another kernel.
    let status = fs::read_to_string(format!(
        "/proc/{}/status",
        daemon.init_pid(&daemon.control().ok(&["state", "x"]).value("uuid"))
    ));
    assert!(status.unwrap().contains("Seccomp:\t2\n"));
}

#[test]
fn the_hosts_network_is_there_to_be_used_not_to_be_changed_or_listened_to() {
    let daemon = Daemon::default();
    daemon.running_with("x", "busybox", "userns: false\nnetns: false\n");
    let facts = daemon.facts("x");
    // NET_ADMIN, NET_RAW
    for number in [12, 13] {
        assert!(!has(&facts["capabilities"], number), "{number}");
        assert!(!has(&facts["effective"], number), "{number}");
    }
}

/// Bits of the capabilities that runtime.md 2.5 takes from every container.
const DROPPED: [u32; 11] = [9, 15, 16, 19, 20, 28, 30, 31, 32, 33, 34];

fn has(capabilities: &Value, number: u32) -> bool {
    let bits = u64::from_str_radix(capabilities.as_str().unwrap(), 16).unwrap();
    bits & (1 << number) != 0
}

#[test]
fn capabilities_that_no_guest_needs_are_gone_for_init_and_commands() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.init_pid(&uuid))).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap();
    let init = Value::from(line.trim());
    let facts = daemon.facts("web");
    for capabilities in [&init, &facts["capabilities"], &facts["effective"]] {
        for number in DROPPED {
            assert!(!has(capabilities, number), "capability {number}");
        }
        // CAP_CHOWN: the rest is there.
        assert!(has(capabilities, 0));
    }
}

#[test]
fn files_about_the_whole_machine_read_as_empty_and_sysrq_is_out_of_reach() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        for (file, bytes) in daemon.facts(&name)["masked"].as_object().unwrap() {
            assert_eq!(bytes, 0, "{file}");
        }
        let mut attempts = vec![
            "echo h >/proc/sysrq-trigger",
            "echo x >/proc/sys/kernel/core_pattern",
        ];
        if !userns {
            // In a user namespace the guest may unmount what was mounted in it and mount procfs anew; there
            // the kernel's own checks on these files count, as nobody in it is the host's root.
            attempts.push("umount /proc/keys");
            attempts.push("mount -t proc none /mnt");
        }
        for script in attempts {
            let done = daemon
                .control()
                .run(&["run", &name, "nopty", "sh", "-c", script]);
            assert_ne!(done.status, 0, "userns {userns}: {script}: {done:?}");
        }
    }
}

#[test]
fn a_guest_cannot_see_or_kill_what_is_outside() {
    let daemon = Daemon::default();
    let other = daemon.running("other", "busybox");
    daemon.running("web", "busybox");
    let victim = daemon.init_pid(&other);
    let script = format!("kill -9 {victim}; kill -9 -1; true");
    daemon
        .control()
        .run(&["run", "web", "nopty", "sh", "-c", &script]);
    assert_eq!(daemon.state("other"), "RUNNING");
    assert_eq!(daemon.init_pid(&other), victim);
    // The helpers of commands are processes of the host.
    let seen = daemon.control().ok(&["run", "web", "nopty", "ps"]).out;
    assert!(!seen.contains("cml-enter"), "{seen}");
}

#[test]
fn the_control_socket_is_for_root_and_its_group() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::default();
    daemon.control().ok(&["list"]);
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    for private in [
        "run/cmld",
        "base/containers",
        "base/keys",
        "base/files_shared",
    ] {
        let mode = fs::metadata(daemon.path(private))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{private}");
    }
}

#[test]
fn what_the_daemon_was_given_to_inherit_reaches_no_guest() {
    let mut daemon = Daemon::prepared(cml_integration::Setup {
        through: vec!["setpriv", "--inh-caps=+sys_module,+sys_admin,+mknod"],
        ..Default::default()
    });
    daemon.add_guest("supervised", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), "while :; do sleep 1; done".into()];
    });
    daemon.start();
    let uuid = daemon.running_with("x", "supervised", "userns: false\n");
    let facts = daemon.facts("x");
    let init = fs::read_to_string(format!("/proc/{}/status", daemon.init_pid(&uuid))).unwrap();
    let of_init = |field: &str| {
        let line = init.lines().find_map(|line| line.strip_prefix(field));
        Value::from(line.unwrap().trim())
    };
    // SYS_MODULE, SYS_ADMIN, MKNOD
    for number in [16, 21, 27] {
        assert!(!has(&facts["effective"], number), "capability {number}");
        for field in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert!(!has(&of_init(field), number), "capability {number} {field}");
        }
    }
}
