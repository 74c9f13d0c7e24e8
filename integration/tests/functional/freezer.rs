//! Freezing and thawing.

use cml_integration::Daemon;

#[test]
fn a_frozen_container_does_nothing_until_it_is_thawed() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let control = daemon.control();
    control.ok(&["freeze", "web"]);
    assert_eq!(daemon.state("web"), "FROZEN");
    control.ok(&["freeze", "web"]);
    let ticks = |daemon: &Daemon| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.init_pid(&uuid)));
        stat.unwrap()
            .split(' ')
            .skip(13)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let before = ticks(&daemon);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(ticks(&daemon), before);
    let refused = control.run(&["run", "web", "nopty", "true"]);
    assert_eq!(refused.status, 126, "{refused:?}");
    control.ok(&["unfreeze", "web"]);
    assert_eq!(daemon.state("web"), "RUNNING");
    control.ok(&["run", "web", "nopty", "true"]);
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
