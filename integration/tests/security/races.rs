//! Names that a guest changes while the host works in it (SEC-03, SEC-04, SEC-05).

use std::{collections::BTreeSet, fs, thread};

use cml_integration::{Daemon, Setup, eventually};

#[test]
fn names_that_change_under_the_hosts_hands_lead_nowhere_outside() {
    let mut daemon = Daemon::default();
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    // The same path on the host and inside: whoever follows a link on the wrong side leaves a trace.
    let victim = daemon.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("kept"), "mine").unwrap();
    let inside = victim.display().to_string();
    daemon.running("web", "busybox");
    let make = format!("mkdir -p /tmp/race {inside}");
    daemon
        .control()
        .ok(&["run", "-T", "web", "sh", "-c", &make]);
    // The program is there before the races begin.
    daemon.hostile("web", &[], "sysinfo");
    let racing = {
        let control = daemon.control();
        let script = format!("exec /run/hostile swaps /tmp/race {inside}");
        thread::spawn(move || control.run(&["run", "-T", "web", "sh", "-c", &script]))
    };
    eventually("the races", || {
        let seen = ["run", "-T", "web", "test", "-e", "/tmp/race/swaps"];
        (daemon.control().run(&seen).status == 0).then_some(())
    });
    let mut worked = 0;
    for round in 0..60 {
        let way = ["-t", "-T"][round % 2];
        let run = daemon.control().run(&["run", way, "web", "echo", "x"]);
        // It is done, or it is refused in words.
        match run.status {
            0 => worked += usize::from(run.out.contains('x')),
            126 | 127 => assert!(!run.err.is_empty(), "{run:?}"),
            _ => panic!("{run:?}"),
        }
        let rule = ["c 10:237 r", "deny c 10:237"][round % 2];
        daemon.control().run(&["dev_access", "web", rule]);
    }
    assert!(worked > 0);
    // A new daemon binds sockets in it and looks for its devices.
    for _ in 0..3 {
        daemon.signal(rustix::process::Signal::KILL);
        daemon.wait();
        daemon.start();
        assert_eq!(daemon.state("web"), "RUNNING");
    }
    // The racing command has ended with the daemon that it was started by, or ends now.
    let stop =
        "touch /tmp/race/stop; umount -l /proc 2>/dev/null; umount -l /dev/pts 2>/dev/null; true";
    daemon
        .control()
        .run(&["run", "-T", "web", "sh", "-c", stop]);
    racing.join().unwrap();
    assert_eq!(pattern(), before);
    let left: Vec<_> = fs::read_dir(&victim).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read_to_string(victim.join("kept")).unwrap(), "mine");
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.control().ok(&["start", "web"]);
    daemon.answers("web");
}

/// In everything that the daemon and its helpers do with a container there are four files of procfs that they open
/// for writing by a path: the maps of ids and the protection of a process, by the daemon, which sees nothing of a
/// guest, and the offsets of clocks, before anything of the guest is mounted.
#[test]
fn nothing_but_what_a_new_process_needs_is_written_to_procfs() {
    // Its second argument is the storage base.
    let script = "exec strace -D -f -qq -s 200 -e trace=open,openat,openat2 -o \"${2%/base}/calls\" \"$0\" \"$@\"";
    let mut daemon = Daemon::new(Setup {
        through: vec!["sh", "-c", script],
        ..Setup::default()
    });
    daemon.running("web", "busybox");
    for way in ["-t", "-T"] {
        let run = [
            "run",
            way,
            "web",
            "sh",
            "-c",
            "mknod /tmp/null c 1 3; echo x",
        ];
        daemon.control().ok(&run);
    }
    daemon.control().ok(&["freeze", "web"]);
    daemon.control().ok(&["unfreeze", "web"]);
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.stop();
    let calls = fs::read_to_string(daemon.path("calls")).unwrap();
    let written: BTreeSet<_> = calls
        .lines()
        .filter(|line| {
            ["O_WRONLY", "O_RDWR"]
                .iter()
                .any(|flag| line.contains(flag))
        })
        .filter_map(|line| line.split('"').nth(1)?.strip_prefix("/proc/"))
        .map(|path| path.split('/').next_back().unwrap_or_default())
        .collect();
    assert_eq!(
        written.into_iter().collect::<Vec<_>>(),
        ["gid_map", "oom_score_adj", "timens_offsets", "uid_map"]
    );
}
