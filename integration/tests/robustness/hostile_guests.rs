//! Guests that misbehave: only they have the damage.

use std::time::{Duration, Instant};

use cml_integration::{Daemon, eventually};
use cml_wire::proto::guest_os_config::InitMode;

fn sh(daemon: &Daemon, script: &str) -> cml_integration::Output {
    daemon
        .control()
        .run(&["run", "web", "nopty", "sh", "-c", script])
}

#[test]
fn a_guest_that_floods_its_service_socket_holds_up_nobody() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    for _ in 0..20 {
        let flood = daemon
            .control()
            .ok(&["run", "web", "nopty", "probe", "flood", "service"]);
        assert!(flood.out.trim().parse::<u32>().unwrap() > 10, "{flood:?}");
    }
    assert_eq!(daemon.state("web"), "RUNNING");
    daemon.running("other", "busybox");
    // An honest client of the same guest is served as soon as there is a place.
    let script =
        "probe init service & while ! [ -s /run/name ]; do sleep 0.05; done; cat /run/name";
    assert_eq!(sh(&daemon, script).out, "web");
}

#[test]
fn a_guest_that_reboots_again_and_again_is_slowed_down_and_can_be_stopped() {
    let mut daemon = Daemon::default();
    daemon.add_guest("loop", |guest| {
        guest.init_path = Some("/sbin/reboot".into());
        guest.init_param = vec!["-f".into()];
        guest.set_init_mode(InitMode::InitExec);
    });
    let uuid = daemon.create("name: \"loop\"\nguest_os: \"loop\"\ntoken_type: NONE\n");
    daemon.control().ok(&["start", &uuid]);
    std::thread::sleep(Duration::from_secs(3));
    let launches = daemon.log().matches("state=\"STARTING\"").count();
    // Without a brake a hundred; with it the pauses of 0.2, 0.4, 0.8 and 1.6 s fill the time.
    assert!((2..=8).contains(&launches), "{launches} launches");
    let asked = Instant::now();
    daemon.control().ok(&["stop", &uuid]);
    daemon.wait_for("loop", "STOPPED");
    // The pause at this point would be 3.2 s and more.
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn a_guest_that_says_it_booted_while_it_stops_does_not_run_again() {
    let mut daemon = Daemon::default();
    daemon.add_guest("liar", |guest| {
        guest.init_path = Some("/bin/sh".into());
        // On the polite request it reports a boot instead, and goes only later.
        guest.init_param = vec![
            "-c".into(),
            "trap 'timeout 1 probe init service; exit 0' TERM; while :; do sleep 0.1; done".into(),
        ];
    });
    daemon.running("liar", "liar");
    daemon.control().ok(&["stop", "liar"]);
    eventually("STOPPED", || match daemon.state("liar").as_str() {
        "STOPPED" => Some(()),
        "SHUTDOWN" => None,
        other => panic!("{other} after a stop"),
    });
}

#[test]
fn a_fork_bomb_dies_with_its_container() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    // 300 processes that each left their session: as much as a test machine bears while others run.
    sh(
        &daemon,
        "for i in $(seq 300); do setsid sleep 4243 & done; true",
    );
    daemon.control().ok(&["remove", "web"]);
    let left = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            words == b"sleep\x004243\x00"
        });
    assert_eq!(left.count(), 0);
    assert!(!std::path::Path::new(&format!("/sys/fs/cgroup/unified/cml/{uuid}")).exists());
}

#[test]
fn a_guest_that_covers_its_dev_and_run_can_still_be_entered_or_says_why() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    sh(
        &daemon,
        "mount -t tmpfs none /dev; mount -t tmpfs none /run",
    );
    let entered = daemon.control().run(&["run", "web", "nopty", "echo", "x"]);
    assert!(entered.out == "x\n" || entered.status == 126, "{entered:?}");
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
}

#[test]
fn a_guest_that_ignores_every_request_is_killed_in_the_end() {
    let mut daemon = Daemon::default();
    daemon.add_guest("stubborn", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "stubborn".into()];
        guest.set_init_mode(InitMode::InitExec);
    });
    daemon.running("stubborn", "stubborn");
    let asked = Instant::now();
    daemon.control().ok(&["stop", "stubborn", "--no-wait"]);
    // 45 s by the constant of the existing system (runtime.md 0.5); `eventually` waits longer.
    daemon.wait_for("stubborn", "STOPPED");
    assert!(asked.elapsed() > Duration::from_secs(10), "it got its time");
}
