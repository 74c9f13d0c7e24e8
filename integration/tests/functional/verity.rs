//! Images that the kernel verifies block by block (dm-verity).

use std::{fs, os::unix::fs::FileExt, path::PathBuf, process::Command};

use cml_integration::{Daemon, Setup, encrypted::by_device_mapper, eventually, kit::kit, shows};
use cml_wire::proto::guest_os_mount::Type;

/// Makes the tree of hashes of the kit's root image; returns its file and its root.
fn tree(daemon: &Daemon) -> (PathBuf, String) {
    let hashes = daemon.path("hashes");
    let output = Command::new("veritysetup")
        .arg("format")
        .args([&kit().store.join("busybox-1/root.img"), &hashes])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let root = told
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"));
    (hashes, root.unwrap().trim().to_owned())
}

/// Installs a guest OS for whose root only this root hash vouches.
fn add_guest(daemon: &mut Daemon, name: &str, root: &str) {
    daemon.add_guest(name, |guest| {
        guest.mounts[0].set_mount_type(Type::Shared);
        guest.mounts[0].image_sha2_256 = None;
        guest.mounts[0].image_verity_sha256 = Some(root.to_owned());
    });
}

/// A daemon with the guest OS `verified`.
fn prepared() -> Daemon {
    let mut daemon = Daemon::prepared(Setup::default());
    let (hashes, root) = tree(&daemon);
    add_guest(&mut daemon, "verified", &root);
    fs::rename(hashes, daemon.store().join("verified-1/root.hash.img")).unwrap();
    daemon.start();
    daemon
}

/// The names of the devices that images of this daemon have.
fn devices(daemon: &Daemon) -> Vec<String> {
    let owner = format!("-cmld{}", daemon.pid());
    let blocks = fs::read_dir("/sys/block").unwrap().flatten();
    blocks
        .filter_map(|block| fs::read_to_string(block.path().join("dm/name")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.ends_with(&owner))
        .collect()
}

fn read_probe(daemon: &Daemon, container: &str) -> cml_integration::Output {
    let read = "cat /bin/probe >/dev/null";
    daemon
        .control()
        .run(&["run", container, "nopty", "sh", "-c", read])
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn one_device_serves_all_containers_and_goes_with_the_last_one() {
    let daemon = prepared();
    daemon.running("a", "verified");
    daemon.running("b", "verified");
    let found = devices(&daemon);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("verified-1-root-"), "{found:?}");
    for container in ["a", "b"] {
        daemon.answers(container);
        daemon.control().ok(&["stop", container]);
        daemon.wait_for(container, "STOPPED");
    }
    eventually("the end of the device", || {
        devices(&daemon).is_empty().then_some(())
    });
    daemon.control().ok(&["start", "a"]);
    daemon.wait_for("a", "RUNNING");
    daemon.answers("a");
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_block_that_was_changed_is_an_io_error_in_the_container() {
    let daemon = prepared();
    daemon.running("a", "verified");
    // The second half of the image is of the probe, which nobody has read so far.
    let path = daemon.store().join("verified-1/root.img");
    let image = fs::File::options().write(true).open(&path).unwrap();
    let middle = image.metadata().unwrap().len() / 3 * 2;
    image.write_all_at(b"changed", middle).unwrap();
    let read = read_probe(&daemon, "a");
    assert_ne!(read.status, 0);
    assert!(read.err.contains("Input/output error"), "{read:?}");
    daemon.answers("a");
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn what_does_not_belong_to_the_root_hash_is_not_started() {
    let mut daemon = Daemon::prepared(Setup::default());
    let (hashes, root) = tree(&daemon);
    let mut other = root.clone();
    other.replace_range(0..1, if root.starts_with('0') { "1" } else { "0" });
    for (name, root) in [
        ("other", other.as_str()),
        ("short", &root[..8]),
        ("nohashes", &root),
        ("nonsense", &root),
        ("larger", &root),
    ] {
        add_guest(&mut daemon, name, root);
        let dir = daemon.store().join(format!("{name}-1"));
        match name {
            "nohashes" => continue,
            "nonsense" => fs::write(dir.join("root.hash.img"), [7; 8192]).map(|()| 0),
            _ => fs::copy(&hashes, dir.join("root.hash.img")),
        }
        .unwrap();
        if name == "larger" {
            let image = fs::File::options()
                .append(true)
                .open(dir.join("root.img"))
                .unwrap();
            image
                .set_len(image.metadata().unwrap().len() + 4096)
                .unwrap();
        }
    }
    daemon.start();
    // A configuration with half a hash is none.
    let known = daemon.control().ok(&["list_guestos"]);
    assert!(!known.out.contains("\"short\"") && known.out.contains("\"other\""));
    for (name, said) in [
        ("other", "image_verity_sha256"),
        ("nohashes", "root.hash.img"),
        ("nonsense", "no hash image"),
        ("larger", "bytes instead of"),
    ] {
        daemon.create(&format!(
            "name: \"{name}\"\nguest_os: \"{name}\"\ntoken_type: NONE\n"
        ));
        let refused = daemon
            .control()
            .refused(&["start", name], "CONTAINER_START_EINTERNAL");
        assert!(refused.err.contains(said), "{name}: {refused:?}");
    }
    eventually("the end of all devices", || {
        devices(&daemon).is_empty().then_some(())
    });
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_container_keeps_its_device_when_the_daemon_dies_and_takes_it_along() {
    let mut daemon = prepared();
    daemon.running("a", "verified");
    let found = devices(&daemon);
    let exists = |name: &String| {
        let status = Command::new("dmsetup").args(["info", name]).output();
        status.unwrap().status.success()
    };
    daemon.crash();
    daemon.start();
    assert!(found.iter().all(exists));
    assert_eq!(read_probe(&daemon, "a").status, 0);
    daemon.control().ok(&["stop", "a"]);
    daemon.wait_for("a", "STOPPED");
    eventually("the end of the device", || {
        (!found.iter().any(exists)).then_some(())
    });
}

#[test]
fn a_root_hash_alone_is_not_enough_where_the_kernel_cannot_use_it() {
    if !shows(!by_device_mapper(), "this kernel can use it") {
        return;
    }
    let mut daemon = Daemon::prepared(Setup::default());
    add_guest(&mut daemon, "verified", &"ab".repeat(32));
    daemon.add_guest("both", |guest| {
        guest.mounts[0].image_verity_sha256 = Some("ab".repeat(32));
    });
    daemon.start();
    daemon.create("name: \"a\"\nguest_os: \"verified\"\ntoken_type: NONE\n");
    let refused = daemon
        .control()
        .refused(&["start", "a"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("dm_verity"), "{refused:?}");
    daemon.running("b", "both");
    daemon.answers("b");
}
