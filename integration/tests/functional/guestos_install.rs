//! Guest OSes that are pushed: from servers of all manners, beside and in the place of each other.

use std::fs;

use cml_integration::{
    Client, Daemon, Host, Setup, eventually,
    http::{Answer, Server},
    https::Https,
    kit::kit,
    package::Package,
};
use cml_wire::proto::{
    ControllerToDaemon, DaemonToController, controller_to_daemon::Command,
    daemon_to_controller::Response,
};

fn files(stems: &[&str]) -> Vec<String> {
    let mut all: Vec<_> = stems
        .iter()
        .flat_map(|stem| ["", ".cert", ".conf", ".sig"].map(|suffix| format!("{stem}{suffix}")))
        .collect();
    all.sort();
    all
}

/// A daemon without any guest OS whose device.conf names this base.
pub fn empty(base: &str) -> Daemon {
    Daemon::new(setup(base))
}

pub fn setup(base: &str) -> Setup {
    let setup = Setup::default();
    Setup {
        guest: false,
        // It fetches from servers of the tests.
        host: Host::TheMachine,
        device_conf: format!("update_base_url: \"{base}\"\n{}", setup.device_conf),
        ..setup
    }
}

pub fn versions(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.control().ok(&["list_guestos"]).out;
    let fields = listed.lines().filter_map(|line| {
        let line = line.strip_prefix("  ")?;
        line.strip_prefix("version: ").map(str::to_owned)
    });
    fields.collect()
}

fn responses(client: &mut Client) -> Vec<DaemonToController> {
    let mut all = Vec::new();
    loop {
        let reply = client.reply().expect("a final reply");
        let last = !matches!(
            reply.response(),
            Response::GuestosMgrInstallStarted | Response::GuestosMgrInstallWaiting
        );
        all.push(reply);
        if last {
            return all;
        }
    }
}

#[test]
fn a_guest_os_is_fetched_installed_and_started_and_fetched_only_once() {
    let server = Server::good();
    let daemon = empty(&server.base);
    let package = Package::new(&daemon, "os", 3, |_| {});
    package.pushed(&daemon);
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/operatingsystems/x86/os-3/root.img");
    assert_eq!(daemon.stored(), files(&["os-3"]));
    daemon.running("web", "os");
    let state = daemon.control().ok(&["state", "web"]);
    assert_eq!(state.value("trust_level"), "SIGNED");
    package.pushed(&daemon);
    assert_eq!(server.asked().len(), 1, "it was there already");
    // What is damaged is fetched again, although its size is right.
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    let path = daemon.store().join("os-3/root.img");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    package.pushed(&daemon);
    assert_eq!(server.asked().len(), 2);
    daemon.control().ok(&["start", "web"]);
}

#[test]
fn replies_are_started_and_completed_and_progress_only_for_those_who_ask() {
    let server = Server::new(|_, _| Answer::Slow(kit().image().into()));
    let daemon = empty(&server.base);
    let codes = |message: &ControllerToDaemon| {
        let mut client = daemon.client();
        client.send(message);
        responses(&mut client)
    };
    let plain = codes(&Package::new(&daemon, "a", 1, |_| {}).message());
    let names: Vec<_> = plain.iter().map(DaemonToController::response).collect();
    assert_eq!(
        names,
        [
            Response::GuestosMgrInstallStarted,
            Response::GuestosMgrInstallCompleted
        ]
    );
    let told = codes(&ControllerToDaemon {
        want_progress: Some(true),
        ..Package::new(&daemon, "b", 1, |_| {}).message()
    });
    let progress: Vec<_> = told.iter().filter_map(|one| one.progress.clone()).collect();
    assert!(!progress.is_empty(), "{told:?}");
    for one in &progress {
        assert_eq!(
            (one.name.as_str(), one.total),
            ("b-1", kit().image().len() as u64)
        );
        assert!(one.done <= one.total);
    }
    let refused = codes(&ControllerToDaemon {
        command: Command::PushGuestosConfig.into(),
        ..Default::default()
    });
    assert_eq!(refused[0].response(), Response::GuestosMgrInstallFailed);
}

#[test]
fn a_cut_download_goes_on_where_it_was_or_from_the_beginning() {
    let server = Server::new(|number, _| match number {
        0 | 1 => Answer::Cut(kit().image().into(), 1000),
        _ => Answer::File(kit().image().into()),
    });
    let daemon = empty(&server.base);
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    let from: Vec<_> = server.asked().iter().map(|asked| asked.from).collect();
    assert_eq!(from, [0, 1000, 2000]);
    // However often, as long as more comes each time.
    let poor = Server::new(|_, asked| {
        let left = kit().image().len() - asked.from;
        match left > 100_000 {
            true => Answer::Cut(kit().image().into(), 100_000),
            false => Answer::File(kit().image().into()),
        }
    });
    let base = poor.base.clone();
    let patient = Package::new(&daemon, "patient", 1, |guest| {
        guest.update_base_url = Some(base);
    });
    patient.pushed(&daemon);
    assert!(poor.asked().len() > 3, "{:?}", poor.asked());
    // One that knows no ranges, and one that had something else in the meantime.
    let ignorant = Server::new(|number, _| match number {
        0 => Answer::Cut(kit().image().into(), 1000),
        _ => Answer::Whole(kit().image().into()),
    });
    let changed = Server::new(|number, _| match number {
        0 => Answer::Cut(vec![7; kit().image().len()].into(), 1000),
        _ => Answer::File(kit().image().into()),
    });
    for (name, server) in [("ignorant", &ignorant), ("changed", &changed)] {
        let base = server.base.clone();
        let package = Package::new(&daemon, name, 1, |guest| {
            guest.update_base_url = Some(base);
        });
        package.pushed(&daemon);
    }
    assert_eq!(
        changed
            .asked()
            .iter()
            .map(|asked| asked.from)
            .collect::<Vec<_>>(),
        [0, 1000, 0]
    );
    daemon.running("web", "ignorant");
}

#[test]
fn what_is_not_the_promised_image_is_refused_and_leaves_nothing() {
    let server = Server::new(|_, asked| {
        let mut wrong = kit().image();
        wrong[100] ^= 1;
        let longer = [kit().image(), vec![0; 1 << 20]].concat();
        let name = asked.path.rsplit('/').nth(1).unwrap().to_owned();
        match name.as_str() {
            "wrong-1" => Answer::File(wrong.into()),
            "longer-1" => Answer::File(longer.into()),
            "endless-1" => Answer::Endless(longer.into()),
            "shorter-1" => Answer::Endless(kit().image()[..5000].into()),
            "absent-1" => Answer::Status("404 Not Found"),
            "broken-1" => Answer::Status("503 Service Unavailable"),
            _ => Answer::File(kit().image().into()),
        }
    });
    let daemon = empty(&server.base);
    for (name, said, requests) in [
        ("wrong", "SHA-256", 1),
        ("longer", "bytes instead of", 1),
        ("endless", "more than", 1),
        ("shorter", "ended after", 3),
        ("absent", "404", 1),
        ("broken", "503", 3),
    ] {
        let before = server.asked().len();
        let error = Package::new(&daemon, name, 1, |_| {}).refused(&daemon);
        assert!(
            error.contains(said) && error.contains(&server.base),
            "{error}"
        );
        assert_eq!(server.asked().len() - before, requests, "{name}");
        assert!(daemon.stored().is_empty(), "{name}: {:?}", daemon.stored());
    }
    Package::new(&daemon, "good", 1, |_| {}).pushed(&daemon);
    assert_eq!(daemon.stored(), files(&["good-1"]));
    let nobody = Package::new(&daemon, "nobody", 1, |guest| {
        // Port 9 is discard; nobody listens there.
        guest.update_base_url = Some("http://127.0.0.1:9".into());
    });
    assert!(nobody.refused(&daemon).contains("127.0.0.1:9"));
}

#[test]
fn nothing_is_fetched_or_written_before_signature_and_configuration_are_good() {
    let server = Server::good();
    let daemon = empty(&server.base);
    let rogue = Package::new(&daemon, "rogue", 1, |_| {});
    rogue.sign("rogue");
    let local = Package::new(&daemon, "local", 1, |_| {});
    local.sign("local");
    let tampered = Package::new(&daemon, "tampered", 1, |_| {});
    let text = fs::read_to_string(&tampered.conf).unwrap();
    fs::write(&tampered.conf, text.replace("version: 1", "version: 2")).unwrap();
    let garbage = Package::new(&daemon, "garbage", 1, |_| {});
    fs::write(&garbage.conf, "this is no configuration").unwrap();
    garbage.sign("ssig_cml");
    for package in [
        rogue,
        local,
        tampered,
        garbage,
        Package::new(&daemon, "zero", 0, |_| {}),
        Package::new(&daemon, "no-hash", 1, |guest| {
            guest.mounts[0].image_sha2_256 = None;
        }),
        Package::new(&daemon, "no-size", 1, |guest| {
            guest.mounts[0].image_size = None;
        }),
        Package::new(&daemon, "huge", 1, |guest| {
            guest.mounts[0].image_size = Some(u64::MAX / 2);
        }),
        Package::new(&daemon, "path", 1, |guest| {
            guest.mounts[0].image_file = "../x".into();
        }),
        Package::new(&daemon, "url", 1, |guest| {
            guest.update_base_url = Some("ftp://127.0.0.1".into());
        }),
    ] {
        let mut client = daemon.client();
        let reply = client.ask(&package.message());
        assert_eq!(reply.response(), Response::GuestosMgrInstallFailed);
        assert!(!reply.error_text().is_empty());
        assert!(daemon.stored().is_empty());
    }
    assert!(server.asked().is_empty());
}

#[test]
fn images_come_from_a_directory_too_and_without_any_base_only_if_they_are_there() {
    let daemon = empty("");
    let package = Package::new(&daemon, "os", 1, |_| {});
    assert!(package.refused(&daemon).contains("update_base_url"));
    let mirror = daemon.path("mirror");
    let base = format!("file://{}", mirror.display());
    let with_base = Package::new(&daemon, "os", 1, |guest| {
        guest.update_base_url = Some(base.clone());
    });
    assert!(with_base.refused(&daemon).contains("No such file"));
    let dir = mirror.join("operatingsystems/x86/os-1");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("root.img"), "short").unwrap();
    assert!(with_base.refused(&daemon).contains("5 bytes"));
    fs::write(dir.join("root.img"), kit().image()).unwrap();
    with_base.pushed(&daemon);
    // Another configuration of the same version, validly signed, takes its place.
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    assert!(
        !fs::read_to_string(daemon.store().join("os-1.conf"))
            .unwrap()
            .contains("file://")
    );
    let words = Package::new(&daemon, "os", 1, |guest| {
        guest.init_env = vec!["A=1".into()]
    });
    words.sign("rogue");
    words.refused(&daemon);
    let listed = daemon.control().ok(&["list_guestos"]).out;
    assert!(!listed.contains("A=1"));
    daemon.running("web", "os");
}

#[test]
fn newer_versions_come_beside_older_ones_which_go_when_nobody_uses_them() {
    let server = Server::good();
    let mut daemon = empty(&server.base);
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    daemon.running("web", "os");
    Package::new(&daemon, "os", 2, |_| {}).pushed(&daemon);
    Package::new(&daemon, "other", 1, |_| {}).pushed(&daemon);
    assert_eq!(versions(&daemon), ["1", "2", "1"]);
    let error = Package::new(&daemon, "os", 1, |_| {}).refused(&daemon);
    assert!(error.contains("version 2"), "{error}");
    daemon.answers("web");
    let version = |daemon: &Daemon| {
        let config = daemon.control().ok(&["config", "web"]);
        config.value("guestos_version")
    };
    // The update takes effect when the daemon starts again, and not before.
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.control().ok(&["start", "web"]);
    assert_eq!(version(&daemon), "1");
    assert_eq!(daemon.stored(), files(&["os-1", "os-2", "other-1"]));
    daemon.stop();
    daemon.start();
    daemon.wait_for_log("moved to the newest guest OS");
    assert_eq!(version(&daemon), "2");
    eventually("the old version is gone", || {
        (daemon.stored() == files(&["os-2", "other-1"])).then_some(())
    });
    assert_eq!(versions(&daemon), ["2", "1"]);
    daemon.control().ok(&["start", "web"]);
    // A reload is the other way, for whoever does not want to wait; what runs goes on with what it has.
    Package::new(&daemon, "os", 3, |_| {}).pushed(&daemon);
    daemon.create("name: \"late\"\nguest_os: \"os\"\nguestos_version: 2\ntoken_type: NONE\n");
    daemon.control().ok(&["reload"]);
    assert_eq!(version(&daemon), "3");
    daemon.answers("web");
    daemon.control().ok(&["stop", "web"]);
    eventually("the old version is gone as well", || {
        (daemon.stored() == files(&["os-3", "other-1"])).then_some(())
    });
}

#[test]
fn a_version_that_a_signed_container_pins_stays() {
    let server = Server::good();
    let setup = setup(&server.base);
    let daemon = Daemon::new(Setup {
        device_conf: setup
            .device_conf
            .replace("signed_configs: false", "signed_configs: true"),
        ..setup
    });
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    let conf = daemon.path("pinned.conf");
    let text =
        "name: \"pinned\"\nguest_os: \"os\"\nguestos_version: 1\ntoken_type: NONE\nnetns: false\n";
    fs::write(&conf, text).unwrap();
    kit().sign(&conf, "ssig_cml");
    let part = |suffix| conf.with_extension(suffix).display().to_string();
    daemon
        .control()
        .ok(&["create", &part("conf"), &part("sig"), &part("cert")]);
    Package::new(&daemon, "os", 2, |_| {}).pushed(&daemon);
    Package::new(&daemon, "os", 3, |_| {}).pushed(&daemon);
    eventually("version 2 is gone", || {
        (versions(&daemon) == ["1", "3"]).then_some(())
    });
    daemon.control().ok(&["start", "pinned"]);
    daemon.control().ok(&["remove", "pinned"]);
    eventually("version 1 is gone", || {
        (daemon.stored() == files(&["os-3"])).then_some(())
    });
}

#[test]
fn a_guest_os_is_removed_with_all_its_files_unless_a_container_uses_it() {
    let server = Server::good();
    let daemon = empty(&server.base);
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    Package::new(&daemon, "os-1", 1, |_| {}).pushed(&daemon);
    let uuid = daemon.create("name: \"web\"\nguest_os: \"os\"\ntoken_type: NONE\n");
    let used = daemon
        .control()
        .refused(&["remove_guestos", "os"], "CMD_FAILED");
    assert!(used.err.contains("`web`"), "{used:?}");
    daemon
        .control()
        .refused(&["remove_guestos", "absent"], "CMD_FAILED");
    daemon
        .control()
        .refused(&["remove_guestos", "../os"], "CMD_FAILED");
    daemon.control().ok(&["remove", &uuid]);
    daemon.control().ok(&["remove_guestos", "os"]);
    assert_eq!(daemon.stored(), files(&["os-1-1"]));
    assert_eq!(versions(&daemon), ["1"]);
    daemon
        .control()
        .refused(&["remove_guestos", "os"], "CMD_FAILED");
    // It can come again, and containers see it at once.
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    daemon.running("web", "os");
}

#[test]
fn a_stalled_installation_holds_nobody_up_and_a_crash_in_it_leaves_nothing() {
    let server = Server::new(|_, asked| match asked.path.contains("stalled") {
        true => Answer::Silence,
        false => Answer::File(kit().image().into()),
    });
    let mut daemon = empty(&server.base);
    let mut clients = Vec::new();
    for number in 0..4 {
        let stalled = Package::new(&daemon, &format!("stalled{number}"), 1, |guest| {
            let second = guest.mounts[0].clone();
            guest.mounts.push(second);
            guest.mounts[1].image_file = "second".into();
            guest.mounts[1].mount_point = "/second".into();
        });
        let mut client = daemon.client();
        let begun = client.ask(&stalled.message());
        assert_eq!(begun.response(), Response::GuestosMgrInstallStarted);
        clients.push(client);
    }
    let again = Package::new(&daemon, "stalled0", 2, |_| {});
    assert!(again.refused(&daemon).contains("already"));
    assert!(versions(&daemon).is_empty());
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    daemon.running("web", "os");
    daemon
        .control()
        .refused(&["remove_guestos", "stalled0"], "CMD_FAILED");
    assert!(daemon.stored().len() > files(&["os-1"]).len());
    daemon.crash();
    daemon.start();
    daemon.wait_for("web", "RUNNING");
    eventually("the left-overs are gone", || {
        (daemon.stored() == files(&["os-1"])).then_some(())
    });
    assert_eq!(versions(&daemon), ["1"]);
}

#[test]
fn a_wrong_tree_of_hashes_is_fetched_again_by_the_next_push() {
    let server = Server::new(|number, asked| match asked.path.ends_with(".hash.img") {
        true if number < 2 => Answer::File(b"<html>error page</html>".to_vec().into()),
        true => Answer::File(b"another page".to_vec().into()),
        false => Answer::File(kit().image().into()),
    });
    let daemon = empty(&server.base);
    let package = Package::new(&daemon, "os", 1, |guest| {
        guest.mounts[0].image_verity_sha256 = Some("00".repeat(32));
    });
    package.pushed(&daemon);
    daemon.wait_for_log("not the tree of hashes");
    package.pushed(&daemon);
    let tree = fs::read(daemon.store().join("os-1/root.hash.img")).unwrap();
    assert_eq!(tree, b"another page");
    let images = server
        .asked()
        .into_iter()
        .filter(|asked| asked.path.ends_with("root.img"));
    assert_eq!(images.count(), 1);
}

#[test]
fn what_runs_keeps_its_version_also_when_its_daemon_dies() {
    let server = Server::good();
    let mut daemon = empty(&server.base);
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    daemon.running("web", "os");
    Package::new(&daemon, "os", 2, |_| {}).pushed(&daemon);
    daemon.crash();
    daemon.start();
    daemon.wait_for("web", "RUNNING");
    daemon.control().ok(&["reload"]);
    Package::new(&daemon, "other", 1, |_| {}).pushed(&daemon);
    assert_eq!(versions(&daemon), ["1", "2", "1"]);
    daemon.answers("web");
    daemon.control().ok(&["stop", "web"]);
    eventually("the old version is gone", || {
        (daemon.stored() == files(&["os-2", "other-1"])).then_some(())
    });
}

#[test]
fn https_is_believed_if_the_machine_trusts_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("operatingsystems/x86/os-1");
    fs::create_dir_all(&images).unwrap();
    // That server sends the file as it is, with its header.
    let header = "HTTP/1.0 200 OK\r\n\r\n";
    fs::write(
        images.join("root.img"),
        [header.as_bytes(), &kit().image()].concat(),
    )
    .unwrap();
    let server = Https::new(dir.path());
    let base = format!("https://127.0.0.1:{}", server.port);
    let trusting = format!("SSL_CERT_FILE={}", dir.path().join("tls.cert").display());
    // The fixture's words live as long as the test binary.
    let trusting: &'static str = Box::leak(trusting.into_boxed_str());
    let believing = Daemon::new(Setup {
        through: vec!["env", trusting],
        ..setup(&base)
    });
    Package::new(&believing, "os", 1, |_| {}).pushed(&believing);
    let doubting = empty(&base);
    let error = Package::new(&doubting, "os", 1, |_| {}).refused(&doubting);
    assert!(error.contains("certificate"), "{error}");
    assert!(doubting.stored().is_empty());
}
