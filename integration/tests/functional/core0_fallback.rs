//! Updates of `core0` that come to nothing: the device stays within reach of whoever repairs it.

use std::{fs, os::unix::process::ExitStatusExt, path::PathBuf};

use cml_integration::{Daemon, eventually, kit::kit, package::Package};
use cml_wire::proto::{GuestOsConfig, guest_os_config::InitMode};

use crate::core0::{
    CORE0, Device, RESTARTED, SWITCHED_OFF, device_from, end, inside, with_control,
};

const AUDITED: &str = "signed_configs: false\naudit_size: 1";

/// A file of `core0` in the store of containers.
fn file(daemon: &Daemon, suffix: &str) -> PathBuf {
    daemon.base().join(format!("containers/{CORE0}.{suffix}"))
}

/// A guest OS whose init is this script.
fn init(script: &'static str) -> impl Fn(&mut GuestOsConfig) {
    move |guest| {
        with_control(guest);
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), script.into()];
        guest.set_init_mode(InitMode::InitExec);
    }
}

/// A guest OS that cannot even be launched.
fn without_init(guest: &mut GuestOsConfig) {
    guest.init_path = Some("/no/such/init".into());
}

/// Pushes a version of the guest OS of `core0` whose image is there.
fn push(daemon: &Daemon, version: u64, change: impl Fn(&mut GuestOsConfig)) {
    daemon.add_image(&format!("coreos-{version}"), "root");
    Package::new(daemon, "coreos", version, change).pushed(daemon);
}

/// Stores another configuration of `core0`, signed or not.
fn update(daemon: &Daemon, config: &str, signed: bool) {
    let conf = daemon.path("update.conf");
    fs::write(&conf, config).unwrap();
    let mut words = vec!["update_config".into(), CORE0.into()];
    words.push(conf.display().to_string());
    if signed {
        kit().sign(&conf, "ssig_cml");
        words.extend(["sig", "cert"].map(|part| conf.with_extension(part).display().to_string()));
    }
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    daemon.control().ok(&words);
}

/// Waits until a configuration with these words has proven itself.
#[track_caller]
fn proven(daemon: &Daemon, words: &str) {
    let words = words.replace('"', "\\\"");
    eventually("core0 has run well", || {
        let remembered = fs::read_to_string(file(daemon, "proven")).ok()?;
        remembered.contains(&words).then_some(())
    });
}

/// Waits until `core0` runs with these words in its configuration and commands the device from inside.
#[track_caller]
fn commands_with(daemon: &Daemon, words: &str) {
    let record = daemon.path(&format!("run/cmld/containers/{CORE0}.json"));
    eventually(&format!("core0 with {words}"), || {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
        let config = record["running"]["config"].as_str()?;
        let right = config.contains(words) && inside(daemon, CORE0, &["list"]).status == 0;
        right.then_some(())
    });
}

/// Restarts the device from inside `core0`.
fn restart(daemon: &mut Device, meanwhile: impl FnOnce(&Daemon)) {
    inside(daemon, CORE0, &["reboot"]);
    assert_eq!(daemon.wait().signal(), RESTARTED, "{}", daemon.log());
    meanwhile(daemon);
    daemon.start();
}

#[test]
fn a_guest_os_of_core0_whose_init_fails_gives_way_to_the_version_before_until_a_good_one_comes() {
    let mut daemon = device_from(AUDITED, |_| {});
    proven(&daemon, "guestos_version: 1");
    push(&daemon, 2, init("exit 7"));
    restart(&mut daemon, |_| {});
    commands_with(&daemon, "guestos_version: 1");
    daemon.wait_for_log("core0 came to nothing 3 times in a row");
    let log = daemon.log();
    let said = log.lines().find(|line| line.contains("3 times in a row"));
    for words in [
        "ERROR",
        "`c0` with coreos version 2",
        "init returned 7",
        "coreos version 1",
    ] {
        assert!(said.unwrap().contains(words), "{said:?}");
    }
    eventually("a record in the audit log", || {
        let records = daemon.control().ok(&["--format", "json", "audit", "list"]);
        records.out.contains("container-fallback").then_some(())
    });
    let used = daemon
        .control()
        .refused(&["remove_guestos", "coreos"], "CMD_FAILED");
    assert!(used.err.contains("`c0`"), "{used:?}");
    // The bad version is tried at every boot, and is no reason to forget the good one.
    restart(&mut daemon, |_| {});
    commands_with(&daemon, "guestos_version: 1");
    push(&daemon, 3, with_control);
    restart(&mut daemon, |_| {});
    commands_with(&daemon, "guestos_version: 3");
    assert!(!daemon.log().contains("times in a row"), "{}", daemon.log());
    end(daemon, &["poweroff"], SWITCHED_OFF);
}

#[test]
fn a_configuration_of_core0_that_cannot_be_started_gives_way_to_the_one_before_and_stays_stored() {
    let mut daemon = device_from(AUDITED, |daemon| {
        daemon.add_guest("broken", without_init);
        fs::create_dir_all(daemon.base().join("containers")).unwrap();
        let config = "name: \"first\"\nguest_os: \"coreos\"\n";
        fs::write(file(daemon, "conf"), config).unwrap();
    });
    proven(&daemon, "name: \"first\"");
    update(&daemon, "name: \"second\"\nguest_os: \"broken\"\n", false);
    restart(&mut daemon, |_| {});
    commands_with(&daemon, "name: \"first\"");
    let control = daemon.control();
    assert_eq!(control.ok(&["config", CORE0]).value("name"), "second");
    assert_eq!(control.ok(&["state", CORE0]).value("name"), "first");
    // Nor does one that nobody can read.
    restart(&mut daemon, |daemon| {
        fs::write(file(daemon, "conf"), "garbage").unwrap();
    });
    commands_with(&daemon, "name: \"first\"");
    daemon.wait_for_log("its configuration is not usable");
    update(&daemon, "name: \"third\"\nguest_os: \"coreos\"\n", false);
    restart(&mut daemon, |_| {});
    commands_with(&daemon, "name: \"third\"");
    end(daemon, &["control", "reboot"], RESTARTED);
}

#[test]
fn a_core0_that_never_ran_well_gives_way_to_the_built_in_one() {
    let daemon = device_from(AUDITED, |daemon| {
        // Its end is no failure, and yet no reason to switch the device off.
        daemon.add_guest("done", init("exit 0"));
        fs::create_dir_all(daemon.base().join("containers")).unwrap();
        let config = "name: \"first\"\nguest_os: \"done\"\n";
        fs::write(file(daemon, "conf"), config).unwrap();
    });
    commands_with(&daemon, "name: \"c0\"");
    daemon.wait_for_log("as it is without a configuration");
    end(daemon, &["poweroff"], SWITCHED_OFF);
}

#[test]
fn a_signed_configuration_of_core0_is_verified_again_before_it_is_gone_back_to() {
    let mut daemon = device_from("signed_configs: true", |daemon| {
        daemon.add_guest("broken", without_init);
        fs::create_dir_all(daemon.base().join("containers")).unwrap();
        let config = "name: \"first\"\nguest_os: \"coreos\"\nguestos_version: 1\n";
        fs::write(file(daemon, "conf"), config).unwrap();
        kit().sign(&file(daemon, "conf"), "ssig_cml");
    });
    proven(&daemon, "name: \"first\"");
    let update_to = "name: \"second\"\nguest_os: \"broken\"\nguestos_version: 1\n";
    update(&daemon, update_to, true);
    restart(&mut daemon, |_| {});
    commands_with(&daemon, "name: \"first\"");
    // Nobody signed for this one.
    restart(&mut daemon, |daemon| {
        let remembered = fs::read_to_string(file(daemon, "proven")).unwrap();
        let changed = remembered.replace("first", "other");
        assert_ne!(remembered, changed);
        fs::write(file(daemon, "proven"), changed).unwrap();
    });
    commands_with(&daemon, "name: \"c0\"");
    assert!(!daemon.log().contains("`other` with"), "{}", daemon.log());
    end(daemon, &["poweroff"], SWITCHED_OFF);
}
