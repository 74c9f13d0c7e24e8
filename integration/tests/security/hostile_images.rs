//! Images that try to lead the runtime out of themselves (SEC-03, SEC-06). They are signed: even a vendor's
//! mistake must not reach the host.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use cml_integration::{Daemon, kit::kit};
use sha2::{Digest, Sha256};

/// Unpacks the busybox image, lets `change` at it, and installs the result as a guest of this name.
fn install(daemon: &mut Daemon, name: &str, change: impl FnOnce(&Path)) {
    let tree = daemon.path(&format!("{name}-tree"));
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let text = |path: &Path| path.display().to_string();
    let original = text(&kit().store.join("busybox-1/root.img"));
    run(
        "unsquashfs",
        &["-no-progress", "-quiet", "-d", &text(&tree), &original],
    );
    change(&tree);
    let image = daemon.path(&format!("{name}.img"));
    let packed = [&text(&tree), &text(&image), "-quiet", "-no-progress"].map(ToOwned::to_owned);
    run("mksquashfs", &packed.each_ref().map(String::as_str));
    let bytes = fs::read(&image).unwrap();
    let hash = Sha256::digest(&bytes);
    daemon.add_guest(name, |guest| {
        guest.mounts[0].image_size = Some(bytes.len() as u64);
        let hex = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        guest.mounts[0].image_sha2_256 = Some(hex);
    });
    fs::rename(image, daemon.store().join(format!("{name}-1/root.img"))).unwrap();
}

fn replace(path: &Path, target: &str) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
    symlink(target, path).unwrap();
}

/// Starts it if it can be started; whatever happens stays inside.
fn try_to_start(daemon: &Daemon, name: &str) -> bool {
    let config = format!("name: \"{name}\"\nguest_os: \"{name}\"\ntoken_type: NONE\n");
    let uuid = daemon.create(&config);
    let started = daemon.control().run(&["start", &uuid]);
    assert!(started.status <= 1, "{started:?}");
    daemon.control().ok(&["list"]);
    started.status == 0
}

#[test]
fn mount_points_that_are_links_lead_nowhere_outside() {
    let mut daemon = Daemon::default();
    let outside = daemon.path("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.to_str().unwrap().to_owned();
    for (name, link) in [
        ("abs", target.clone()),
        ("dots", format!("../../../../../../{target}")),
    ] {
        for victim in ["proc", "sys", "dev", "run"] {
            let guest = format!("{name}-{victim}");
            install(&mut daemon, &guest, |tree| {
                replace(&tree.join(victim), &link)
            });
            try_to_start(&daemon, &guest);
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn links_that_go_in_circles_are_an_error_and_not_a_hang() {
    let mut daemon = Daemon::default();
    install(&mut daemon, "circle", |tree| {
        replace(&tree.join("run"), "/sbin/init");
        replace(&tree.join("sbin/init"), "init");
    });
    assert!(!try_to_start(&daemon, "circle"));
}

#[test]
fn a_device_node_in_the_image_means_nothing() {
    let mut daemon = Daemon::default();
    install(&mut daemon, "node", |tree| {
        let node = tree.join("mnt/zero");
        let made = Command::new("mknod")
            .arg(&node)
            .args(["c", "1", "5"])
            .status();
        assert!(made.unwrap().success());
    });
    assert!(try_to_start(&daemon, "node"));
    let read = ["run", "node", "nopty", "head", "-c", "1", "/mnt/zero"];
    assert_ne!(daemon.control().run(&read).status, 0);
}

#[test]
fn what_the_image_has_for_dev_null_is_not_used_for_masking() {
    let mut daemon = Daemon::default();
    install(&mut daemon, "mask", |tree| {
        replace(&tree.join("dev/null"), "/proc/sys/kernel/core_pattern");
    });
    assert!(try_to_start(&daemon, "mask"));
    for (file, bytes) in daemon.facts("mask")["masked"].as_object().unwrap() {
        assert_eq!(bytes, 0, "{file}");
    }
}

#[test]
fn a_signed_configuration_cannot_mount_directories_of_the_host() {
    let mut daemon = Daemon::prepared(cml_integration::Setup::default());
    for (name, fs_type, data) in [
        ("overlay", "overlay", "lowerdir=/etc:/root"),
        ("device", "ext4", "journal_path=/dev/loop0"),
        ("proc", "proc", ""),
    ] {
        daemon.add_guest(name, |guest| {
            let mut mount = guest.mounts[0].clone();
            mount.set_mount_type(cml_wire::proto::guest_os_mount::Type::Shared);
            mount.mount_point = "/host".into();
            mount.fs_type = fs_type.into();
            mount.mount_data = Some(data.into());
            guest.mounts.push(mount);
        });
    }
    daemon.start();
    let listed = daemon.control().ok(&["list_guestos"]).out;
    assert!(listed.contains("name: \"busybox\""));
    for name in ["overlay", "device", "proc"] {
        assert!(!listed.contains(&format!("name: \"{name}\"")), "{name}");
        daemon.wait_for_log(&format!("guestos=\"{name}-1\""));
    }
}

#[test]
fn fifos_links_and_devices_in_the_stores_hold_up_nobody() {
    let mut daemon = Daemon::prepared(cml_integration::Setup::default());
    let odd = |at: &Path| {
        let made = Command::new("mkfifo").arg(at).status().unwrap();
        assert!(made.success());
    };
    fs::create_dir(daemon.store().join("odd-1")).unwrap();
    for suffix in ["conf", "sig", "cert"] {
        odd(&daemon.store().join(format!("odd-1.{suffix}")));
    }
    fs::create_dir(daemon.store().join("endless-1")).unwrap();
    symlink("/dev/zero", daemon.store().join("endless-1.conf")).unwrap();
    let containers = daemon.base().join("containers");
    fs::create_dir_all(&containers).unwrap();
    odd(&containers.join("22222222-2222-4222-8222-222222222222.conf"));
    daemon.add_guest("file", |guest| {
        let mut mount = guest.mounts[0].clone();
        mount.set_mount_type(cml_wire::proto::guest_os_mount::Type::BindFile);
        mount.image_file = "odd".into();
        mount.mount_point = "/mnt/odd".into();
        guest.mounts.push(mount);
    });
    daemon.add_guest("image", |_| {});
    daemon.start();
    daemon.control().ok(&["list"]);
    odd(&daemon.base().join("files_shared/odd"));
    let image = daemon.store().join("image-1/root.img");
    fs::remove_file(&image).unwrap();
    odd(&image);
    for name in ["file", "image"] {
        let config = format!("name: \"{name}\"\nguest_os: \"{name}\"\ntoken_type: NONE\n");
        let uuid = daemon.create(&config);
        let refused = daemon
            .control()
            .refused(&["start", &uuid], "CONTAINER_START_EINTERNAL");
        assert!(refused.err.contains("regular file"), "{refused:?}");
    }
    daemon.running("web", "busybox");
}
