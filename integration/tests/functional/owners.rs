//! Who the files of images belong to, by either way that the kernel leaves (docs/adr/0043-owners.md).

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use cml_integration::{Daemon, Setup};
use rustix::fs::{XattrFlags, setxattr};

/// A kernel that cannot show the files of an image with other owners, as before Linux 6.2 for squashfs: every second
/// call that changes a mount fails, which are those that ask for that.
fn on_an_older_kernel() -> Setup {
    Setup::with_failing(
        "trace=mount_setattr",
        "inject=mount_setattr:error=EINVAL:when=1+2",
    )
}

/// KILL, permitted and effective: `struct vfs_cap_data` of linux/capability.h in its second revision.
const MAY_KILL: [u32; 5] = [0x0200_0001, 1 << 5, 0, 0, 0];

fn change(tree: &Path) {
    let dir = tree.join("opt/owners");
    fs::create_dir_all(dir.join("deep/er")).unwrap();
    let file = |name: &str, owner: u32, group: u32, mode: u32| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        chown(&path, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("root", 0, 0, 0o640);
    file("user", 1000, 100, 0o604);
    file("setuid", 33, 34, 0o6755);
    file("deep/er/odd name", 65_535, 0, 0o600);
    fs::hard_link(dir.join("user"), dir.join("linked")).unwrap();
    symlink("/etc/passwd", dir.join("link")).unwrap();
    chown(dir.join("deep"), Some(5), Some(6)).unwrap();
    let capable = dir.join("busybox");
    fs::copy(tree.join("bin/busybox"), &capable).unwrap();
    let bytes: Vec<u8> = MAY_KILL
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    setxattr(&capable, "security.capability", &bytes, XattrFlags::empty()).unwrap();
}

/// What a container says of its files.
fn seen(daemon: &Daemon, name: &str) -> String {
    let sh = |options: &[&str], script: &str| {
        let words = [&["run", "-T"], options, &[name, "sh", "-c", script]].concat();
        daemon.control().ok(&words).out
    };
    let listed = sh(
        &[],
        "cd /opt/owners && find . | sort | while read f; do stat -c '%n %u:%g %a' \"$f\"; done; \
         cat user root 'deep/er/odd name'; stat -c %u:%g / /bin/busybox",
    );
    let rights = sh(
        &["-u", "1234"],
        "/opt/owners/busybox grep CapEff /proc/self/status",
    );
    // It is its root's to change, as far as the guest OS lets it.
    let changed = sh(
        &[],
        "cd /opt/owners && echo more >>user && chown 7:8 user && cat user && stat -c %u:%g user",
    );
    [listed, rights, changed].concat()
}

#[test]
fn files_of_an_image_belong_to_the_container_on_every_kernel() {
    let reports = [Setup::default(), on_an_older_kernel()].map(|setup| {
        let mut daemon = Daemon::new(setup);
        daemon.add_changed_guest("owners", change);
        daemon.running("a", "owners");
        daemon.running("b", "owners");
        let reports = ["a", "b"].map(|name| seen(&daemon, name));
        assert_eq!(reports[0], reports[1]);
        reports[0].clone()
    });
    let [mapped, shifted] = &reports;
    assert_eq!(mapped, shifted);
    for line in [
        "./user 1000:100 604",
        "./linked 1000:100 604",
        "./setuid 33:34 6755",
        "./deep/er/odd name 65535:0 600",
        "./deep 5:6 755",
        "./link 0:0 777",
        "CapEff:\t0000000000000020",
        "7:8",
    ] {
        assert!(mapped.lines().any(|seen| seen == line), "{line}: {mapped}");
    }
}

#[test]
fn what_is_written_to_keeps_its_owners_or_is_refused() {
    let mut daemon = Daemon::new(on_an_older_kernel());
    daemon.add_guest("shares", |guest| {
        let mut mount = guest.mounts[0].clone();
        mount.set_mount_type(cml_wire::proto::guest_os_mount::Type::BindFileRw);
        mount.image_file = "shared".into();
        mount.mount_point = "/mnt/shared".into();
        guest.mounts.push(mount);
    });
    daemon.create_with("web", "shares", "");
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("ext4, xfs or btrfs"), "{refused:?}");
    assert_eq!(daemon.state("web"), "STOPPED");
}
