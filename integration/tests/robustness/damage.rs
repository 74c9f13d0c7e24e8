//! Damaged files: each gives the right state and answer, none is silently replaced.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cml_integration::{
    Daemon,
    encrypted::{images, prepared, sh, start, stop},
};

/// A container that has written something and is stopped.
fn used() -> (Daemon, String) {
    let (daemon, uuid) = prepared("");
    start(&daemon);
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    stop(&daemon);
    (daemon, uuid)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The start finds that data are lost; only a wipe helps.
fn is_zombie(daemon: &Daemon, uuid: &str) {
    let refused = daemon.control().refused(
        &["start", "web", "--key=trustme"],
        "CONTAINER_CTRL_EINTERNAL",
    );
    assert!(refused.err.contains("wipe or remove"), "{refused:?}");
    assert_eq!(daemon.state("web"), "ZOMBIE");
    daemon.control().refused(
        &["start", "web", "--key=trustme"],
        "CONTAINER_CTRL_EINTERNAL",
    );
    daemon.control().ok(&["wipe", "web"]);
    assert!(images(daemon, uuid).is_empty());
    assert_eq!(daemon.state("web"), "STOPPED");
    start(daemon);
    assert_ne!(sh(daemon, "cat /data/x").status, 0);
    stop(daemon);
}

#[test]
fn a_damaged_or_missing_key_makes_a_zombie_and_no_new_key() {
    for damage in ["flipped", "cut", "empty", "missing"] {
        let (daemon, uuid) = used();
        let key = daemon.base().join(format!("keys/{uuid}.key"));
        match damage {
            "flipped" => flip(&key, 40),
            "cut" => fs::write(&key, &fs::read(&key).unwrap()[..50]).unwrap(),
            "empty" => fs::write(&key, "").unwrap(),
            _ => fs::remove_file(&key).unwrap(),
        }
        is_zombie(&daemon, &uuid);
    }
}

#[test]
fn a_damaged_image_makes_a_zombie_and_is_never_formatted() {
    for damage in ["superblock", "cut", "empty"] {
        let (daemon, uuid) = used();
        let image = images(&daemon, &uuid)
            .into_iter()
            .find(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("data.")
            })
            .unwrap();
        match damage {
            // The magic number of ext4 is at 0x438 (ext4 disk layout); elsewhere it is ciphertext.
            "superblock" => flip(&image, 0x438),
            "cut" => fs::File::options()
                .write(true)
                .open(&image)
                .unwrap()
                .set_len(1 << 20)
                .unwrap(),
            _ => fs::write(&image, "").unwrap(),
        }
        let damaged = fs::read(&image).unwrap();
        let refused = daemon.control().run(&["start", "web", "--key=trustme"]);
        assert_eq!(
            refused.value("response"),
            "CONTAINER_CTRL_EINTERNAL",
            "{damage}: {refused:?}"
        );
        assert_eq!(
            fs::read(&image).unwrap(),
            damaged,
            "{damage}: it was changed"
        );
        daemon.control().ok(&["wipe", "web"]);
        start(&daemon);
        stop(&daemon);
    }
}

/// The image of the volume `data`, or the file beside it.
fn file(daemon: &Daemon, uuid: &str, name: &str) -> PathBuf {
    let dir = daemon.base().join("containers").join(uuid);
    dir.join(name)
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_changed_byte_of_an_image_is_an_io_error_and_never_other_data() {
    let (daemon, uuid) = prepared("");
    start(&daemon);
    // Most of the volume, so that the places below are of this file.
    let write = "tr '\\0' A </dev/zero | head -c 12m >/data/x && sync";
    assert_eq!(sh(&daemon, write).status, 0);
    stop(&daemon);
    let image = file(&daemon, &uuid, "data.img");
    for mib in [3, 5, 11, 13] {
        flip(&image, (mib << 20) + 1000);
    }
    start(&daemon);
    let read = sh(&daemon, "cat /data/x >/dev/null");
    assert_ne!(read.status, 0);
    assert!(read.err.contains("Input/output error"), "{read:?}");
    let others = "dd if=/data/x bs=1024 conv=noerror 2>/dev/null | tr -d A | wc -c";
    assert_eq!(sh(&daemon, others).out.trim(), "0");
    stop(&daemon);
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn damaged_checksums_make_a_zombie_and_are_never_made_again() {
    for damage in ["missing", "empty", "cut", "zeros", "flipped"] {
        let (daemon, uuid) = used();
        let meta = file(&daemon, &uuid, "data.meta.img");
        let whole = fs::read(&meta).unwrap();
        match damage {
            "missing" => fs::remove_file(&meta).unwrap(),
            "empty" => fs::write(&meta, "").unwrap(),
            "cut" => fs::write(&meta, &whole[..whole.len() / 2]).unwrap(),
            "zeros" => fs::write(&meta, vec![0; whole.len()]).unwrap(),
            // All that is there but the superblock.
            _ => {
                let changed = whole.iter().enumerate();
                let changed = changed.map(|(at, byte)| if at < 4096 { *byte } else { !byte });
                fs::write(&meta, changed.collect::<Vec<_>>()).unwrap();
            }
        }
        is_zombie(&daemon, &uuid);
    }
}

#[test]
fn a_zombie_can_be_removed_and_no_other_container_minds() {
    let (daemon, uuid) = used();
    fs::remove_file(daemon.base().join(format!("keys/{uuid}.key"))).unwrap();
    daemon.control().refused(
        &["start", "web", "--key=trustme"],
        "CONTAINER_CTRL_EINTERNAL",
    );
    daemon.running("other", "busybox");
    daemon.control().ok(&["remove", "web"]);
    assert!(!daemon.base().join("containers").join(&uuid).exists());
    daemon.answers("other");
}

#[test]
fn a_damaged_token_is_said_to_be_damaged_and_loses_nothing() {
    let (daemon, _) = used();
    let token = daemon.base().join("tokens/device.tok");
    let whole = fs::read(&token).unwrap();
    for damage in ["flipped", "cut", "empty", "missing"] {
        match damage {
            "flipped" => flip(&token, whole.len() / 2),
            "cut" => fs::write(&token, &whole[..whole.len() / 2]).unwrap(),
            "empty" => fs::write(&token, "").unwrap(),
            _ => fs::remove_file(&token).unwrap(),
        }
        for _ in 0..4 {
            let refused = daemon.control().refused(
                &["start", "web", "--key=trustme"],
                "CONTAINER_START_UNLOCK_FAILED",
            );
            assert!(refused.err.contains("device.tok"), "{refused:?}");
        }
        assert_eq!(
            daemon.state("web"),
            "STOPPED",
            "a backup of the token helps"
        );
        fs::write(&token, &whole).unwrap();
        start(&daemon);
        assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
        stop(&daemon);
    }
}

#[test]
fn what_an_interrupted_start_has_left_is_in_nobodys_way() {
    let (daemon, uuid) = prepared("");
    let dir = daemon.base().join("containers").join(&uuid);
    fs::create_dir(&dir).unwrap();
    for name in [
        ".data.fscrypt.img.new",
        ".changes.img.new",
        ".changes.meta.img.new",
    ] {
        fs::write(dir.join(name), "half").unwrap();
    }
    start(&daemon);
    stop(&daemon);
}

#[test]
fn a_container_whose_configuration_is_damaged_is_still_there_and_says_why() {
    let (mut daemon, uuid) = used();
    let control = daemon.control();
    let conf = daemon.base().join(format!("containers/{uuid}.conf"));
    let good = fs::read(&conf).unwrap();
    let damage = || {
        fs::write(
            &conf,
            "name: \"web\"\nguest_os: \"persistent\"\nuserns: maybe\n",
        )
    };
    // While it runs nothing happens to it, and whoever asks for the configuration learns why there is none.
    start(&daemon);
    damage().unwrap();
    control.ok(&["reload"]);
    assert_eq!(daemon.state("web"), "RUNNING");
    let config = control.run(&["config", "web"]);
    assert!(config.err.contains("line 3"), "{config:?}");
    assert_eq!(config.status, 1);
    stop(&daemon);
    for again in ["reload", "start"] {
        fs::write(&conf, &good).unwrap();
        control.ok(&["reload"]);
        assert_eq!(daemon.state("web"), "STOPPED");
        damage().unwrap();
        match again {
            "reload" => drop(control.ok(&["reload"])),
            _ => {
                daemon.stop();
                daemon.start();
            }
        }
        assert_eq!(daemon.state("web"), "ZOMBIE");
        let shown = control.ok(&["--format", "table", "list"]).out;
        assert!(
            shown.contains("web: its configuration cannot be used: line 3"),
            "{shown}"
        );
    }
    for words in [
        &["start", "web", "--key=trustme"][..],
        &["freeze", "web"],
        &["config", "web"],
        &["update_config", "web", conf.to_str().unwrap()],
    ] {
        let refused = control.run(words);
        assert!(
            refused.err.contains("cannot be used: line 3"),
            "{refused:?}"
        );
        assert_eq!(refused.status, 1);
    }
    // Mended, it has everything that it had.
    fs::write(&conf, &good).unwrap();
    control.ok(&["reload"]);
    start(&daemon);
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    stop(&daemon);
    damage().unwrap();
    control.ok(&["reload"]);
    assert!(!images(&daemon, &uuid).is_empty());
    control.ok(&["wipe_device"]);
    assert!(images(&daemon, &uuid).is_empty());
    control.ok(&["remove", "web"]);
    assert_eq!(control.ok(&["list"]).out, "code: CONTAINER_STATUS\n");
    assert!(!conf.exists());
}
