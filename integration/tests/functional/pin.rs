//! The softtoken's PIN guards start and stop.

use std::time::{Duration, Instant};

use cml_integration::{Daemon, Setup};

#[test]
fn a_wrong_pin_starts_and_stops_nothing() {
    let daemon = Daemon::default();
    let control = daemon.control();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    let wrong = control.refused(
        &["start", "web", "--key=guess"],
        "CONTAINER_START_PASSWD_WRONG",
    );
    assert!(wrong.err.contains("wrong PIN"), "{wrong:?}");
    assert_eq!(daemon.state("web"), "STOPPED");
    control.ok(&["start", "web", "--key=trustme"]);
    control.refused(
        &["stop", "web", "--key=guess"],
        "CONTAINER_STOP_PASSWD_WRONG",
    );
    assert_eq!(daemon.state("web"), "RUNNING");
}

#[test]
fn the_pin_is_asked_for_and_can_be_piped() {
    let daemon = Daemon::default();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    let started = daemon.control().run_with(&["start", "web"], b"trustme\n");
    assert_eq!(
        started.out,
        "Password: code: RESPONSE\nresponse: CONTAINER_START_OK\n"
    );
}

#[test]
fn a_container_without_a_token_asks_for_no_pin_and_ignores_one() {
    let daemon = Daemon::default();
    daemon.create("name: \"open\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let started = daemon.control().run(&["start", "open"]);
    assert_eq!(
        started.out,
        "code: RESPONSE\nresponse: CONTAINER_START_OK\n"
    );
    daemon.control().ok(&["stop", "open", "--key=whatever"]);
}

#[test]
fn a_new_device_makes_its_token_while_it_already_answers() {
    let daemon = Daemon::new(Setup {
        token: false,
        ..Setup::default()
    });
    let control = daemon.control();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    let early = control.run(&["start", "web", "--key=trustme"]);
    if early.status != 0 {
        assert_eq!(
            early.value("response"),
            "CONTAINER_START_TOKEN_UNINIT",
            "{early:?}"
        );
        assert!(early.err.contains("try again"), "{early:?}");
    }
    let end = Instant::now() + Duration::from_secs(120);
    while control.run(&["start", "web", "--key=trustme"]).status != 0 {
        if daemon.state("web") == "RUNNING" {
            break;
        }
        assert!(Instant::now() < end, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(daemon.base().join("tokens/device.p12").exists());
}

#[test]
fn the_pin_is_in_no_log() {
    let daemon = Daemon::default();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    daemon
        .control()
        .run(&["start", "web", "--key=s3cret-guess"]);
    daemon.control().ok(&["start", "web", "--key=trustme"]);
    daemon.wait_for_log("state=\"RUNNING\"");
    let log = daemon.log();
    assert!(!log.contains("s3cret-guess") && !log.contains("trustme"));
}
