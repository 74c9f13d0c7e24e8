//! Mount types that work without encryption, and those that refuse to.

use std::{fs, path::Path, process::Command};

use cml_integration::{Daemon, Setup, kit::run};
use cml_wire::proto::{GuestOsMount, guest_os_mount::Type};

fn mount(kind: Type, image: &str, target: &str, fs_type: &str) -> GuestOsMount {
    GuestOsMount {
        image_file: image.into(),
        mount_point: target.into(),
        fs_type: fs_type.into(),
        mount_type: kind.into(),
        ..Default::default()
    }
}

fn sh(daemon: &Daemon, container: &str, script: &str) -> cml_integration::Output {
    daemon
        .control()
        .run(&["run", container, "nopty", "sh", "-c", script])
}

#[test]
fn a_shared_root_is_read_only_and_an_overlaid_one_forgets() {
    let mut daemon = Daemon::default();
    daemon.add_guest("readonly", |guest| {
        guest.mounts[0].set_mount_type(Type::Shared)
    });
    daemon.running("readonly", "readonly");
    assert_ne!(sh(&daemon, "readonly", "echo x >/etc/x").status, 0);
    daemon.running("a", "busybox");
    daemon.running("b", "busybox");
    assert_eq!(sh(&daemon, "a", "echo x >/etc/x; cat /etc/x").out, "x\n");
    assert_ne!(sh(&daemon, "b", "cat /etc/x").status, 0);
    daemon.control().ok(&["stop", "a"]);
    daemon.wait_for("a", "STOPPED");
    daemon.control().ok(&["start", "a"]);
    assert_ne!(sh(&daemon, "a", "cat /etc/x").status, 0);
}

#[test]
fn a_tmpfs_has_the_size_that_was_asked_for() {
    let mut daemon = Daemon::default();
    daemon.add_guest("tmp", |guest| {
        guest.mounts.push(GuestOsMount {
            mount_data: Some("size=1m,mode=0700".into()),
            ..mount(Type::Empty, "scratch", "/mnt/scratch", "tmpfs")
        });
    });
    daemon.running("tmp", "tmp");
    let full = sh(
        &daemon,
        "tmp",
        "stat -c %a /mnt/scratch; head -c 2m /dev/zero >/mnt/scratch/x",
    );
    assert!(
        full.out.starts_with("700\n") && full.status != 0,
        "{full:?}"
    );
}

#[test]
fn a_bound_file_shows_the_hosts_and_is_writable_only_when_it_says_so() {
    let mut daemon = Daemon::default();
    daemon.add_guest("files", |guest| {
        guest
            .mounts
            .push(mount(Type::BindFile, "motd", "/etc/motd", "none"));
        guest
            .mounts
            .push(mount(Type::BindFileRw, "notes", "/mnt/notes", "none"));
    });
    let shared = daemon.base().join("files_shared");
    fs::write(shared.join("motd"), "from the host\n").unwrap();
    daemon.running("files", "files");
    assert_eq!(sh(&daemon, "files", "cat /etc/motd").out, "from the host\n");
    assert_ne!(sh(&daemon, "files", "echo x >>/etc/motd").status, 0);
    assert_eq!(sh(&daemon, "files", "echo inside >>/mnt/notes").status, 0);
    assert_eq!(
        fs::read_to_string(shared.join("notes")).unwrap(),
        "inside\n"
    );
    assert_eq!(
        fs::read_to_string(shared.join("motd")).unwrap(),
        "from the host\n"
    );
}

#[test]
fn bound_files_of_the_existing_system_are_found_in_their_image() {
    let mut daemon = Daemon::prepared(Setup::default());
    daemon.add_guest("files", |guest| {
        guest
            .mounts
            .push(mount(Type::BindFile, "word", "/etc/motd", "none"));
        guest
            .mounts
            .push(mount(Type::BindFileRw, "notes", "/mnt/scratch", "none"));
    });
    let shared = daemon.base().join("files_shared");
    fs::create_dir(&shared).unwrap();
    small_image(&shared.join("_store.img"), "from before");
    daemon.start();
    daemon.running("x", "files");
    assert_eq!(sh(&daemon, "x", "cat /etc/motd").out, "from before");
    // One file system for the containers of this daemon and of the one before it.
    daemon.crash();
    daemon.start();
    daemon.running("y", "files");
    assert_eq!(sh(&daemon, "y", "echo y >>/mnt/scratch").status, 0);
    assert_eq!(sh(&daemon, "x", "cat /mnt/scratch").out, "y\n");
}

#[test]
fn only_a_block_device_is_taken_for_one_and_nothing_waits_for_a_fifo() {
    let mut daemon = Daemon::default();
    let fifo = daemon.path("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let secret = daemon.base().join("tokens/device.p12");
    for (name, path) in [("fifo", &fifo), ("file", &secret)] {
        let path = path.display().to_string();
        daemon.add_guest(name, |guest| {
            guest
                .mounts
                .push(mount(Type::Device, &path, "/mnt/x", "ext4"));
        });
        let uuid = daemon.create(&format!(
            "name: \"{name}\"\nguest_os: \"{name}\"\ntoken_type: NONE\n"
        ));
        let refused = daemon
            .control()
            .refused(&["start", &uuid], "CONTAINER_START_EINTERNAL");
        assert!(refused.err.contains("no block device"), "{refused:?}");
    }
}

#[test]
fn a_bound_file_that_is_a_link_is_not_followed_out_of_the_store() {
    let mut daemon = Daemon::default();
    daemon.add_guest("files", |guest| {
        guest
            .mounts
            .push(mount(Type::BindFileRw, "link", "/mnt/x", "none"));
    });
    let outside = daemon.path("outside");
    fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, daemon.base().join("files_shared/link")).unwrap();
    let uuid = daemon.create("name: \"x\"\nguest_os: \"files\"\ntoken_type: NONE\n");
    daemon
        .control()
        .refused(&["start", &uuid], "CONTAINER_START_EINTERNAL");
    assert_eq!(fs::read_to_string(outside).unwrap(), "secret");
}

#[test]
fn a_volume_that_must_be_encrypted_refuses_to_be_plain() {
    let mut daemon = Daemon::default();
    for (name, kind) in [("empty", Type::Empty), ("overlay", Type::OverlayRw)] {
        daemon.add_guest(name, |guest| {
            guest.mounts.push(mount(kind, "data", "/data", "ext4"))
        });
        let uuid = daemon.create(&format!(
            "name: \"{name}\"\nguest_os: \"{name}\"\ntoken_type: NONE\n"
        ));
        let refused = daemon
            .control()
            .refused(&["start", &uuid], "CONTAINER_START_EINTERNAL");
        assert!(refused.err.contains("must be encrypted"), "{refused:?}");
        assert!(!daemon.base().join(format!("containers/{uuid}")).exists());
    }
}

#[test]
fn without_a_user_namespace_the_root_is_there_all_the_same() {
    let daemon = Daemon::default();
    daemon.create("name: \"x\"\nguest_os: \"busybox\"\ntoken_type: NONE\nuserns: false\n");
    daemon.control().ok(&["start", "x"]);
    let facts = daemon.facts("x");
    assert_eq!(facts["uid_map"][2], "4294967295");
    assert_eq!(sh(&daemon, "x", "echo x >/etc/x; cat /etc/x").out, "x\n");
    assert_ne!(sh(&daemon, "x", "echo 1 >/proc/sys/kernel/panic").status, 0);
}

#[test]
fn without_a_network_namespace_the_hosts_interfaces_are_there() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        let lines = format!("netns: false\nuserns: {userns}\n");
        daemon.running_with(&name, "busybox", &lines);
        let ours = fs::read_link(format!("/proc/{}/ns/net", daemon.pid())).unwrap();
        assert_eq!(
            daemon.facts(&name)["namespaces"]["net"],
            ours.to_str().unwrap()
        );
    }
}

/// A file system image with one file in it.
fn small_image(path: &Path, word: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("word"), word).unwrap();
    let text = |path: &Path| path.display().to_string();
    run(Command::new("mkfs.ext4").args(["-q", "-d", &text(dir.path()), &text(path), "4M"]));
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_copy_of_an_image_is_the_containers_own_and_stays() {
    let mut daemon = Daemon::default();
    let image = daemon.path("seed.img");
    small_image(&image, "seed");
    let hash = sha256(&image);
    daemon.add_guest("copies", |guest| {
        guest.mounts.push(GuestOsMount {
            image_size: Some(4 << 20),
            image_sha2_256: Some(hash),
            ..mount(Type::Copy, "seed", "/mnt/scratch", "ext4")
        });
    });
    let stored = daemon.store().join("copies-1/seed.img");
    fs::copy(&image, &stored).unwrap();
    for name in ["a", "b"] {
        daemon.running(name, "copies");
    }
    assert_eq!(sh(&daemon, "a", "cat /mnt/scratch/word").out, "seed");
    assert_eq!(sh(&daemon, "a", "echo a >/mnt/scratch/word").status, 0);
    assert_eq!(sh(&daemon, "b", "cat /mnt/scratch/word").out, "seed");
    daemon.control().ok(&["stop", "a"]);
    daemon.wait_for("a", "STOPPED");
    daemon.control().ok(&["start", "a"]);
    assert_eq!(sh(&daemon, "a", "cat /mnt/scratch/word").out, "a\n");
    assert_eq!(fs::read(&stored).unwrap(), fs::read(&image).unwrap());
    // What is copied is verified, for everybody who comes later.
    let mut bytes = fs::read(&stored).unwrap();
    bytes[2 << 20] ^= 1;
    fs::write(&stored, bytes).unwrap();
    let uuid = daemon.create("name: \"c\"\nguest_os: \"copies\"\ntoken_type: NONE\n");
    let refused = daemon
        .control()
        .refused(&["start", "c"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("SHA-256"), "{refused:?}");
    let copy = daemon.base().join(format!("containers/{uuid}/seed.img"));
    assert!(!copy.exists());
}

#[test]
fn a_device_is_copied_once_and_writable_only_when_it_says_so() {
    let mut daemon = Daemon::default();
    let image = daemon.path("disk.img");
    small_image(&image, "disk");
    let output = Command::new("losetup")
        .args(["--find", "--show", image.to_str().unwrap()])
        .output()
        .unwrap();
    let attached = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    // By a name of our own: the kernel gives the device to the next one who wants any.
    let link = daemon.path("disk");
    std::os::unix::fs::symlink(&attached, &link).unwrap();
    let device = link.to_str().unwrap().to_owned();
    daemon.add_guest("readable", |guest| {
        guest
            .mounts
            .push(mount(Type::Device, &device, "/mnt/ro", "ext4"));
    });
    daemon.add_guest("writable", |guest| {
        guest
            .mounts
            .push(mount(Type::DeviceRw, &device, "/mnt/rw", "ext4"));
    });
    daemon.add_guest("absent", |guest| {
        let absent = "/dev/cml-absent";
        guest
            .mounts
            .push(mount(Type::DeviceRw, absent, "/mnt/rw", "ext4"));
    });
    daemon.running("ro", "readable");
    daemon.running("rw", "writable");
    // From here on the device is not needed any more.
    run(Command::new("losetup").args(["--detach", &attached]));
    fs::remove_file(&link).unwrap();
    assert_eq!(sh(&daemon, "ro", "cat /mnt/ro/word").out, "disk");
    assert_ne!(sh(&daemon, "ro", "echo x >/mnt/ro/word").status, 0);
    assert_eq!(sh(&daemon, "rw", "echo x >/mnt/rw/word").status, 0);
    daemon.control().ok(&["stop", "rw"]);
    daemon.wait_for("rw", "STOPPED");
    daemon.control().ok(&["start", "rw"]);
    assert_eq!(sh(&daemon, "rw", "cat /mnt/rw/word").out, "x\n");
    let uuid = daemon.create("name: \"x\"\nguest_os: \"absent\"\ntoken_type: NONE\n");
    let refused = daemon
        .control()
        .refused(&["start", &uuid], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("/dev/cml-absent"), "{refused:?}");
}

#[test]
fn an_image_over_another_covers_it_and_nobody_changes_either() {
    let mut daemon = Daemon::default();
    let image = daemon.path("cover.img");
    small_image(&image, "cover");
    let hash = sha256(&image);
    daemon.add_guest("covered", |guest| {
        guest.mounts[0].set_mount_type(Type::Shared);
        guest.mounts.push(GuestOsMount {
            image_size: Some(4 << 20),
            image_sha2_256: Some(hash),
            ..mount(Type::OverlayRo, "cover", "/etc", "ext4")
        });
    });
    fs::copy(&image, daemon.store().join("covered-1/cover.img")).unwrap();
    for userns in [true, false] {
        let name = format!("x{userns}");
        daemon.running_with(&name, "covered", &format!("userns: {userns}\n"));
        let seen = sh(&daemon, &name, "cat /etc/word && test -e /etc/passwd");
        assert_eq!((seen.out.as_str(), seen.status), ("cover", 0), "{seen:?}");
        assert_ne!(sh(&daemon, &name, "echo x >/etc/word").status, 0);
    }
}
