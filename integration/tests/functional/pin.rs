//! The softtoken's PIN guards start and stop.

use std::time::{Duration, Instant};

use cml_integration::{Control, Daemon, IDENTITY, Setup, encrypted};

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
    assert!(daemon.base().join("tokens/device.tok").exists());
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

fn change(control: &Control, container: &[&str], lines: &str) -> String {
    let args = [&["change_pin"], container].concat();
    let output = control.run_with(&args, lines.as_bytes());
    output.value("response")
}

const CHANGED: &str = "CONTAINER_CHANGE_PIN_SUCCESSFUL";
const NOT_CHANGED: &str = "CONTAINER_CHANGE_PIN_FAILED";

#[test]
fn a_container_gets_a_pin_of_its_own_and_the_device_another_one() {
    let mut daemon = Daemon::default();
    let control = daemon.control();
    for name in ["own", "other"] {
        daemon.create(&format!("name: \"{name}\"\nguest_os: \"busybox\"\n"));
    }
    assert_eq!(
        change(&control, &["own"], "guess\nmine\nmine\n"),
        NOT_CHANGED
    );
    assert_eq!(change(&control, &["own"], "trustme\nmine\nmine\n"), CHANGED);
    assert_eq!(change(&control, &[], "trustme\ndevice\ndevice\n"), CHANGED);
    daemon.crash();
    daemon.start();
    control.refused(
        &["start", "own", "--key=device"],
        "CONTAINER_START_PASSWD_WRONG",
    );
    control.ok(&["start", "own", "--key=mine"]);
    control.refused(
        &["start", "other", "--key=trustme"],
        "CONTAINER_START_PASSWD_WRONG",
    );
    control.ok(&["start", "other", "--key=device"]);
    assert_eq!(change(&control, &["own"], "mine\nnewer\nnewer\n"), CHANGED);
    control.ok(&["stop", "own", "--key=newer"]);
    daemon.wait_for("own", "STOPPED");
    control.ok(&["remove", "own"]);
    let tokens = std::fs::read_dir(daemon.base().join("tokens"))
        .unwrap()
        .flatten();
    let mut tokens: Vec<_> = tokens.map(|entry| entry.file_name()).collect();
    tokens.retain(|name| !IDENTITY.iter().any(|identity| name == identity));
    tokens.sort();
    assert_eq!(
        tokens,
        ["device.tok", "ssig_rootca.cert"],
        "nothing of the removed one is left"
    );
}

#[test]
fn three_wrong_pins_lock_the_token_and_no_restart_of_the_daemon_opens_it() {
    let mut daemon = Daemon::default();
    let control = daemon.control();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    let start = ["start", "web", "--key=guess"];
    control.refused(&start, "CONTAINER_START_PASSWD_WRONG");
    daemon.crash();
    daemon.start();
    assert_eq!(change(&control, &[], "guess\nx\nx\n"), NOT_CHANGED);
    daemon.crash();
    daemon.start();
    control.refused(&start, "CONTAINER_LOCKED_TILL_REBOOT");
    daemon.crash();
    daemon.start();
    let right = ["start", "web", "--key=trustme"];
    let locked = control.refused(&right, "CONTAINER_LOCKED_TILL_REBOOT");
    assert!(locked.err.contains("rebooted"), "{locked:?}");
    // What a counter of an earlier boot is worth.
    let counter = daemon.base().join("tokens/device.tries");
    std::fs::write(&counter, r#"{"boot_id":"an earlier one","wrong":3}"#).unwrap();
    control.ok(&right);
    assert!(!counter.exists());
}

#[test]
fn a_right_pin_forgives_two_wrong_ones() {
    let daemon = Daemon::default();
    let control = daemon.control();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    for _ in 0..2 {
        for _ in 0..2 {
            let guess = ["start", "web", "--key=guess"];
            control.refused(&guess, "CONTAINER_START_PASSWD_WRONG");
        }
        control.ok(&["start", "web", "--key=trustme"]);
        control.ok(&["stop", "web", "--key=trustme"]);
        daemon.wait_for("web", "STOPPED");
    }
}

#[test]
fn where_pairing_is_required_a_container_starts_only_with_a_pin_of_its_own() {
    let daemon = Daemon::new(Setup {
        device_conf: "hostedmode: true\ntpm_enabled: false\nsigned_configs: false\n\
            require_token_pairing: true\n"
            .into(),
        ..Setup::default()
    });
    let control = daemon.control();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    // The order of the existing acceptance suite (protocol.md 5.4).
    control.refused(
        &["start", "web", "--key=pw"],
        "CONTAINER_START_TOKEN_UNPAIRED",
    );
    assert_eq!(change(&control, &["web"], "\npw\npw\n"), CHANGED);
    assert_eq!(
        change(&control, &["web"], "wrongpin\npw\npw\n"),
        NOT_CHANGED
    );
    control.ok(&["start", "web", "--key=pw"]);
    control.ok(&["stop", "web", "--key=pw"]);
}

#[test]
fn a_pin_that_protects_nothing_or_nobody_is_refused() {
    let daemon = Daemon::default();
    let control = daemon.control();
    daemon.create("name: \"open\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    assert_eq!(change(&control, &["open"], "trustme\nx\nx\n"), NOT_CHANGED);
    assert_eq!(change(&control, &[], "trustme\n\n\n"), NOT_CHANGED);
    let differ = control.run_with(&["change_pin"], b"trustme\na\nb\n");
    assert_eq!(differ.status, 1, "{differ:?}");
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    control.ok(&["start", "web", "--key=trustme"]);
}

/// SoftHSM as the module of a device, and a place where it keeps its tokens.
fn softhsm(daemon: &Daemon) {
    let modules = daemon.base().join("pkcs11");
    std::fs::create_dir(&modules).unwrap();
    // Where Debian has it; the link is followed to a file that only root may change.
    let found = ["/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm"]
        .map(|dir| std::path::Path::new(dir).join("libsofthsm2.so"));
    let module = found.iter().find(|path| path.exists());
    let module = module.expect("the package softhsm2 is installed");
    std::os::unix::fs::symlink(module, modules.join("softhsm.so")).unwrap();
}

#[test]
fn a_pkcs11_token_protects_a_container_with_its_own_pin() {
    let kept = tempfile::tempdir().unwrap();
    let conf = kept.path().join("softhsm2.conf");
    std::fs::create_dir(kept.path().join("tokens")).unwrap();
    let tokens = kept.path().join("tokens");
    std::fs::write(
        &conf,
        format!("directories.tokendir = {}\n", tokens.display()),
    )
    .unwrap();
    let variable = format!("SOFTHSM2_CONF={}", conf.display());
    let mut daemon = Daemon::prepared(Setup {
        through: vec!["env", variable.leak()],
        ..encrypted::setup()
    });
    daemon.add_guest("persistent", encrypted::persistent);
    softhsm(&daemon);
    daemon.start();
    let control = daemon.control();
    let uuid = daemon.create(
        "name: \"web\"\nguest_os: \"persistent\"\ntoken_type: PKCS11\npkcs11_module: \"softhsm.so\"\n",
    );
    let refused = |pin: &str, response: &str| {
        let key = format!("--key={pin}");
        control.refused(&["start", "web", &key], response);
    };
    refused("1234", "CONTAINER_START_TOKEN_UNPAIRED");
    assert_eq!(
        change(&control, &["web"], "guess\n1234\n1234\n"),
        NOT_CHANGED
    );
    assert_eq!(change(&control, &["web"], "trustme\n1234\n1234\n"), CHANGED);
    refused("trustme", "CONTAINER_START_PASSWD_WRONG");
    control.ok(&["start", "web", "--key=1234"]);
    assert_eq!(encrypted::sh(&daemon, "echo x >/data/x").status, 0);
    control.ok(&["stop", "web", "--key=1234"]);
    daemon.wait_for("web", "STOPPED");
    assert_eq!(change(&control, &["web"], "1234\n56789\n56789\n"), CHANGED);
    daemon.crash();
    daemon.start();
    control.ok(&["start", "web", "--key=56789"]);
    assert_eq!(encrypted::sh(&daemon, "cat /data/x").out, "x\n");
    control.ok(&["stop", "web", "--key=56789"]);
    daemon.wait_for("web", "STOPPED");
    // Away, not gone: no new token takes its place.
    let away = kept.path().join("away");
    daemon.crash();
    std::fs::rename(&tokens, &away).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    daemon.start();
    assert_eq!(
        change(&control, &["web"], "trustme\n1234\n1234\n"),
        NOT_CHANGED
    );
    daemon.crash();
    std::fs::remove_dir_all(&tokens).unwrap();
    std::fs::rename(&away, &tokens).unwrap();
    daemon.start();
    control.ok(&["start", "web", "--key=56789"]);
    control.ok(&["stop", "web", "--key=56789"]);
    daemon.wait_for("web", "STOPPED");
    for pin in ["1", "2"] {
        refused(pin, "CONTAINER_START_PASSWD_WRONG");
    }
    refused("3", "CONTAINER_LOCKED_TILL_REBOOT");
    control.ok(&["remove", "web"]);
    assert!(!daemon.base().join(format!("keys/{uuid}.key")).exists());
}

#[test]
fn a_module_that_anybody_could_replace_is_not_loaded() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::default();
    let modules = daemon.base().join("pkcs11");
    std::fs::create_dir(&modules).unwrap();
    std::fs::write(modules.join("evil.so"), "x").unwrap();
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(modules.join("evil.so"), open).unwrap();
    for module in ["evil.so", "absent.so"] {
        daemon.create(&format!(
            "name: \"{module}\"\nguest_os: \"busybox\"\ntoken_type: PKCS11\n\
             pkcs11_module: \"{module}\"\n"
        ));
        let key = ["start", module, "--key=1234"];
        daemon
            .control()
            .refused(&key, "CONTAINER_START_UNLOCK_FAILED");
    }
}

#[test]
fn a_pin_that_is_to_be_typed_on_a_keypad_is_not_taken_from_the_client() {
    let daemon = Daemon::default();
    daemon.create(
        "name: \"web\"\nguest_os: \"busybox\"\nusb_pin_entry: true\n\
         usb_configs: { id: \"1234:abcd\" serial: \"none\" assign: false type: PIN_ENTRY }\n",
    );
    let refused = daemon.control().refused(
        &["start", "web", "--key=trustme"],
        "CONTAINER_USB_PIN_ENTRY_FAIL",
    );
    assert!(refused.err.contains("1234:abcd"), "{refused:?}");
    assert_eq!(daemon.state("web"), "STOPPED");
}

#[test]
fn another_kind_of_token_wipes_what_the_one_before_has_protected() {
    let (daemon, uuid) = encrypted::prepared("");
    encrypted::start(&daemon);
    let conf = daemon.path("other.conf");
    let lines = "name: \"web\"\nguest_os: \"persistent\"\n";
    std::fs::write(&conf, format!("{lines}ram_limit: 64\n")).unwrap();
    let update = ["update_config", "web", conf.to_str().unwrap()];
    daemon.control().ok(&update);
    assert_eq!(
        daemon.state("web"),
        "RUNNING",
        "nothing changes for its token"
    );
    std::fs::write(&conf, format!("{lines}token_type: NONE\n")).unwrap();
    daemon.control().ok(&update);
    assert_eq!(daemon.state("web"), "STOPPED");
    assert!(encrypted::images(&daemon, &uuid).is_empty());
}
