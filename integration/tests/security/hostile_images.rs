//! Images that try to lead the runtime out of themselves (SEC-03, SEC-06). They are signed: even a vendor's
//! mistake must not reach the host.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use cml_integration::Daemon;

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
            daemon.add_changed_guest(&guest, |tree| replace(&tree.join(victim), &link));
            try_to_start(&daemon, &guest);
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn links_that_go_in_circles_are_an_error_and_not_a_hang() {
    let mut daemon = Daemon::default();
    daemon.add_changed_guest("circle", |tree| {
        replace(&tree.join("run"), "/sbin/init");
        replace(&tree.join("sbin/init"), "init");
    });
    assert!(!try_to_start(&daemon, "circle"));
}

#[test]
fn a_device_node_in_the_image_means_nothing() {
    let mut daemon = Daemon::default();
    daemon.add_changed_guest("node", |tree| {
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
    daemon.add_changed_guest("mask", |tree| {
        replace(&tree.join("dev/null"), "/proc/sys/kernel/core_pattern");
    });
    assert!(try_to_start(&daemon, "mask"));
    for (file, bytes) in daemon.facts("mask")["masked"].as_object().unwrap() {
        assert_eq!(bytes, 0, "{file}");
    }
}

#[test]
fn what_the_image_has_below_proc_is_not_taken_for_the_kernel() {
    let mut daemon = Daemon::default();
    let files = ["timens_offsets", "uid_map", "attr/exec", "ns/time"];
    daemon.add_changed_guest("proc", |tree| {
        for name in files {
            let file = tree.join("proc/self").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "of the image").unwrap();
        }
    });
    assert!(try_to_start(&daemon, "proc"));
    let run = |script: &str| {
        let words = ["run", "-T", "proc", "sh", "-c", script];
        daemon.control().ok(&words).out
    };
    let uptime: f64 = run("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
    let of_host = fs::read_to_string("/proc/uptime").unwrap();
    let of_host: f64 = of_host.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime < of_host / 2.0, "its clock began with it: {uptime}");
    let words = run(&format!(
        "mount --bind / /mnt && cd /mnt/proc/self && cat {}",
        files.join(" ")
    ));
    assert_eq!(words, "of the image".repeat(files.len()));
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
