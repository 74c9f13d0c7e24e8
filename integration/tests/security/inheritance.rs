//! Nothing of the daemon reaches a guest, and nothing of a guest stays in the daemon (SEC-02, LIF-07).

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt};

use cml_integration::Daemon;

/// How often containers are started and commands run.
const CYCLES: usize = 40;

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_command_has_three_descriptors_and_init_has_no_other() {
    let mut daemon = Daemon::default();
    daemon.add_guest("supervised", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), "while :; do sleep 1; done".into()];
    });
    daemon.running("web", "busybox");
    let supervised = daemon.running("supervised", "supervised");
    for name in ["web", "supervised"] {
        let facts = daemon.facts(name);
        let numbers: Vec<_> = facts["fds"].as_object().unwrap().keys().collect();
        assert_eq!(numbers, ["0", "1", "2"], "{facts}");
    }
    let dir = format!("/proc/{}/fd", daemon.init_pid(&supervised));
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"), "{entry:?}");
        // The container's own: the host's is a file that others use.
        let (own, hosts) = (fs::metadata(entry.path()), fs::metadata("/dev/null"));
        assert_ne!(own.unwrap().dev(), hosts.unwrap().dev(), "{entry:?}");
    }
}

/// What a service manager gives a daemon, so that it survives or comes first, is not meant for its guests.
#[test]
fn guests_are_ordinary_processes_whatever_the_daemon_is() {
    let special = "echo 900 >/proc/self/oom_score_adj; exec nice -n 5 taskset 1 \"$@\"";
    let daemon = Daemon::new(cml_integration::Setup {
        through: vec!["sh", "-c", special, "sh"],
        ..Default::default()
    });
    let uuid = daemon.running("web", "busybox");
    let look = "cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat; ulimit -Sc; ulimit -Sn; nproc";
    let run = ["run", "-T", "web", "sh", "-c", look];
    let processors = std::thread::available_parallelism().unwrap();
    let ordinary = format!("0\n0\n0\n1024\n{processors}\n");
    assert_eq!(daemon.control().ok(&run).out, ordinary);
    let init = format!("/proc/{}", daemon.init_pid(&uuid));
    let read = |name: &str| fs::read_to_string(format!("{init}/{name}")).unwrap();
    assert_eq!(read("oom_score_adj"), "0\n");
    assert_eq!(read("stat").split(' ').nth(18), Some("0"));
}

#[test]
fn init_gets_the_configured_environment_and_nothing_else() {
    let mut daemon = Daemon::default();
    daemon.add_guest("env", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), "while :; do sleep 1; done".into()];
        guest.init_env = vec!["GUEST=1".into()];
    });
    let uuid = daemon
        .create("name: \"x\"\nguest_os: \"env\"\ntoken_type: NONE\ninit_env: \"CONTAINER=2\"\n");
    daemon.control().ok(&["start", "x"]);
    let pid = daemon.init_pid(&uuid);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child = children.split_whitespace().next().unwrap();
    let environment = fs::read(format!("/proc/{child}/environ")).unwrap();
    assert_eq!(environment, b"GUEST=1\0CONTAINER=2\0");
}

#[test]
fn signals_that_the_daemon_was_told_to_ignore_are_not_ignored_in_guests() {
    let daemon = Daemon::new(cml_integration::Setup {
        through: vec!["sh", "-c", "trap '' HUP QUIT USR1 TERM; exec \"$@\"", "sh"],
        ..Default::default()
    });
    let uuid = daemon.running("web", "busybox");
    let run = ["run", "-T", "web", "cat", "/proc/self/status"];
    let of_command = daemon.control().ok(&run).out;
    let of_init = fs::read_to_string(format!("/proc/{}/status", daemon.init_pid(&uuid))).unwrap();
    for text in [of_command, of_init] {
        assert!(text.contains("SigIgn:\t0000000000000000\n"), "{text}");
        assert!(text.contains("SigBlk:\t0000000000000000\n"), "{text}");
    }
}

#[test]
fn starts_and_commands_leave_the_daemon_as_it_was() {
    let mut daemon = Daemon::default();
    daemon.add_guest("ends", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "exit".into(), "0".into()];
    });
    daemon.create("name: \"ends\"\nguest_os: \"ends\"\ntoken_type: NONE\n");
    daemon.running("web", "busybox");
    let cycle = || {
        daemon.control().ok(&["start", "ends"]);
        daemon.control().ok(&["run", "web", "nopty", "true"]);
        daemon.wait_for("ends", "STOPPED");
    };
    cycle();
    let descriptors = format!("/proc/{}/fd", daemon.pid());
    let before = entries(&descriptors);
    for _ in 0..CYCLES {
        cycle();
    }
    cml_integration::eventually("as many descriptors as before", || {
        (entries(&descriptors) <= before).then_some(())
    });

    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .flatten();
    let mut mounts = BTreeSet::new();
    for task in tasks {
        let namespace = |name: &str| fs::read_link(task.path().join("ns").join(name)).ok();
        let ours = |name: &str| {
            // The network is the one that the fixture gave the daemon.
            let of = match name {
                "net" => daemon.pid().to_string(),
                _ => "self".into(),
            };
            fs::read_link(format!("/proc/{of}/ns/{name}")).ok()
        };
        for name in ["net", "user", "pid", "uts", "ipc", "cgroup", "time"] {
            // A thread that ended meanwhile has none.
            assert!(
                namespace(name).is_none_or(|seen| Some(seen) == ours(name)),
                "{name}"
            );
        }
        mounts.extend(namespace("mnt"));
    }
    assert_eq!(mounts.len(), 1, "all threads see the same mounts");

    let zombies = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let ours = format!(" Z {} ", daemon.pid());
        stat.contains(&ours)
    });
    assert_eq!(zombies.count(), 0);
}
