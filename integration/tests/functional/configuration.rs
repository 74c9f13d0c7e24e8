//! Configurations: what is accepted, what is stored, what is read again.

use std::fs;

use cml_integration::{Daemon, Setup, eventually, kit::kit};

fn signed_device() -> Daemon {
    Daemon::new(Setup {
        device_conf: "hostedmode: true\ntpm_enabled: false\n".into(),
        ..Setup::default()
    })
}

fn stored(daemon: &Daemon) -> usize {
    fs::read_dir(daemon.base().join("containers"))
        .unwrap()
        .count()
}

#[test]
fn what_cannot_be_accepted_says_why_and_stores_nothing() {
    let daemon = Daemon::default();
    let path = daemon.path("bad.conf");
    for (config, said) in [
        ("", "required field `name`"),
        ("name: \"x\"\n", "guest_os"),
        (
            "name: \"x\"\nguest_os: \"busybox\"\nnonsense: 1\n",
            "line 3, column 1",
        ),
        ("name: \"a/b\"\nguest_os: \"busybox\"\n", "a/b"),
        ("name: \"\"\nguest_os: \"busybox\"\n", "name"),
        ("name: \"x\"\nguest_os: \"../../etc\"\n", "../../etc"),
        ("name: \"x\"\nguest_os: \"absent\"\n", "not installed"),
        (
            "name: \"x\"\nguest_os: \"busybox\"\nguestos_version: 9\n",
            "version 9 or newer",
        ),
        ("name: \"x\"\nguest_os: \"busybox\"\ntype: KVM\n", "KVM"),
        (
            "name: \"x\"\nguest_os: \"busybox\"\nfifos: \"../x\"\n",
            "fifos",
        ),
        ("name: \"x", "not closed"),
    ] {
        fs::write(&path, config).unwrap();
        let refused = daemon.control().run(&["create", path.to_str().unwrap()]);
        assert_eq!(refused.status, 1, "{config}: {refused:?}");
        assert_eq!(refused.out, "code: CONTAINER_CONFIG\n", "{config}");
        assert!(refused.err.contains(said), "{config}: {refused:?}");
    }
    assert_eq!(stored(&daemon), 0);
}

#[test]
fn what_is_stored_is_what_an_old_reader_takes() {
    let daemon = Daemon::default();
    let uuid = daemon
        .create("# a comment\r\nname: 'web'\r\nguest_os: \"busybox\"\r\ncolor: 0xff00ffff\r\n");
    let file = daemon.base().join(format!("containers/{uuid}.conf"));
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        "name: \"web\"\nguest_os: \"busybox\"\nguestos_version: 1\ncolor: 4278255615\n\
         type: CONTAINER\ntoken_type: SOFT\n"
    );
}

#[test]
fn with_signed_configurations_only_signed_ones_are_created() {
    let daemon = signed_device();
    let conf = daemon.path("web.conf");
    let (sig, cert) = (daemon.path("web.sig"), daemon.path("web.cert"));
    let all = [&conf, &sig, &cert].map(|path| path.to_str().unwrap().to_owned());
    let text = "name: \"web\"\nguest_os: \"busybox\"\nguestos_version: 1\ntoken_type: NONE\n";
    fs::write(&conf, text).unwrap();
    let refused = |args: &[&str], said: &str| {
        let output = daemon.control().run(args);
        assert_eq!(output.out, "code: CONTAINER_CONFIG\n", "{output:?}");
        assert!(output.err.contains(said), "{output:?}");
    };
    refused(&["create", &all[0]], "not signed");
    kit().sign(&conf, "rogue");
    refused(&["create", &all[0], &all[1], &all[2]], "not trusted");
    kit().sign(&conf, "ssig_cml");
    fs::write(&conf, text.replace("web", "wob")).unwrap();
    refused(
        &["create", &all[0], &all[1], &all[2]],
        "signature does not match",
    );
    assert_eq!(stored(&daemon), 0);

    fs::write(&conf, text).unwrap();
    let created = daemon.control().ok(&["create", &all[0], &all[1], &all[2]]);
    let uuid = created.value("container_uuids");
    let file = daemon.base().join(format!("containers/{uuid}.conf"));
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        text,
        "signed bytes are never changed"
    );
    daemon.control().ok(&["start", "web"]);
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    // Changed behind the daemon's back: not used from the next reload on.
    fs::write(&file, text.replace("busybox", "other")).unwrap();
    daemon.control().ok(&["reload"]);
    assert_eq!(daemon.state("web"), "ZOMBIE");
    let refused = daemon.control();
    let refused = refused.refused(&["start", "web"], "CONTAINER_CTRL_EINTERNAL");
    assert!(refused.err.contains("cannot be used"), "{refused:?}");
}

#[test]
fn reload_takes_new_and_changed_containers_in_and_leaves_running_ones_alone() {
    let daemon = Daemon::default();
    let running = daemon.running("running", "busybox");
    let stopped = daemon.create("name: \"stopped\"\nguest_os: \"busybox\"\n");
    let file = |uuid: &str| daemon.base().join(format!("containers/{uuid}.conf"));
    let rename = |uuid: &str, name: &str| {
        let text = format!("name: \"{name}\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
        fs::write(file(uuid), text).unwrap();
    };
    rename(&running, "renamed-running");
    rename(&stopped, "renamed-stopped");
    rename("22222222-2222-4222-8222-222222222222", "new");
    fs::write(file("33333333-3333-4333-8333-333333333333"), "broken").unwrap();
    daemon.control().ok(&["reload"]);
    let names: Vec<String> = daemon
        .control()
        .ok(&["list"])
        .out
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("name: ")?.to_owned()))
        .collect();
    assert_eq!(
        names,
        [
            "\"running\"",
            "\"renamed-stopped\"",
            "\"new\"",
            "\"33333333-3333-4333-8333-333333333333\""
        ]
    );
    fs::remove_file(file(&stopped)).unwrap();
    daemon.control().ok(&["reload"]);
    let gone = daemon.control().run(&["state", "renamed-stopped"]);
    assert_eq!(gone.status, 1);
}

#[test]
fn containers_are_found_again_in_the_order_they_were_created() {
    let mut daemon = Daemon::default();
    let first = daemon.create("name: \"same\"\nguest_os: \"busybox\"\n");
    for _ in 0..8 {
        daemon.create("name: \"same\"\nguest_os: \"busybox\"\n");
    }
    daemon.stop();
    daemon.start();
    assert_eq!(daemon.control().ok(&["state", "same"]).value("uuid"), first);
}

#[test]
fn a_container_whose_guest_os_is_gone_is_listed_and_says_so_when_started() {
    let mut daemon = Daemon::default();
    daemon.add_guest("passing", |_| {});
    daemon.stop();
    daemon.start();
    daemon.create("name: \"x\"\nguest_os: \"passing\"\ntoken_type: NONE\n");
    daemon.stop();
    fs::remove_file(daemon.store().join("passing-1.conf")).unwrap();
    daemon.start();
    let state = daemon.control().ok(&["state", "x"]);
    assert_eq!(state.value("guestos"), "none");
    assert_eq!(state.value("trust_level"), "UNSIGNED");
    let refused = daemon
        .control()
        .refused(&["start", "x"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("not installed"), "{refused:?}");
}

#[test]
fn reloads_creations_and_removals_at_the_same_time_lose_and_double_nothing() {
    let daemon = Daemon::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    let uuids = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    daemon.control().ok(&["reload"]);
                }
            });
        }
        let mut kept = Vec::new();
        for index in 0..30 {
            let uuid = daemon.create(&format!(
                "name: \"c{index}\"\nguest_os: \"busybox\"\ntoken_type: NONE\n"
            ));
            if index % 3 == 0 {
                daemon.control().ok(&["remove", &uuid]);
                continue;
            }
            if index % 3 == 1 {
                daemon.control().ok(&["start", &uuid]);
            }
            kept.push(uuid);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        kept
    });
    let listed = daemon.control().ok(&["list"]).out;
    let listed: Vec<_> = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("uuid: "))
        .map(|uuid| uuid.trim_matches('"').to_owned())
        .collect();
    assert_eq!(listed.len(), uuids.len(), "{listed:?}");
    for uuid in &uuids {
        assert!(listed.contains(uuid));
    }
    assert!(
        !daemon.log().contains("adopted"),
        "no container got a second actor"
    );
}

#[test]
fn reload_takes_in_a_guest_os_that_was_put_into_the_store() {
    let mut daemon = Daemon::prepared(Setup::default());
    daemon.add_guest("later", |_| {});
    let hidden = daemon.path("later-1.conf");
    let conf = daemon.store().join("later-1.conf");
    fs::rename(&conf, &hidden).unwrap();
    daemon.start();
    let has = |daemon: &Daemon| {
        daemon
            .control()
            .ok(&["list_guestos"])
            .out
            .contains("\"later\"")
    };
    assert!(!has(&daemon));
    fs::rename(&hidden, &conf).unwrap();
    daemon.control().ok(&["reload"]);
    assert!(has(&daemon));
}

/// Sends a configuration for a container; the name it has then, or nothing when it was refused.
fn update(daemon: &Daemon, container: &str, config: &str) -> Result<String, String> {
    let path = daemon.path("update.conf");
    fs::write(&path, config).unwrap();
    let output = daemon
        .control()
        .run(&["update_config", container, path.to_str().unwrap()]);
    match output.status {
        0 => Ok(output.value("name")),
        _ => {
            assert!(!output.out.contains("uuids"), "{output:?}");
            Err(output.err)
        }
    }
}

#[test]
fn an_update_of_a_stopped_container_counts_at_once_and_that_of_a_running_one_when_it_stops() {
    // Row 12 of the existing acceptance suite (protocol.md 5.4).
    let mut daemon = Daemon::default();
    let config =
        |name: &str| format!("name: \"{name}\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let uuid = daemon.create(&config("old"));
    assert_eq!(update(&daemon, &uuid, &config("new")).unwrap(), "new");
    daemon.control().ok(&["start", "new"]);
    assert_eq!(daemon.facts("new")["hostname"], "new");
    assert_eq!(update(&daemon, &uuid, &config("old")).unwrap(), "old");
    assert_eq!(daemon.control().ok(&["config", "new"]).value("name"), "old");
    assert_eq!(daemon.control().ok(&["state", &uuid]).value("name"), "new");
    daemon.control().ok(&["stop", &uuid]);
    daemon.wait_for(&uuid, "STOPPED");
    daemon.control().ok(&["start", "old"]);
    assert_eq!(daemon.facts("old")["hostname"], "old");
    // Also when the guest is restarted in between, and when the daemon is.
    update(&daemon, &uuid, &config("third")).unwrap();
    daemon
        .control()
        .run(&["run", &uuid, "nopty", "reboot", "-f"]);
    eventually("the new name", || {
        let state = daemon.control().ok(&["state", &uuid]);
        (state.value("name") == "third").then_some(())
    });
    daemon.wait_for("third", "RUNNING");
    update(&daemon, &uuid, &config("fourth")).unwrap();
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("third"), "RUNNING");
    daemon.control().ok(&["stop", &uuid]);
    daemon.wait_for(&uuid, "STOPPED");
    assert_eq!(daemon.state("fourth"), "STOPPED");
}

#[test]
fn an_update_that_cannot_be_accepted_changes_nothing() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"x\"\nguest_os: \"busybox\"\n");
    let file = daemon.base().join(format!("containers/{uuid}.conf"));
    let before = fs::read(&file).unwrap();
    for (config, said) in [
        ("name: \"x\"\n", "guest_os"),
        ("name: \"x\"\nguest_os: \"absent\"\n", "not installed"),
        ("name: \"a/b\"\nguest_os: \"busybox\"\n", "a/b"),
        (
            "name: \"x\"\nguest_os: \"busybox\"\ntoken_type: PAPER\n",
            "token_type",
        ),
        (
            "name: \"x\"\nguest_os: \"busybox\"\ntoken_type: USB\n",
            "USB is not supported",
        ),
        (
            "name: \"x\"\nguest_os: \"busybox\"\ntoken_type: PKCS11\n",
            "pkcs11_module",
        ),
    ] {
        let refused = update(&daemon, "x", config).unwrap_err();
        assert!(refused.contains(said), "{config}: {refused}");
    }
    assert_eq!(fs::read(&file).unwrap(), before);
    let stranger = update(&daemon, "nobody", "").unwrap_err();
    assert!(stranger.contains("does not exist"), "{stranger}");
}

#[test]
fn with_signed_configurations_an_update_must_be_signed_too() {
    let daemon = signed_device();
    let conf = daemon.path("web.conf");
    let text = "name: \"web\"\nguest_os: \"busybox\"\nguestos_version: 1\ntoken_type: NONE\n";
    let send = |command: &[&str], signed: bool| {
        let parts = match signed {
            true => vec!["conf", "sig", "cert"],
            false => vec!["conf"],
        };
        let paths = parts
            .iter()
            .map(|suffix| daemon.path(&format!("web.{suffix}")).display().to_string());
        let words = command.iter().map(ToString::to_string).chain(paths);
        let words: Vec<_> = words.collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        daemon.control().run(&words)
    };
    fs::write(&conf, text).unwrap();
    kit().sign(&conf, "ssig_cml");
    assert_eq!(send(&["create"], true).status, 0);
    fs::write(&conf, text.replace("web", "renamed")).unwrap();
    assert!(
        send(&["update_config", "web"], true)
            .err
            .contains("signature does not match")
    );
    kit().sign(&conf, "ssig");
    assert!(
        send(&["update_config", "web"], false)
            .err
            .contains("not signed")
    );
    assert_eq!(
        send(&["update_config", "web"], true).value("name"),
        "renamed"
    );
    daemon.control().ok(&["reload"]);
    daemon.control().ok(&["start", "renamed"]);
}
