//! Machines with control groups of version 1 only, and of version 2 only. The machine's own, usually both,
//! are what all other tests run on.

use cml_integration::{Daemon, Groups, Setup};

/// `seconds` tells the processes of this test from those of others.
fn whole_life_on(groups: Groups, seconds: &str) {
    let mut daemon = Daemon::new(Setup {
        groups,
        ..Setup::default()
    });
    let control = daemon.control();
    let uuid = daemon.running("web", "busybox");
    assert_eq!(daemon.facts("web")["hostname"], "web");
    control.ok(&["freeze", "web"]);
    assert_eq!(daemon.state("web"), "FROZEN");
    control.ok(&["unfreeze", "web"]);
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("web"), "RUNNING");
    let pid = daemon.init_pid(&uuid);
    // Processes that left their session and parent go with the container all the same.
    let script = format!("setsid sleep {seconds} & setsid sleep {seconds} & true");
    daemon
        .control()
        .ok(&["run", "web", "nopty", "sh", "-c", &script]);
    daemon.control().ok(&["freeze", "web"]);
    daemon.control().ok(&["remove", "web"]);
    cml_integration::eventually("the end of init", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    let left = std::fs::read_dir("/proc").unwrap().flatten();
    let left = left.filter(|entry| {
        let words = std::fs::read_to_string(entry.path().join("cmdline"));
        words.is_ok_and(|words| words == format!("sleep\0{seconds}\0"))
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn containers_live_and_die_on_version_1_alone() {
    whole_life_on(Groups::OnlyV1, "4244");
}

#[test]
fn containers_live_and_die_on_version_2_alone() {
    whole_life_on(Groups::OnlyV2, "4245");
}
