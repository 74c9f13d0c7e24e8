//! The daemon as the unit of a host starts it (images/host/cmld.service).

use std::{fs, os::unix::net::UnixDatagram};

use cml_integration::{Daemon, PATIENCE, eventually, kit::project};
use rustix::process::Signal;

/// A setting of the unit.
fn setting(name: &str) -> String {
    let unit = fs::read_to_string(project().join("images/host/cmld.service")).unwrap();
    let found = unit.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key == name).then(|| value.to_owned())
    });
    found.unwrap_or_else(|| panic!("the unit has no {name}="))
}

/// A program that takes from what it executes the capabilities that the unit takes from the daemon.
fn as_the_unit() -> Vec<&'static str> {
    let set = setting("CapabilityBoundingSet");
    let taken = set.strip_prefix('~').expect("what is taken is listed");
    let taken = taken.split_whitespace().map(|name| {
        let name = name.strip_prefix("CAP_").unwrap().to_lowercase();
        format!("-{name}")
    });
    let set = taken.collect::<Vec<_>>().join(",");
    vec!["setpriv", format!("--bounding-set={set}").leak()]
}

#[test]
fn guests_have_what_they_keep_under_the_bounding_set_of_the_unit() {
    let mut daemon = Daemon::default();
    // What the daemon leaves to a guest must not depend on who has started it.
    let mut facts = Vec::new();
    for through in [Vec::new(), as_the_unit()] {
        daemon.stop();
        daemon = daemon.through(through);
        daemon.start();
        facts.push([true, false].map(|userns| {
            let name = format!("x{userns}{}", facts.len());
            daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
            daemon.facts(&name)["effective"].clone()
        }));
    }
    assert!(facts[0][1].is_string() && facts[0] == facts[1], "{facts:?}");
    let uuid = daemon.running_with("web", "busybox", "userns: false\n");
    let first = daemon.init_pid(&uuid);
    let reboot = ["run", "web", "nopty", "reboot", "-f"];
    let said = daemon.control().run(&reboot);
    eventually(&format!("another init; reboot said {said:?}"), || {
        let running = daemon.state("web") == "RUNNING";
        (running && daemon.init_pid(&uuid) != first).then_some(())
    });
}

#[test]
fn the_service_manager_is_told_when_clients_are_served_and_when_that_ends() {
    assert_eq!(setting("Type"), "notify");
    let daemon = Daemon::default();
    let path = daemon.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut news = [0; 64];
        let length = manager.recv(&mut news).unwrap();
        String::from_utf8(news[..length].to_vec()).unwrap()
    };
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut daemon = daemon.through(vec!["env", variable.leak()]);
    daemon.stop();
    daemon.start();
    assert_eq!(told(), "READY=1");
    daemon.control().ok(&["list"]);
    daemon.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_daemon_that_cannot_start_says_so_once() {
    let daemon = Daemon::prepared(Default::default());
    let path = daemon.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    fs::write(daemon.path("conf/device.conf"), "nonsense: 1\n").unwrap();
    let mut command = daemon.command();
    let ended = command.env("NOTIFY_SOCKET", &path).output().unwrap();
    let status = ended.status.code().unwrap().to_string();
    assert_eq!(status, setting("RestartPreventExitStatus"), "{ended:?}");
    assert!(manager.recv(&mut [0; 64]).is_err(), "it is not ready");
}
