//! What a guest mounts itself: no call of mount(2) is done for it, and it needs none (docs/adr/0041-system-calls.md).

use cml_integration::Daemon;

/// What every guest OS mounts while it boots, and what builds containers in it.
const OWN: &[&str] = &[
    "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup2", "overlay",
];
/// File systems of the machine, and those whose bytes the kernel would have to believe.
const REFUSED: &[&str] = &[
    "devtmpfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "pstore",
    "cgroup",
    "ext4",
    "btrfs",
    "squashfs",
    "erofs",
];

#[test]
fn a_guest_mounts_what_it_needs_by_itself_and_nothing_of_the_machine() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let report = daemon.hostile("web", &[], "mounts");
    let done = |name: &str| report[name].as_i64().unwrap();
    for kind in OWN {
        for way in ["", " by fsopen"] {
            assert_eq!(done(&format!("{kind}{way}")), 0, "{kind}{way}: {report:#}");
        }
    }
    assert_eq!(
        (done("place"), done("bind"), done("bind, read-only")),
        (0, 0, 0)
    );
    for kind in REFUSED {
        for way in ["", " by fsopen"] {
            let error = done(&format!("{kind}{way}"));
            // EPERM, ENODEV where the kernel has no such file system, ENOTBLK where it asks for a disk first.
            assert!([-1, -19, -15].contains(&error), "{kind}{way}: {report:#}");
        }
    }
    // A disk of its own does not help: there is no device, and no right over the file system.
    let script =
        "dd if=/dev/zero of=/tmp/disk bs=1M count=4 2>/dev/null; mount -o loop /tmp/disk /mnt";
    let tried = daemon
        .control()
        .run(&["run", "-T", "web", "sh", "-c", script]);
    assert_ne!(tried.status, 0, "{tried:?}");
}

/// What the existing system does mount(2) for.
#[test]
fn device_nodes_work_on_file_systems_that_the_guest_has_mounted() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let script = "set -e; for kind in tmpfs ramfs; do mount -t $kind none /mnt; mknod /mnt/zero c 1 5; \
                  head -c 3 /mnt/zero | wc -c; umount -l /mnt; done; \
                  mount -t tmpfs none /mnt; mkdir /mnt/l /mnt/u /mnt/w /mnt/o; \
                  mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w none /mnt/o; \
                  mknod /mnt/o/zero c 1 5; head -c 3 /mnt/o/zero | wc -c";
    let seen = daemon
        .control()
        .ok(&["run", "-T", "web", "sh", "-c", script]);
    assert_eq!(seen.out, "3\n3\n3\n");
}

#[test]
fn without_a_user_namespace_a_guest_mounts_nothing() {
    let daemon = Daemon::default();
    daemon.running_with("web", "busybox", "userns: false\n");
    for kind in OWN {
        let tried = ["run", "-T", "web", "mount", "-t", kind, "none", "/mnt"];
        assert_ne!(daemon.control().run(&tried).status, 0, "{kind}");
    }
}
