//! What an operator is told beside the bare answer: warnings, reasons, and how it ended.

use std::fs;

use cml_integration::Daemon;
use cml_wire::proto::guest_os_config::InitMode;
use serde_json::Value;

const TINY: &str = "guest_os: \"busybox\"\ntoken_type: NONE\n";

#[test]
fn state_and_log_tell_how_a_container_ended() {
    let mut daemon = Daemon::default();
    daemon.add_guest("brief", |guest| {
        guest.init_path = Some("/bin/busybox".into());
        guest.init_param = vec!["sh".into(), "-c".into(), "exit 3".into()];
    });
    daemon.create_with("web", "brief", "");
    daemon.control().ok(&["start", "web"]);
    daemon.wait_for("web", "STOPPED");
    let state = daemon.control().ok(&["--format", "json", "state", "web"]);
    let state: Value = serde_json::from_str(&state.out).unwrap();
    let end = &state["containers"][0]["last_end"];
    assert_eq!(end["status"], 3, "{state}");
    assert_eq!(end["reason"], "init returned 3");
    let table = daemon.control().ok(&["--format", "table", "state", "web"]);
    assert!(table.out.contains("last end: ") && table.out.contains("init returned 3"));
    // The old form stays as it was.
    assert!(
        !daemon
            .control()
            .ok(&["state", "web"])
            .out
            .contains("last_end")
    );
    let log = daemon.log();
    let ended = log
        .lines()
        .find(|line| line.contains("init ended"))
        .unwrap();
    assert!(ended.contains("name=\"web\""), "{ended}");
}

#[test]
fn a_start_of_what_still_stops_says_so_and_remove_ends_it() {
    let mut daemon = Daemon::default();
    daemon.add_guest("stubborn", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "stubborn".into()];
        guest.set_init_mode(InitMode::InitExec);
    });
    daemon.running("web", "stubborn");
    let control = daemon.control();
    control.ok(&["stop", "web", "--no-wait"]);
    let refused = control.refused(&["start", "web"], "CONTAINER_START_EEXIST");
    assert!(
        refused.err.contains("container web is still stopping"),
        "{refused:?}"
    );
    control.ok(&["remove", "web"]);
}

#[test]
fn stop_returns_when_the_container_has_stopped_and_a_frozen_one_is_called_frozen() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let control = daemon.control();
    control.ok(&["freeze", "web"]);
    let refused = control.run(&["run", "web", "true"]);
    assert!(
        refused.err.contains("container web is frozen"),
        "{refused:?}"
    );
    control.ok(&["stop", "web"]);
    assert_eq!(daemon.state("web"), "STOPPED");
    control.ok(&["start", "web"]);
}

#[test]
fn what_does_nothing_or_deletes_something_is_warned_of() {
    let daemon = Daemon::default();
    let path = daemon.path("config");
    let config = path.to_str().unwrap();
    let control = daemon.control();
    let sent = |words: &[&str], lines: &str| {
        fs::write(&path, format!("name: \"web\"\n{lines}")).unwrap();
        control.ok(words).err
    };
    assert_eq!(sent(&["create", config], TINY), "");
    let sizes = format!("{TINY}image_sizes {{ image_name: \"no\" image_size: 5 }}\n");
    let second = sent(&["create", config], &sizes);
    assert!(
        second.contains("warning: 1 more are called `web`"),
        "{second}"
    );
    assert!(second.contains("`image_sizes` names `no`"), "{second}");
    let uuid = control.ok(&["state", "web"]).value("uuid");
    let soft = "guest_os: \"busybox\"\nallow_autostart: true\n";
    let changed = sent(&["update_config", &uuid[..8], config], soft);
    assert!(
        changed.contains("what it had stored is deleted"),
        "{changed}"
    );
    assert!(
        changed.contains("`allow_autostart` does nothing"),
        "{changed}"
    );
}
