//! Freezing and thawing.

use cml_integration::{Daemon, eventually};

#[test]
fn a_frozen_container_does_nothing_until_it_is_thawed() {
    let mut daemon = Daemon::default();
    daemon.add_busy_guest();
    let uuid = daemon.running("busy", "busy");
    let control = daemon.control();
    let pid = daemon.init_pid(&uuid);
    // User and system time, fields 14 and 15 of proc_pid_stat(5).
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.split(' ').map(ToOwned::to_owned).collect();
        fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()
    };
    let before = ticks();
    eventually("it works", || (ticks() > before).then_some(()));
    control.ok(&["freeze", "busy"]);
    assert_eq!(daemon.state("busy"), "FROZEN");
    control.ok(&["freeze", "busy"]);
    let frozen = ticks();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(ticks(), frozen);
    let refused = control.run(&["run", "busy", "nopty", "true"]);
    assert_eq!(refused.status, 126, "{refused:?}");
    control.ok(&["unfreeze", "busy"]);
    assert_eq!(daemon.state("busy"), "RUNNING");
    eventually("it works again", || (ticks() > frozen).then_some(()));
    control.ok(&["run", "busy", "nopty", "true"]);
}

#[test]
fn freezing_and_thawing_at_the_same_time_leaves_no_doubt() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    for _ in 0..15 {
        std::thread::scope(|scope| {
            scope.spawn(|| daemon.control().ok(&["freeze", "web"]));
            scope.spawn(|| daemon.control().ok(&["unfreeze", "web"]));
        });
        // Whatever came last, the kernel and the state agree.
        if daemon.state("web") == "FROZEN" {
            daemon.control().ok(&["unfreeze", "web"]);
        }
        daemon.answers("web");
    }
}

#[test]
fn a_frozen_container_can_be_stopped_and_removed() {
    let daemon = Daemon::default();
    let control = daemon.control();
    daemon.running("a", "busybox");
    daemon.running("b", "busybox");
    for name in ["a", "b"] {
        control.ok(&["freeze", name]);
    }
    control.ok(&["stop", "a"]);
    control.ok(&["remove", "b"]);
    daemon.wait_for("a", "STOPPED");
}

#[test]
fn a_stopped_container_cannot_be_frozen() {
    let daemon = Daemon::default();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    for command in ["freeze", "unfreeze"] {
        let refused = daemon.control().refused(&[command, "web"], "CMD_FAILED");
        assert!(refused.err.contains("not running"), "{refused:?}");
    }
}

#[test]
fn setup_mode_comes_back_to_setup_mode_by_way_of_the_same_states() {
    let daemon = Daemon::default();
    let uuid = daemon.create_with("web", "busybox", "");
    let control = daemon.control();
    control.ok(&["start", "web", "--setup"]);
    daemon.wait_for("web", "SETUP");
    control.ok(&["freeze", "web"]);
    assert_eq!(daemon.state("web"), "FROZEN");
    let log = daemon.log();
    let states: Vec<_> = log
        .lines()
        .filter(|line| line.contains("state changed") && line.contains(&uuid))
        .filter_map(|line| line.split("state=").nth(1))
        .collect();
    let end = &states[states.len() - 2..];
    assert_eq!(end, ["\"FREEZING\"", "\"FROZEN\""], "{states:?}");
    control.ok(&["unfreeze", "web"]);
    assert_eq!(daemon.state("web"), "SETUP");
    control.ok(&["freeze", "web"]);
    control.ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
}
