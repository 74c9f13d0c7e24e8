//! The daemon's own command line, and what users meet when something is not there.

use std::{fs, process::Command};

use cml_integration::{Daemon, Setup, kit::kit};

#[test]
fn a_daemon_that_is_not_there_is_told_apart_from_a_refusal() {
    let daemon = Daemon::prepared(Setup::default());
    let output = daemon.control().run(&["list"]);
    assert_eq!(output.status, 125);
    assert!(output.err.contains("is it running?"), "{output:?}");
}

#[test]
fn a_second_daemon_on_the_same_run_directory_is_refused() {
    let daemon = Daemon::default();
    let output = daemon.command().output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another cmld is running"), "{said}");
    daemon.control().ok(&["list"]);
}

#[test]
fn a_mistake_in_device_conf_is_named_with_its_place() {
    let daemon = Daemon::prepared(Setup {
        device_conf: "hostedmode: true\nhost_subnet: many\n".into(),
        ..Setup::default()
    });
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("line 2, column"),
        "{said}"
    );
    fs::write(
        daemon.path("conf/device.conf"),
        "hostedmode: true\nhost_subnet: 64\n",
    )
    .unwrap();
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("line 2, column 14: `host_subnet`"),
        "{said}"
    );
    fs::remove_file(daemon.path("conf/device.conf")).unwrap();
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("device.conf") && said.contains("empty file"),
        "{said}"
    );
}

#[test]
fn the_help_names_every_directory() {
    let output = Command::new(&kit().cmld).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    for word in ["--base", "--conf", "--logs", "--run", "--init", "CML_LOG"] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn the_log_is_written_to_a_file_of_the_day() {
    let daemon = Daemon::default();
    daemon.control().ok(&["list"]);
    let logs: Vec<_> = fs::read_dir(daemon.path("logs"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_type().unwrap().is_file())
        .collect();
    assert_eq!(logs.len(), 1);
    assert!(
        fs::read_to_string(logs[0].path())
            .unwrap()
            .contains("cmld is ready")
    );
    let current = fs::read_link(daemon.path("logs/cml-daemon.current")).unwrap();
    assert_eq!(current.as_os_str(), logs[0].file_name());
}

#[test]
fn a_provisioned_device_refuses_what_is_not_on_the_list() {
    let mut daemon = Daemon::prepared(Setup::default());
    fs::write(daemon.base().join("_cml_provisioned_"), "").unwrap();
    daemon.start();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    daemon.control().ok(&["start", "web"]);
    daemon.control().refused(&["reload"], "CMD_UNSUPPORTED");
    daemon
        .control()
        .refused(&["remove", "web"], "CMD_UNSUPPORTED");
    let output = daemon.control().run(&["run", "web", "nopty", "true"]);
    assert_eq!(output.status, 1, "{output:?}");
    let state = daemon.control().ok(&["get_provisioned"]);
    assert_eq!(state.value("device_is_provisioned"), "true");
    daemon.control().ok(&["stop", "web"]);
}

#[test]
fn the_daemon_ends_without_waiting_for_long_work() {
    let plain = Setup::default();
    let mut daemon = Daemon::new(Setup {
        device_conf: format!("{}softtoken_format: P12\n", plain.device_conf),
        token: false,
        ..plain
    });
    // It has just begun to make an RSA key, which takes seconds.
    assert!(daemon.stop().success());
    assert!(!daemon.base().join("tokens/device.p12").exists());
    daemon.start();
    daemon.control().ok(&["list"]);
}
