//! Containers that start with the device, and those that start again after a failure.

use std::fs;

use cml_integration::{Daemon, eventually};
use cml_wire::proto::guest_os_config::InitMode;

fn create(daemon: &Daemon, name: &str, guest: &str, lines: &str) -> String {
    daemon.create(&format!(
        "name: \"{name}\"\nguest_os: \"{guest}\"\ntoken_type: NONE\n{lines}"
    ))
}

const AUTO: &str = "allow_autostart: true\n";

#[test]
fn containers_start_with_the_daemon_in_their_order() {
    let mut daemon = Daemon::default();
    let uuids = [
        create(
            &daemon,
            "third",
            "busybox",
            &format!("{AUTO}autostart_order: 7\n"),
        ),
        create(&daemon, "first", "busybox", AUTO),
        create(&daemon, "second", "busybox", AUTO),
    ];
    create(&daemon, "never", "busybox", "");
    daemon.stop();
    daemon.start();
    for name in ["first", "second", "third"] {
        daemon.wait_for(name, "RUNNING");
    }
    assert_eq!(daemon.state("never"), "STOPPED");
    let started = |uuid: &str| {
        daemon.record(uuid)["running"]["start_time"]
            .as_u64()
            .unwrap()
    };
    let times = uuids.each_ref().map(|uuid| started(uuid));
    assert!(times[1] < times[2] && times[2] < times[0], "{times:?}");
}

#[test]
fn what_was_stopped_on_purpose_is_not_started_by_the_daemon_after_a_crash() {
    let mut daemon = Daemon::default();
    create(&daemon, "web", "busybox", AUTO);
    create(&daemon, "db", "busybox", AUTO);
    daemon.stop();
    daemon.start();
    for name in ["web", "db"] {
        daemon.wait_for(name, "RUNNING");
    }
    eventually("the mark", || {
        daemon.path("run/cmld/autostarted").exists().then_some(())
    });
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("db"), "RUNNING");
    assert_eq!(daemon.state("web"), "STOPPED");
    // One that ends in order stops all, and the next one starts them again.
    daemon.stop();
    daemon.start();
    for name in ["web", "db"] {
        daemon.wait_for(name, "RUNNING");
    }
}

#[test]
fn a_start_that_fails_is_tried_again_and_holds_nobody_up() {
    let mut daemon = Daemon::default();
    // The device is somebody else's for a while.
    let lines = format!("{AUTO}assign_dev: \"c 10:235\"\n");
    create(&daemon, "waits", "busybox", &lines);
    create(
        &daemon,
        "holds",
        "busybox",
        &format!("{lines}autostart_order: 0\n"),
    );
    create(
        &daemon,
        "last",
        "busybox",
        &format!("{AUTO}autostart_order: 9\n"),
    );
    daemon.stop();
    daemon.start();
    daemon.wait_for("last", "RUNNING");
    let states = [daemon.state("waits"), daemon.state("holds")];
    let holder = match states.iter().position(|state| state == "RUNNING").unwrap() {
        0 => ("waits", "holds"),
        _ => ("holds", "waits"),
    };
    daemon.control().ok(&["stop", holder.0]);
    daemon.wait_for(holder.1, "RUNNING");
}

#[test]
fn a_container_that_needs_its_pin_is_left_alone() {
    let mut daemon = Daemon::default();
    daemon.create(&format!("name: \"web\"\nguest_os: \"busybox\"\n{AUTO}"));
    daemon.stop();
    daemon.start();
    daemon.wait_for_log("it needs its PIN");
    assert_eq!(daemon.state("web"), "STOPPED");
}

/// A guest whose init ends in this way after a moment.
fn ends(daemon: &mut Daemon, name: &str, script: &str) {
    daemon.add_guest(name, |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), script.into()];
        guest.set_init_mode(InitMode::InitSupervise);
    });
}

#[test]
fn a_container_that_fails_is_started_again_with_pauses_and_holds_up_nobody() {
    let mut daemon = Daemon::default();
    ends(&mut daemon, "fails", "exit 3");
    ends(&mut daemon, "done", "exit 0");
    let again = "restart_on_failure: true\n";
    let uuid = create(&daemon, "fails", "fails", again);
    create(&daemon, "once", "fails", "");
    create(&daemon, "done", "done", again);
    for name in ["fails", "once", "done"] {
        daemon.control().ok(&["start", name]);
    }
    for name in ["once", "done"] {
        daemon.wait_for(name, "STOPPED");
    }
    let starts = || {
        let log = fs::read_to_string(daemon.path("stderr")).unwrap();
        let ours = log.lines().filter(|line| line.contains(&uuid));
        ours.filter(|line| line.contains("state=\"STARTING\""))
            .count()
    };
    eventually("some starts", || (starts() >= 3).then_some(()));
    daemon.wait_for_log("reboots again and again");
    // Meanwhile the others are served (LIF-13).
    daemon.running("other", "busybox");
    daemon.control().ok(&["list"]);
    daemon.control().ok(&["stop", "fails"]);
    daemon.wait_for("fails", "STOPPED");
    let after = starts();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(starts(), after, "stopped means stopped");
}
