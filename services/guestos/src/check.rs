//! Whether a configuration makes sense, before anything is done with it (runtime.md 9, number 61).

use std::path::{Component, Path};

use cml_sys::{mount::options, path::is_component};
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};

/// A configuration that cannot be used although its signature is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// The name would be a path, or hidden among the files of the store.
    #[error("the name {0:?} cannot be the beginning of a file name")]
    Name(String),
    /// Version 0 means "none" (protocol.md 6.4).
    #[error("the version must be above 0")]
    Version,
    /// A mount names an image that would be a path.
    #[error("the image name {0:?} cannot be part of a file name")]
    Image(String),
    /// A mount point that is not a plain absolute path.
    #[error("the mount point {0:?} must be absolute, without `..`")]
    MountPoint(String),
    /// A file system that no image may have.
    #[error("{0:?} is no file system that an image may have, such as squashfs, erofs or ext4")]
    FsType(String),
    /// An option that would lead out of the image.
    #[error("mount_data {0:?}: an image takes no option that names another file or device")]
    MountData(String),
    /// The program to start is not named by a plain absolute path.
    #[error("init_path {0:?} must be absolute, without `..`")]
    Init(String),
    /// A word for init that the kernel cannot take.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
}

/// Checks everything that later becomes part of a path, a mount or an argument.
pub fn check(config: &GuestOsConfig) -> Result<(), BadConfig> {
    // Room for the version and for what the store puts in front of names.
    let is_name = is_component(&config.name) && config.name.len() <= 200;
    if !is_name || config.name.starts_with('.') {
        return Err(BadConfig::Name(config.name.clone()));
    }
    if config.version == 0 {
        return Err(BadConfig::Version);
    }
    for mount in config.mounts.iter().chain(&config.mounts_setup) {
        check_mount(mount)?;
    }
    if !is_plain_absolute(config.init_path()) {
        return Err(BadConfig::Init(config.init_path().to_owned()));
    }
    for (field, words) in [
        ("init_param", &config.init_param),
        ("init_env", &config.init_env),
    ] {
        if words.iter().any(|word| word.contains('\0')) {
            return Err(BadConfig::Nul(field));
        }
    }
    Ok(())
}

/// What the shared files lie in (runtime.md 3.2); a guest that wrote it would decide what all others see.
const SHARED_STORE: &str = "_store.img";

fn check_mount(mount: &GuestOsMount) -> Result<(), BadConfig> {
    // A DEVICE names its block device by an absolute path (runtime.md 3.2).
    let device = matches!(mount.mount_type(), Type::Device | Type::DeviceRw);
    let image_fits = match device {
        true => is_plain_absolute(&mount.image_file),
        false => is_component(&mount.image_file),
    };
    if !image_fits {
        return Err(BadConfig::Image(mount.image_file.clone()));
    }
    if !is_plain_absolute(&mount.mount_point) {
        return Err(BadConfig::MountPoint(mount.mount_point.clone()));
    }
    let bound = matches!(mount.mount_type(), Type::BindFile | Type::BindFileRw);
    if bound && mount.image_file == SHARED_STORE {
        return Err(BadConfig::Image(mount.image_file.clone()));
    }
    if mount.mount_data().contains('\0') {
        return Err(BadConfig::Nul("mount_data"));
    }
    let copied = matches!(
        mount.mount_type(),
        Type::Copy | Type::Device | Type::DeviceRw
    );
    match has_image(mount) || copied {
        true => check_image(mount),
        false => Ok(()),
    }
}

/// Whether a mount shows an image of the guest OS store.
pub fn has_image(mount: &GuestOsMount) -> bool {
    matches!(
        mount.mount_type(),
        Type::Shared | Type::SharedRw | Type::OverlayRo
    )
}

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

fn check_image(mount: &GuestOsMount) -> Result<(), BadConfig> {
    if !IMAGE_FILE_SYSTEMS.contains(&mount.fs_type.as_str()) {
        return Err(BadConfig::FsType(mount.fs_type.clone()));
    }
    let leads_out = |(key, value): &(&str, &str)| OUTSIDE.contains(key) || value.contains('/');
    let of_image = mount.mount_type() != Type::SharedRw;
    match of_image && options(mount.mount_data()).iter().any(leads_out) {
        true => Err(BadConfig::MountData(mount.mount_data().to_owned())),
        false => Ok(()),
    }
}

fn is_plain_absolute(text: &str) -> bool {
    let path = Path::new(text);
    path.is_absolute()
        && !text.contains('\0')
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuestOsConfig {
        GuestOsConfig {
            name: "busybox".into(),
            version: 1,
            mounts: vec![GuestOsMount {
                image_file: "root".into(),
                mount_point: "/".into(),
                fs_type: "squashfs".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn changed(change: impl FnOnce(&mut GuestOsConfig)) -> Result<(), BadConfig> {
        let mut config = config();
        change(&mut config);
        check(&config)
    }

    #[test]
    fn a_plain_configuration_is_accepted() {
        assert_eq!(check(&config()), Ok(()));
    }

    #[test]
    fn nothing_that_leads_out_of_its_directory_is_accepted() {
        for bad in ["", "..", "a/b", "/etc", "a\0b"] {
            assert!(changed(|c| c.name = bad.into()).is_err(), "{bad:?}");
            assert!(changed(|c| c.mounts[0].image_file = bad.into()).is_err());
            assert!(
                changed(|c| c.mounts_setup = vec![GuestOsMount {
                    image_file: bad.into(),
                    ..config().mounts[0].clone()
                }])
                .is_err()
            );
        }
        for bad in [".commit-x", &"x".repeat(201)] {
            assert!(changed(|c| c.name = bad.into()).is_err(), "{bad:?}");
        }
        for bad in ["", "relative", "/a/../b", "/a\0"] {
            assert!(changed(|c| c.mounts[0].mount_point = bad.into()).is_err());
            assert!(changed(|c| c.init_path = Some(bad.into())).is_err());
        }
    }

    #[test]
    fn an_image_has_a_file_system_of_its_own_and_no_option_leads_out_of_it() {
        for bad in [
            "", "ext4,x", "a\0", "overlay", "nfs", "9p", "proc", "tmpfs", "fuse",
        ] {
            let refused = changed(|c| c.mounts[0].fs_type = bad.into());
            assert_eq!(refused, Err(BadConfig::FsType(bad.into())));
        }
        for bad in [
            "lowerdir=/etc",
            "device=/dev/sda",
            "ro,source=sda",
            "logdev=x",
        ] {
            let refused = changed(|c| c.mounts[0].mount_data = Some(bad.into()));
            assert_eq!(refused, Err(BadConfig::MountData(bad.into())));
        }
        assert_eq!(
            changed(|c| c.mounts[0].mount_data = Some("noload,errors=continue".into())),
            Ok(())
        );
    }

    #[test]
    fn no_guest_writes_what_all_shared_files_lie_in() {
        for kind in [Type::BindFile, Type::BindFileRw] {
            let refused = changed(|c| {
                c.mounts[0].set_mount_type(kind);
                c.mounts[0].image_file = SHARED_STORE.into();
            });
            assert_eq!(refused, Err(BadConfig::Image(SHARED_STORE.into())));
        }
    }

    #[test]
    fn version_zero_and_nul_bytes_are_refused() {
        assert_eq!(changed(|c| c.version = 0), Err(BadConfig::Version));
        assert!(changed(|c| c.init_param = vec!["a\0".into()]).is_err());
        assert!(changed(|c| c.mounts[0].mount_data = Some("\0".into())).is_err());
    }
}
