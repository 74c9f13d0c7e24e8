//! A daemon that was killed finds its containers again (LIF-14).

use std::{fs, path::PathBuf};

use cml_integration::{Daemon, eventually};

fn uptime(daemon: &Daemon, container: &str) -> u64 {
    let state = daemon.control().ok(&["state", container]);
    state.value("uptime").parse().unwrap()
}

#[test]
fn running_containers_survive_the_daemon_and_obey_the_next_one() {
    let mut daemon = Daemon::default();
    let web = daemon.running("web", "busybox");
    let db = daemon.running("db", "busybox");
    eventually("some uptime", || {
        (uptime(&daemon, "web") >= 1).then_some(())
    });
    let pids = [&web, &db].map(|uuid| daemon.init_pid(uuid));
    daemon.crash();
    for pid in pids {
        assert!(PathBuf::from(format!("/proc/{pid}")).exists());
    }
    daemon.start();
    assert_eq!(daemon.state("web"), "RUNNING");
    assert!(uptime(&daemon, "web") >= 1, "uptime goes on");
    assert_eq!([&web, &db].map(|uuid| daemon.init_pid(uuid)), pids);
    assert_eq!(daemon.facts("web")["hostname"], "web");
    daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EEXIST");
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.control().ok(&["start", "web"]);
    daemon.control().ok(&["remove", "db"]);
}

#[test]
fn a_container_that_ended_meanwhile_is_stopped_and_cleaned_up() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let pid = daemon.init_pid(&uuid);
    daemon.crash();
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    daemon.start();
    daemon.wait_for("web", "STOPPED");
    daemon.control().ok(&["start", "web"]);
}

#[test]
fn the_guests_service_socket_is_served_again() {
    let mut daemon = Daemon::default();
    daemon.add_guest("reports", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), "while :; do sleep 0.1; done".into()];
    });
    daemon.running("reports", "reports");
    daemon.crash();
    daemon.start();
    daemon.wait_for_log("adopted");
    let script =
        "probe init service & while ! [ -s /run/name ]; do sleep 0.05; done; cat /run/name";
    let name = daemon
        .control()
        .run(&["run", "reports", "nopty", "sh", "-c", script]);
    assert_eq!(name.out, "reports", "{name:?}");
}

#[test]
fn a_stop_that_the_daemon_did_not_live_to_finish_is_finished_by_the_next_one() {
    let mut daemon = Daemon::default();
    daemon.running("web", "busybox");
    // busybox takes its two seconds; the daemon dies in between.
    daemon.control().ok(&["stop", "web"]);
    daemon.crash();
    daemon.start();
    daemon.wait_for("web", "STOPPED");
}

#[test]
fn a_frozen_container_is_still_frozen_after_a_restart() {
    let mut daemon = Daemon::default();
    daemon.running("web", "busybox");
    daemon.control().ok(&["freeze", "web"]);
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("web"), "FROZEN");
    daemon.control().ok(&["unfreeze", "web"]);
    assert_eq!(daemon.state("web"), "RUNNING");
    assert_eq!(daemon.facts("web")["hostname"], "web");
}

#[test]
fn a_half_done_launch_is_undone_and_the_next_start_succeeds() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let pid = daemon.init_pid(&uuid);
    daemon.crash();
    // What a daemon leaves that dies between the clone and the first instruction of the guest.
    let path = daemon.path(&format!("run/cmld/containers/{uuid}.json"));
    let mut record = daemon.record(&uuid);
    record["running"] = serde_json::Value::Null;
    fs::write(&path, record.to_string()).unwrap();
    daemon.start();
    assert_eq!(daemon.state("web"), "STOPPED");
    eventually("the end of the half-started guest", || {
        (!PathBuf::from(format!("/proc/{pid}")).exists()).then_some(())
    });
    daemon.control().ok(&["start", "web"]);
}

#[test]
fn a_damaged_record_does_not_keep_the_daemon_from_starting() {
    let mut daemon = Daemon::default();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    daemon.crash();
    let uuid = "11111111-1111-4111-8111-111111111111";
    let path = daemon.path(&format!("run/cmld/containers/{uuid}.json"));
    fs::write(&path, "{ damaged").unwrap();
    daemon.start();
    daemon.control().ok(&["start", "web"]);
    assert!(!path.exists());
}

#[test]
fn a_guest_whose_record_nobody_understands_is_ended_before_another_one_starts() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let pid = daemon.init_pid(&uuid);
    daemon.crash();
    let path = daemon.path(&format!("run/cmld/containers/{uuid}.json"));
    fs::write(&path, &fs::read(&path).unwrap()[..100]).unwrap();
    daemon.start();
    assert_eq!(daemon.state("web"), "STOPPED");
    eventually("the end of the first guest", || {
        (!PathBuf::from(format!("/proc/{pid}")).exists()).then_some(())
    });
    daemon.control().ok(&["start", "web"]);
}

#[test]
fn a_running_container_outlives_a_mistake_in_its_configuration() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let pid = daemon.init_pid(&uuid);
    daemon.crash();
    let conf = daemon.base().join(format!("containers/{uuid}.conf"));
    let good = fs::read(&conf).unwrap();
    fs::write(&conf, "name: oops").unwrap();
    daemon.start();
    assert_eq!(daemon.state("web"), "RUNNING");
    assert_eq!(daemon.init_pid(&uuid), pid);
    fs::write(&conf, good).unwrap();
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
}

#[test]
fn a_guest_that_reboots_after_the_daemon_was_replaced_is_started_again() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let first = daemon.init_pid(&uuid);
    daemon.crash();
    daemon.start();
    daemon
        .control()
        .run(&["run", "web", "nopty", "reboot", "-f"]);
    eventually("another init", || {
        let running = daemon.state("web") == "RUNNING";
        (running && daemon.init_pid(&uuid) != first).then_some(())
    });
}
