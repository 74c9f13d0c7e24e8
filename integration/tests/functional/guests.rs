//! Guests of different manners, and guest OSes that cannot be trusted.

use std::fs;

use cml_integration::{Daemon, Setup, kit::kit};
use cml_wire::proto::{GuestOsConfig, guest_os_config::BootReport};

fn probe_as_init(words: &[&str]) -> impl FnOnce(&mut GuestOsConfig) + use<> {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    move |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = words;
    }
}

#[test]
fn a_guest_that_reports_is_booting_until_it_has_and_learns_its_name() {
    let mut daemon = Daemon::default();
    daemon.add_guest("reports", |guest| {
        probe_as_init(&["init", "service"])(guest);
        guest.set_boot_report(BootReport::BootService);
    });
    daemon.add_guest("silent", |guest| {
        probe_as_init(&["init", "silent"])(guest);
        guest.set_boot_report(BootReport::BootService);
    });
    let config = |name: &str| {
        format!(
            "name: \"{name}\"\nguest_os: \"{name}\"\ntoken_type: NONE\ndns_server: \"192.0.2.7\"\n"
        )
    };
    daemon.create(&config("reports"));
    daemon.create(&config("silent"));
    for name in ["reports", "silent"] {
        daemon.control().ok(&["start", name]);
    }
    daemon.wait_for("reports", "RUNNING");
    let told = daemon
        .control()
        .ok(&["run", "reports", "nopty", "cat", "/run/name", "/run/dns"]);
    assert_eq!(told.out, "reports192.0.2.7");
    assert_eq!(daemon.state("silent"), "BOOTING");
    // The guest ends by the message alone: as process 1 it has no handler for a signal.
    for name in ["reports", "silent"] {
        daemon.control().ok(&["stop", name]);
        daemon.wait_for(name, "STOPPED");
    }
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let mut daemon = Daemon::default();
    daemon.add_guest("no-init", |guest| {
        guest.init_path = Some("/sbin/absent".into())
    });
    daemon.add_guest("no-exec", |guest| {
        guest.init_path = Some("/etc/passwd".into())
    });
    daemon.add_guest("bad-fs", |guest| guest.mounts[0].fs_type = "ext4".into());
    for (guest, said) in [
        ("no-init", "/sbin/absent"),
        ("no-exec", "/etc/passwd"),
        ("bad-fs", "root.img"),
    ] {
        let uuid = daemon.create(&format!(
            "name: \"{guest}\"\nguest_os: \"{guest}\"\ntoken_type: NONE\n"
        ));
        let refused = daemon
            .control()
            .refused(&["start", &uuid], "CONTAINER_START_EINTERNAL");
        assert!(refused.err.contains(said), "{refused:?}");
        assert_eq!(daemon.state(guest), "STOPPED");
    }
}

#[test]
fn a_tampered_image_is_not_started() {
    let daemon = Daemon::default();
    let image = daemon.store().join("busybox-1/root.img");
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, &bytes).unwrap();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("SHA-256"), "{refused:?}");
    bytes.push(0);
    fs::write(&image, &bytes).unwrap();
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("bytes"), "{refused:?}");
    fs::remove_file(&image).unwrap();
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("push_guestos_config"), "{refused:?}");
}

#[test]
fn an_image_is_verified_again_when_it_is_mounted_anew_but_not_for_a_sibling() {
    let daemon = Daemon::default();
    daemon.running("a", "busybox");
    // What a process holds open cannot be replaced under it: another file takes the name.
    let image = daemon.store().join("busybox-1/root.img");
    fs::remove_file(&image).unwrap();
    fs::write(&image, "other").unwrap();
    daemon.running("b", "busybox");
    for name in ["a", "b"] {
        daemon.control().ok(&["stop", name]);
        daemon.wait_for(name, "STOPPED");
    }
    daemon
        .control()
        .refused(&["start", "a"], "CONTAINER_START_EINTERNAL");
}

#[test]
fn only_trusted_signers_bring_a_guest_os_in() {
    let daemon = Daemon::prepared(Setup::default());
    let text = fs::read_to_string(kit().store.join("busybox-1.conf")).unwrap();
    for signer in [
        "ssig_cml",
        "ssig",
        "ssig_ec",
        "local",
        "rogue",
        "ssig_expired",
    ] {
        let named = text.replacen("\"busybox\"", &format!("\"{signer}\""), 1);
        let conf = daemon.store().join(format!("{signer}-1.conf"));
        fs::write(&conf, named).unwrap();
        kit().sign(&conf, signer);
        daemon.add_image(&format!("{signer}-1"), "root");
    }
    let conf = daemon.store().join("ssig-1.conf");
    let changed = fs::read_to_string(&conf)
        .unwrap()
        .replace("busybox", "busybix");
    fs::write(daemon.store().join("tampered-1.conf"), changed).unwrap();
    for suffix in ["sig", "cert"] {
        let copy = daemon.store().join(format!("tampered-1.{suffix}"));
        fs::copy(daemon.store().join(format!("ssig-1.{suffix}")), copy).unwrap();
    }
    fs::create_dir(daemon.store().join("tampered-1")).unwrap();
    let mut daemon = daemon;
    daemon.start();
    let listed = daemon.control().ok(&["list_guestos"]).out;
    let has = |name: &str| listed.contains(&format!("name: \"{name}\""));
    for trusted in ["busybox", "ssig_cml", "ssig", "ssig_ec"] {
        assert!(has(trusted), "{trusted}\n{}", daemon.log());
    }
    for refused in ["local", "rogue", "ssig_expired", "tampered"] {
        assert!(!has(refused), "{refused}");
        daemon.wait_for_log(&format!("guestos=\"{refused}-1\""));
    }
}

#[test]
fn locally_signed_guests_run_only_where_the_device_allows_it_and_are_called_so() {
    let mut daemon = Daemon::prepared(Setup {
        device_conf: "hostedmode: true\ntpm_enabled: false\nsigned_configs: false\n\
            locally_signed_images: true\n"
            .into(),
        ..Setup::default()
    });
    let root = "localca_rootca.cert";
    fs::copy(
        kit().pki.join(root),
        daemon.base().join("tokens").join(root),
    )
    .unwrap();
    daemon.add_guest("home-made", |_| {});
    kit().sign(&daemon.store().join("home-made-1.conf"), "local");
    daemon.start();
    daemon.create("name: \"x\"\nguest_os: \"home-made\"\n");
    let state = daemon.control().ok(&["state", "x"]);
    assert_eq!(state.value("trust_level"), "LOCALLY_SIGNED");
}

#[test]
fn containers_take_the_newest_version_and_write_it_down() {
    let mut daemon = Daemon::prepared(Setup::default());
    daemon.add_guest("os", |guest| guest.version = 3);
    daemon.add_guest("os", |guest| guest.version = 12);
    daemon.start();
    let uuid = daemon.create("name: \"x\"\nguest_os: \"os\"\n");
    let config = daemon.control().ok(&["config", &uuid]);
    assert_eq!(config.value("guestos_version"), "12");
}
