//! From a template to a removed container.

use std::time::Duration;

use cml_integration::{Daemon, eventually};
use cml_wire::proto::guest_os_config::InitMode;
use rustix::process::Signal;

#[test]
fn a_container_lives_from_create_to_remove() {
    let daemon = Daemon::default();
    let control = daemon.control();
    let uuid = daemon.create("name: \"web\"\nguest_os: \"busybox\"\ncolor: 0xff00ffff\n");
    let listed = control.ok(&["list"]);
    assert_eq!(listed.value("uuid"), uuid);
    assert_eq!(listed.value("state"), "STOPPED");
    assert_eq!(listed.value("guestos"), "busybox");
    assert_eq!(listed.value("trust_level"), "SIGNED");

    let started = control.ok(&["start", "web", "--key=trustme"]);
    assert_eq!(started.value("response"), "CONTAINER_START_OK");
    daemon.wait_for("web", "RUNNING");
    let said = control.ok(&["run", "web", "nopty", "uname", "-n"]);
    assert_eq!(said.out, "web\n");

    let stopped = control.ok(&["stop", "web", "--key=trustme"]);
    assert_eq!(stopped.value("response"), "CONTAINER_STOP_OK");
    daemon.wait_for("web", "STOPPED");
    assert_eq!(control.ok(&["state", "web"]).value("uptime"), "0");

    control.ok(&["remove", "web"]);
    assert_eq!(control.ok(&["list"]).out, "code: CONTAINER_STATUS\n");
    let left = std::fs::read_dir(daemon.base().join("containers")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn the_guest_sees_its_own_machine_and_its_uptime_starts_at_zero() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let facts = daemon.facts("web");
    assert_eq!(facts["uid"], 0);
    assert_eq!(facts["hostname"], "web");
    assert_eq!(facts["uid_map"][1], "100000");
    assert_eq!(facts["uid_map"][2], "65536");
    assert!(facts["uptime"].as_f64().unwrap() < 30.0, "{facts}");
    assert_eq!(facts["interfaces"], serde_json::json!(["host0", "lo"]));
    // init, the probe and perhaps a helper of init
    assert!(facts["processes"].as_u64().unwrap() <= 4, "{facts}");
}

#[test]
fn a_second_start_and_a_second_stop_are_refused() {
    let daemon = Daemon::default();
    let control = daemon.control();
    daemon.running("web", "busybox");
    control.refused(&["start", "web"], "CONTAINER_START_EEXIST");
    control.ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    control.refused(&["stop", "web"], "CONTAINER_STOP_FAILED_NOT_RUNNING");
}

#[test]
fn a_stopped_container_starts_again_and_keeps_its_ids() {
    let daemon = Daemon::default();
    let control = daemon.control();
    let other = daemon.running("other", "busybox");
    let uuid = daemon.running("web", "busybox");
    let slot = daemon.record(&uuid)["running"]["id_slot"].clone();
    assert_ne!(slot, daemon.record(&other)["running"]["id_slot"]);
    for name in ["other", "web"] {
        control.ok(&["stop", name]);
        daemon.wait_for(name, "STOPPED");
    }
    control.ok(&["start", "web"]);
    assert_eq!(daemon.record(&uuid)["running"]["id_slot"], slot);
}

#[test]
fn a_running_container_can_be_removed() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let pid = daemon.init_pid(&uuid);
    daemon.control().ok(&["remove", "web"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let gone = daemon.control().run(&["remove", "web"]);
    assert_eq!(gone.status, 1);
    assert!(
        gone.err
            .contains("Container with provided uuid/name does not exist!"),
        "{gone:?}"
    );
}

#[test]
fn an_init_that_ends_stops_its_container() {
    let mut daemon = Daemon::default();
    daemon.add_guest("ends", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "exit".into(), "3".into()];
    });
    let uuid = daemon.create("name: \"ends\"\nguest_os: \"ends\"\ntoken_type: NONE\n");
    daemon.control().ok(&["start", &uuid]);
    daemon.wait_for("ends", "STOPPED");
    daemon.control().ok(&["start", &uuid]);
    daemon.wait_for("ends", "STOPPED");
}

#[test]
fn a_guest_that_reboots_is_started_again() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let first = daemon.init_pid(&uuid);
    // The command ends with its container, so its status tells nothing.
    daemon
        .control()
        .run(&["run", "web", "nopty", "reboot", "-f"]);
    eventually("another init", || {
        let running = daemon.state("web") == "RUNNING";
        (running && daemon.init_pid(&uuid) != first).then_some(())
    });
    assert_eq!(daemon.facts("web")["hostname"], "web");
}

#[test]
fn a_guest_that_powers_off_is_stopped() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    daemon
        .control()
        .run(&["run", "web", "nopty", "poweroff", "-f"]);
    daemon.wait_for("web", "STOPPED");
}

#[test]
fn a_plain_program_as_init_is_supervised_and_stops_politely() {
    let mut daemon = Daemon::default();
    daemon.add_guest("plain", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec![
            "-c".into(),
            "trap 'echo asked >/run/asked; exit 0' TERM; while :; do sleep 0.1; done".into(),
        ];
    });
    let uuid = daemon.running("plain", "plain");
    assert_eq!(daemon.record(&uuid)["running"]["init"]["supervised"], true);
    // Orphans are collected by process 1.
    let orphan = ["run", "plain", "nopty", "sh", "-c", "(sleep 0.2 &)"];
    daemon.control().ok(&orphan);
    std::thread::sleep(Duration::from_millis(300));
    let zombies = "cat /proc/[0-9]*/stat | grep -c ') Z '";
    eventually("no zombie", || {
        let counted = daemon
            .control()
            .run(&["run", "plain", "nopty", "sh", "-c", zombies]);
        (counted.out == "0\n").then_some(())
    });
    let before = std::time::Instant::now();
    daemon.control().ok(&["stop", "plain"]);
    daemon.wait_for("plain", "STOPPED");
    assert!(
        before.elapsed() < Duration::from_secs(20),
        "it was killed, not asked"
    );
}

#[test]
fn init_can_be_told_to_be_process_one_itself() {
    let mut daemon = Daemon::default();
    daemon.add_guest("exec", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec![
            "-c".into(),
            "trap exit USR1; while :; do sleep 0.1; done".into(),
        ];
        guest.set_init_mode(InitMode::InitExec);
        guest.stop_signal = Some("SIGUSR1".into());
    });
    let uuid = daemon.running("exec", "exec");
    assert_eq!(daemon.record(&uuid)["running"]["init"]["supervised"], false);
    daemon.control().ok(&["stop", "exec"]);
    daemon.wait_for("exec", "STOPPED");
}

#[test]
fn an_orderly_end_of_the_daemon_stops_all_containers() {
    let mut daemon = Daemon::default();
    let uuids = [
        daemon.running("a", "busybox"),
        daemon.running("b", "busybox"),
    ];
    let pids = uuids.map(|uuid| daemon.init_pid(&uuid));
    assert!(daemon.stop().success());
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    assert!(!daemon.socket().exists());
    daemon.start();
    assert_eq!(daemon.state("a"), "STOPPED");
}

#[test]
fn a_second_signal_ends_the_daemon_at_once_and_leaves_containers_running() {
    let mut daemon = Daemon::default();
    daemon.add_guest("stubborn", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "stubborn".into()];
        guest.set_init_mode(InitMode::InitExec);
    });
    let uuid = daemon.running("stubborn", "stubborn");
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("stopping all containers");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    let alive =
        std::path::PathBuf::from(format!("/proc/{}", daemon.record(&uuid)["running"]["pid"]));
    assert!(alive.exists());
    daemon.start();
    daemon.control().ok(&["remove", "stubborn"]);
    // The daemon is not its parent any more, so somebody else collects it.
    eventually("the end of the guest", || (!alive.exists()).then_some(()));
}

#[test]
fn a_stop_during_a_start_waits_for_it_and_stops() {
    let daemon = Daemon::default();
    daemon.create("name: \"x\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let starts = || daemon.log().matches("state=\"STARTING\"").count();
    for moment in 0..4 {
        let before = starts();
        let mut start = daemon.control().command(&["start", "x"]);
        let asked = std::thread::spawn(move || start.output().unwrap());
        eventually("the start", || (starts() > before).then_some(()));
        std::thread::sleep(Duration::from_millis(moment * 8));
        let stopped = daemon.control().ok(&["stop", "x"]);
        assert_eq!(stopped.value("response"), "CONTAINER_STOP_OK");
        assert!(asked.join().unwrap().status.success());
        daemon.wait_for("x", "STOPPED");
    }
}
