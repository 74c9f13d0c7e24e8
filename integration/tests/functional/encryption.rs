//! Encrypted volumes: what is written can be read again with the PIN and by nobody without it.

use std::{fs, path::PathBuf};

use cml_integration::{Daemon, Output, Setup};
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};

/// The name of a file and a word in it; neither may ever be seen on the disk.
const NAME: &str = "file-that-nobody-should-see";
const MARKER: &str = "marker-that-nobody-should-read";

fn setup() -> Setup {
    let plain = Setup::default();
    Setup {
        device_conf: format!(
            "{}storage_fallback: FSCRYPT\nfree_space_reserve: 1\n",
            plain.device_conf
        ),
        ..plain
    }
}

/// A mount with a volume of 16 MiB.
fn volume(kind: Type, image: &str, target: &str) -> GuestOsMount {
    GuestOsMount {
        image_file: image.into(),
        mount_point: target.into(),
        fs_type: "ext4".into(),
        mount_type: kind.into(),
        image_size: Some(16),
        ..Default::default()
    }
}

/// A guest OS whose root takes changes for good, with a volume beside it.
fn persistent(guest: &mut GuestOsConfig) {
    guest.mounts[0].set_mount_type(Type::Shared);
    guest.mounts.push(volume(Type::OverlayRw, "changes", "/"));
    guest.mounts.push(volume(Type::Empty, "data", "/data"));
}

/// A daemon with such a guest OS, and a container of it that was never started.
fn prepared(lines: &str) -> (Daemon, String) {
    let mut daemon = Daemon::prepared(setup());
    daemon.add_guest("persistent", persistent);
    daemon.start();
    let uuid = daemon.create(&format!(
        "name: \"web\"\nguest_os: \"persistent\"\n{lines}"
    ));
    (daemon, uuid)
}

fn sh(daemon: &Daemon, script: &str) -> Output {
    daemon
        .control()
        .run(&["run", "web", "nopty", "sh", "-c", script])
}

fn start(daemon: &Daemon) {
    daemon.control().ok(&["start", "web", "--key=trustme"]);
    daemon.wait_for("web", "RUNNING");
}

fn stop(daemon: &Daemon) {
    daemon.control().ok(&["stop", "web", "--key=trustme"]);
    daemon.wait_for("web", "STOPPED");
}

fn images(daemon: &Daemon, uuid: &str) -> Vec<PathBuf> {
    let dir = daemon.base().join("containers").join(uuid);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn contains(path: &PathBuf, word: &str) -> bool {
    let bytes = fs::read(path).unwrap();
    bytes.windows(word.len()).any(|part| part == word.as_bytes())
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
            assert!(!contains(image, MARKER) && !contains(image, NAME), "{image:?}");
        }
        let wrong = ["start", "web", "--key=guess"];
        daemon
            .control()
            .refused(&wrong, "CONTAINER_START_PASSWD_WRONG");
        let nothing = daemon.control().run(&["start", "web", "--key="]);
        assert_eq!(nothing.value("response"), "CONTAINER_START_PASSWD_WRONG");
        start(&daemon);
        let read = sh(&daemon, &format!("cat /data/{NAME} /etc/{NAME}; ls /etc/passwd"));
        assert_eq!(read.out, format!("{MARKER}\n{MARKER}\n"), "{read:?}");
        assert_ne!(read.status, 0, "what was deleted is back");
        stop(&daemon);
    }
}
