//! A guest OS's configuration (protocol.md 2.5; runtime.md 9, number 61).

use super::{Breach, Breaches, words};
use crate::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};

/// What the shared files lie in (runtime.md 3.2); a guest that wrote it would decide what all others see.
pub const SHARED_STORE: &str = "_store.img";

/// File systems that live on a block device and need nothing else. The daemon mounts images with all its
/// rights, so a type like `overlay` or `9p` would show whatever of the host its options name.
const IMAGE_FILE_SYSTEMS: &[&str] = &[
    "squashfs", "erofs", "ext4", "ext3", "ext2", "btrfs", "xfs", "f2fs", "vfat", "iso9660",
];

/// Options of those file systems that name other devices.
const OUTSIDE: &[&str] = &[
    "source",
    "device",
    "journal_dev",
    "journal_path",
    "logdev",
    "rtdev",
];

/// Everything that would become part of a path, a mount or an argument, and must not.
pub fn breaches(config: &GuestOsConfig) -> Vec<Breach> {
    let mut found = Breaches::default();
    found.note("name", name(&config.name));
    // 0 means "none" (protocol.md 6.4).
    found.note(
        "version",
        (config.version == 0).then(|| "it must be above 0".into()),
    );
    let lists = [
        ("mounts", &config.mounts),
        ("mounts_setup", &config.mounts_setup),
    ];
    for (list, mounts) in lists {
        for (index, one) in mounts.iter().enumerate() {
            mount(&mut found, &format!("{list}[{index}]"), one);
        }
    }
    found.note("init_path", words::absolute(config.init_path()));
    found.each("init_param", &config.init_param, |word| words::no_nul(word));
    found.each("init_env", &config.init_env, |word| words::no_nul(word));
    found.note("update_base_url", words::url(config.update_base_url()));
    found.0
}

/// The beginning of the names of all its files.
fn name(name: &str) -> Option<String> {
    // Room for the version and for what the store puts in front of names; hidden ones are its own.
    let good = words::is_component(name) && name.len() <= 200 && !name.starts_with('.');
    (!good).then(|| format!("{name:?} cannot be the beginning of a file name"))
}

fn mount(found: &mut Breaches, list: &str, mount: &GuestOsMount) {
    let at = |field| format!("{list}.{field}");
    let image = image_name(mount);
    let named_well = image.is_none();
    found.note(at("image_file"), image);
    found.note(at("mount_point"), words::absolute(&mount.mount_point));
    if mounts_image(mount) {
        found.note(at("fs_type"), file_system(&mount.fs_type));
    }
    let data = mount.mount_data();
    let data = words::no_nul(data).or_else(|| {
        let shown = mounts_image(mount) && mount.mount_type() != Type::SharedRw;
        (shown && leads_out(data)).then(|| {
            format!("{data:?}: an image takes no option that names another file or device")
        })
    });
    found.note(at("mount_data"), data);
    if named_well {
        found.note(at("image_sha1"), words::digest(mount.image_sha1(), 40));
        found.note(
            at("image_sha2_256"),
            words::digest(mount.image_sha2_256(), 64),
        );
        found.note(
            at("image_verity_sha256"),
            words::digest(mount.image_verity_sha256(), 64),
        );
    }
}

fn image_name(mount: &GuestOsMount) -> Option<String> {
    let file = &mount.image_file;
    match mount.mount_type() {
        // Names its block device by an absolute path (runtime.md 3.2).
        Type::Device | Type::DeviceRw => words::absolute(file),
        Type::BindFile | Type::BindFileRw if file == SHARED_STORE => {
            Some(format!("{file:?} is what all shared files lie in"))
        }
        _ => words::component(file),
    }
}

/// Whether a mount shows an image of the guest OS store.
#[must_use]
pub fn has_image(mount: &GuestOsMount) -> bool {
    matches!(
        mount.mount_type(),
        Type::Shared | Type::SharedRw | Type::OverlayRo
    )
}

/// Whether something is mounted that has been a file or device before.
fn mounts_image(mount: &GuestOsMount) -> bool {
    let copied = [Type::Copy, Type::Device, Type::DeviceRw];
    has_image(mount) || copied.contains(&mount.mount_type())
}

fn file_system(name: &str) -> Option<String> {
    (!IMAGE_FILE_SYSTEMS.contains(&name)).then(|| {
        format!(
            "{name:?} is no file system that an image may have, such as squashfs, erofs or ext4"
        )
    })
}

fn leads_out(data: &str) -> bool {
    data.split(',').any(|option| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        OUTSIDE.contains(&key.trim()) || value.contains('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount() -> GuestOsMount {
        GuestOsMount {
            image_file: "root".into(),
            mount_point: "/".into(),
            fs_type: "squashfs".into(),
            ..Default::default()
        }
    }

    fn changed(change: impl FnOnce(&mut GuestOsConfig)) -> Vec<String> {
        let mut config = GuestOsConfig {
            name: "busybox".into(),
            version: 1,
            mounts: vec![mount()],
            ..Default::default()
        };
        change(&mut config);
        let found = breaches(&config).into_iter();
        found.map(|breach| breach.field).collect()
    }

    #[test]
    fn a_plain_configuration_is_accepted() {
        assert!(changed(|_| {}).is_empty());
    }

    #[test]
    fn nothing_that_leads_out_of_its_directory_is_accepted() {
        for bad in ["", "..", "a/b", "/etc", "a\0b"] {
            assert_eq!(changed(|c| c.name = bad.into()), ["name"], "{bad:?}");
            let refused = changed(|c| c.mounts[0].image_file = bad.into());
            assert_eq!(refused, ["mounts[0].image_file"]);
            let setup = GuestOsMount {
                image_file: bad.into(),
                ..mount()
            };
            let refused = changed(|c| c.mounts_setup = vec![mount(), setup]);
            assert_eq!(refused, ["mounts_setup[1].image_file"]);
        }
        for bad in [".commit-x", &"x".repeat(201)] {
            assert_eq!(changed(|c| c.name = bad.into()), ["name"], "{bad:?}");
        }
        for bad in ["", "relative", "/a/../b", "/a\0"] {
            let refused = changed(|c| c.mounts[0].mount_point = bad.into());
            assert_eq!(refused, ["mounts[0].mount_point"]);
            assert_eq!(changed(|c| c.init_path = Some(bad.into())), ["init_path"]);
        }
    }

    #[test]
    fn an_image_has_a_file_system_of_its_own_and_no_option_leads_out_of_it() {
        for bad in [
            "", "ext4,x", "a\0", "overlay", "nfs", "9p", "proc", "tmpfs", "fuse",
        ] {
            let refused = changed(|c| c.mounts[0].fs_type = bad.into());
            assert_eq!(refused, ["mounts[0].fs_type"]);
        }
        for bad in [
            "lowerdir=/etc",
            "device=/dev/sda",
            "ro,source=sda",
            "logdev=x",
        ] {
            let refused = changed(|c| c.mounts[0].mount_data = Some(bad.into()));
            assert_eq!(refused, ["mounts[0].mount_data"]);
        }
        let fine = changed(|c| c.mounts[0].mount_data = Some("noload,errors=continue".into()));
        assert!(fine.is_empty());
    }

    #[test]
    fn no_guest_writes_what_all_shared_files_lie_in() {
        for kind in [Type::BindFile, Type::BindFileRw] {
            let refused = changed(|c| {
                c.mounts[0].set_mount_type(kind);
                c.mounts[0].image_file = SHARED_STORE.into();
            });
            assert_eq!(refused, ["mounts[0].image_file"]);
        }
    }

    #[test]
    fn version_zero_nul_bytes_and_digests_that_are_none_are_refused() {
        assert_eq!(changed(|c| c.version = 0), ["version"]);
        assert_eq!(
            changed(|c| c.init_param = vec!["a\0".into()]),
            ["init_param[0]"]
        );
        let refused = changed(|c| c.mounts[0].mount_data = Some("\0".into()));
        assert_eq!(refused, ["mounts[0].mount_data"]);
        let refused = changed(|c| c.mounts[0].image_sha2_256 = Some("abc".into()));
        assert_eq!(refused, ["mounts[0].image_sha2_256"]);
    }
}
