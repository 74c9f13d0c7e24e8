//! Encrypted volumes: what is written can be read again with the PIN and by nobody without it.

use std::{fs, path::PathBuf, process::Command};

use cml_integration::{
    Daemon,
    encrypted::{self, images, persistent, prepared, setup, sh, start, stop, volume},
    shows,
};
use cml_wire::proto::{GuestOsMount, guest_os_mount::Type};

/// The name of a file and a word in it; neither may ever be seen on the disk.
const NAME: &str = "file-that-nobody-should-see";
const MARKER: &str = "marker-that-nobody-should-read";

fn contains(path: &PathBuf, word: &str) -> bool {
    let grep = Command::new("grep")
        .arg("-qaF")
        .arg(word)
        .arg(path)
        .status();
    grep.unwrap().success()
}

#[test]
fn what_a_container_writes_is_there_again_and_nowhere_to_be_read() {
    for userns in [true, false] {
        let (daemon, uuid) = prepared(&format!("userns: {userns}\n"));
        start(&daemon);
        let write = format!(
            "echo {MARKER} >/data/{NAME} && echo {MARKER} >/etc/{NAME} && rm /etc/passwd && sync"
        );
        assert_eq!(sh(&daemon, &write).status, 0, "{:?}", sh(&daemon, "mount"));
        stop(&daemon);
        let images = images(&daemon, &uuid);
        assert!(images.len() >= 2, "{images:?}");
        for image in &images {
            assert!(
                !contains(image, MARKER) && !contains(image, NAME),
                "{image:?}"
            );
        }
        let wrong = ["start", "web", "--key=guess"];
        daemon
            .control()
            .refused(&wrong, "CONTAINER_START_PASSWD_WRONG");
        let nothing = daemon.control().run(&["start", "web", "--key="]);
        assert_eq!(nothing.value("response"), "CONTAINER_START_PASSWD_WRONG");
        start(&daemon);
        let read = sh(
            &daemon,
            &format!("cat /data/{NAME} /etc/{NAME}; ls /etc/passwd"),
        );
        assert_eq!(read.out, format!("{MARKER}\n{MARKER}\n"), "{read:?}");
        assert_ne!(read.status, 0, "what was deleted is back");
        stop(&daemon);
    }
}

#[test]
fn a_guest_that_reboots_has_its_volumes_without_a_pin() {
    let (daemon, _) = prepared("");
    start(&daemon);
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    sh(&daemon, "reboot -f");
    daemon.wait_for_log("REBOOTING");
    daemon.wait_for("web", "RUNNING");
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    stop(&daemon);
    start(&daemon);
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    stop(&daemon);
}

/// Before Linux 6.15 nobody learns that a guest which is not his child has rebooted: it has just ended.
fn tells_how_strangers_end() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[test]
fn a_container_outlives_its_daemon_with_its_volumes_and_stops_without_a_trace() {
    let (mut daemon, _) = prepared("");
    start(&daemon);
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    daemon.crash();
    daemon.start();
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    // Nobody has its key any more, so its reboot is its end.
    sh(&daemon, "reboot -f");
    daemon.wait_for("web", "STOPPED");
    if tells_how_strangers_end() {
        daemon.wait_for_log("nobody has given the PIN");
    }
    start(&daemon);
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    stop(&daemon);
}

#[test]
fn the_status_says_how_a_container_is_encrypted() {
    let (daemon, _) = prepared("");
    daemon.create("name: \"plain\"\nguest_os: \"busybox\"\n");
    let mode = |name: &str| {
        let state = daemon.control().ok(&["state", name]);
        state.value("cryptfs_mode")
    };
    assert_eq!(mode("web"), encrypted::mode());
    assert_eq!(mode("plain"), "NOT_IMPLEMENTED");
    start(&daemon);
    assert_eq!(mode("web"), encrypted::mode());
    stop(&daemon);
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_container_of_long_ago_keeps_its_tables_until_it_is_wiped() {
    let (daemon, uuid) = prepared("");
    let mode = || {
        let state = daemon.control().ok(&["state", "web"]);
        state.value("cryptfs_mode")
    };
    // What tells it from a present one (crypto.md 5.2).
    let dir = daemon.base().join("containers").join(&uuid);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("other.meta.img"), "").unwrap();
    start(&daemon);
    assert_eq!(mode(), "AUTHENC");
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    stop(&daemon);
    start(&daemon);
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    stop(&daemon);
    assert_eq!(mode(), "AUTHENC");
    daemon.control().ok(&["wipe", "web"]);
    start(&daemon);
    assert_eq!(mode(), "INTEGRITY_ENCRYPT");
    assert_ne!(sh(&daemon, "ls /data/x").status, 0);
    stop(&daemon);
}

#[test]
fn a_container_has_exactly_the_room_that_its_volume_says() {
    let (daemon, _) = prepared("image_sizes: { image_name: \"data\" image_size: 12 }\n");
    start(&daemon);
    let full = sh(&daemon, "head -c 20m /dev/zero >/data/x; wc -c </data/x");
    let written: u64 = full.out.trim().parse().unwrap();
    assert!((6 << 20..12 << 20).contains(&written), "{full:?}");
    // The root has its own room.
    assert_eq!(sh(&daemon, "head -c 4m /dev/zero >/etc/x").status, 0);
    stop(&daemon);
}

#[test]
fn a_size_that_the_guest_os_does_not_allow_or_the_disk_does_not_have_is_refused() {
    let mut daemon = Daemon::prepared(setup());
    daemon.add_guest("bounded", |guest| {
        guest.mounts.push(GuestOsMount {
            max_size: Some(20),
            ..volume(Type::Empty, "data", "/data")
        });
    });
    daemon.add_guest("huge", |guest| {
        guest.mounts.push(GuestOsMount {
            max_size: Some(u32::MAX),
            image_size: Some(u64::from(u32::MAX)),
            ..volume(Type::Empty, "data", "/data")
        });
    });
    daemon.start();
    for (lines, said) in [
        (
            "guest_os: \"bounded\"\nimage_sizes: { image_name: \"data\" image_size: 21 }\n",
            "10 to 20 MiB",
        ),
        ("guest_os: \"huge\"\n", "must stay free"),
    ] {
        let conf = daemon.path("bad.conf");
        fs::write(&conf, format!("name: \"web\"\n{lines}")).unwrap();
        let refused = daemon.control().run(&["create", conf.to_str().unwrap()]);
        assert_eq!(refused.status, 1);
        assert!(refused.err.contains(said), "{refused:?}");
    }
    let left = fs::read_dir(daemon.base().join("containers")).unwrap();
    assert_eq!(left.count(), 0, "nothing was written");
}

#[test]
fn without_a_way_to_encrypt_nothing_is_written() {
    if !shows(
        !encrypted::by_device_mapper(),
        "device-mapper needs no leave",
    ) {
        return;
    }
    let mut daemon = Daemon::default();
    daemon.add_guest("persistent", persistent);
    let uuid = daemon.create("name: \"web\"\nguest_os: \"persistent\"\n");
    let refused = daemon.control().refused(
        &["start", "web", "--key=trustme"],
        "CONTAINER_START_EINTERNAL",
    );
    assert!(refused.err.contains("storage_fallback"), "{refused:?}");
    assert!(images(&daemon, &uuid).is_empty());
    let keys = fs::read_dir(daemon.base().join("keys")).unwrap();
    assert_eq!(keys.count(), 0, "nor a key made");
    // Nor without a key.
    daemon.create("name: \"none\"\nguest_os: \"persistent\"\ntoken_type: NONE\n");
    daemon
        .control()
        .refused(&["start", "none"], "CONTAINER_START_EINTERNAL");
}

#[test]
fn options_that_the_kernel_does_not_know_lose_no_data() {
    let mut daemon = Daemon::prepared(setup());
    for (name, options) in [("persistent", ""), ("optional", "no-such-option,discard")] {
        daemon.add_guest(name, |guest| {
            persistent(guest);
            let data = guest.mounts.last_mut().unwrap();
            data.mount_data = Some(options.to_owned());
        });
    }
    daemon.start();
    daemon.create("name: \"web\"\nguest_os: \"persistent\"\n");
    start(&daemon);
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    stop(&daemon);
    let conf = daemon.path("other.conf");
    fs::write(&conf, "name: \"web\"\nguest_os: \"optional\"\n").unwrap();
    let update = ["update_config", "web", conf.to_str().unwrap()];
    daemon.control().ok(&update);
    start(&daemon);
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    daemon.wait_for_log("mounted without these options");
    stop(&daemon);
}

#[test]
fn a_guest_that_reboots_into_other_volumes_stops_and_leaves_nothing_open() {
    let (daemon, uuid) = prepared("");
    start(&daemon);
    let conf = daemon.path("other.conf");
    let other = "image_sizes: { image_name: \"data\" image_size: 16 image_file: \"other\" }\n";
    let lines = format!("name: \"web\"\nguest_os: \"persistent\"\n{other}");
    fs::write(&conf, lines).unwrap();
    let update = ["update_config", "web", conf.to_str().unwrap()];
    daemon.control().ok(&update);
    sh(&daemon, "reboot -f");
    daemon.wait_for("web", "STOPPED");
    daemon.wait_for_log("launch failed");
    assert!(
        !daemon
            .path(&format!("run/cmld/containers/{uuid}.json"))
            .exists()
    );
    start(&daemon);
    stop(&daemon);
    daemon.control().ok(&["wipe", "web"]);
    assert!(images(&daemon, &uuid).is_empty());
}

#[test]
fn a_base_behind_a_link_is_as_good_as_any() {
    let mut daemon = Daemon::prepared(setup());
    daemon.add_guest("persistent", persistent);
    fs::rename(daemon.base(), daemon.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(daemon.path("elsewhere"), daemon.base()).unwrap();
    daemon.start();
    daemon.create("name: \"web\"\nguest_os: \"persistent\"\n");
    for round in 0..5 {
        start(&daemon);
        let script = format!("cat /data/x; echo {round} >>/data/x");
        let lines = sh(&daemon, &script).out.lines().count();
        assert_eq!(lines, round);
        // Much to write out, so that the file system takes a moment to go.
        sh(&daemon, "head -c 8m /dev/urandom >/data/y");
        stop(&daemon);
    }
}

#[test]
fn setup_mode_installs_what_a_normal_start_finds() {
    let (daemon, _) = prepared("");
    let control = daemon.control();
    control.ok(&["start", "web", "--key=trustme", "--setup"]);
    daemon.wait_for("web", "SETUP");
    let install = "set -e; echo new >/setup/etc/installed; echo data >/setup/data/x; \
                   test -e /setup/bin/sh; ls -l /bin/ls";
    let installed = sh(&daemon, install);
    assert!(installed.out.contains("busybox"), "{installed:?}");
    control.ok(&["freeze", "web"]);
    control.ok(&["unfreeze", "web"]);
    daemon.wait_for("web", "SETUP");
    stop(&daemon);
    start(&daemon);
    assert_eq!(sh(&daemon, "cat /etc/installed /data/x").out, "new\ndata\n");
    assert_eq!(sh(&daemon, "ls /setup").out, "");
    stop(&daemon);
}

#[test]
fn setup_mode_survives_the_daemon_and_verifies_its_own_images() {
    let mut daemon = Daemon::prepared(setup());
    daemon.add_guest("persistent", |guest| {
        guest.mounts_setup = vec![guest.mounts[0].clone()];
        guest.mounts_setup[0].image_file = "installer".into();
        guest.mounts_setup[0].set_mount_type(Type::Shared);
        persistent(guest);
    });
    daemon.add_image("persistent-1", "installer");
    daemon.start();
    daemon.create("name: \"web\"\nguest_os: \"persistent\"\n");
    let setup = ["start", "web", "--key=trustme", "--setup"];
    daemon.control().ok(&setup);
    assert_eq!(sh(&daemon, "echo x >/setup/data/x; ls /bin/sh").status, 0);
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("web"), "SETUP");
    assert_eq!(sh(&daemon, "cat /setup/data/x").out, "x\n");
    stop(&daemon);
    let image = daemon.store().join("persistent-1/installer.img");
    let mut bytes = fs::read(&image).unwrap();
    bytes[5000] ^= 1;
    fs::write(&image, bytes).unwrap();
    daemon
        .control()
        .refused(&setup, "CONTAINER_START_EINTERNAL");
    start(&daemon);
    stop(&daemon);
}
