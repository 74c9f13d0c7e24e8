//! Which volumes a container has, from its configuration and that of its guest OS (runtime.md 3.1, 3.2).

use std::path::PathBuf;

use cml_sys::mount::options;
use cml_wire::proto::{ContainerConfig, GuestOsConfig, GuestOsMount, guest_os_mount::Type};

/// No volume is smaller, in MiB (runtime.md 3.1).
const SMALLEST: u64 = 10;

/// Longest name in bytes: with the container's identity and a suffix it must fit into a device's name of 127.
const NAME_MAX: usize = 80;

/// A file system of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The name of its image, without suffix.
    pub name: String,
    /// ext4 or btrfs where we make it; whatever it has otherwise.
    pub fs_type: String,
    /// Options of its mount, e.g. `discard,subvol=home`.
    pub options: String,
    /// What it holds, and how.
    pub content: Content,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What the container writes, encrypted.
    Encrypted {
        /// The size of a new one.
        mib: u64,
    },
    /// A copy of an image of the guest OS, which the container changes.
    Copy {
        /// The name of that image.
        image: String,
        /// Its size.
        bytes: u64,
    },
    /// A copy of a block device of the host.
    Device {
        /// The block device.
        device: PathBuf,
        /// The container changes the copy.
        writable: bool,
    },
}

/// A volume that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVolume {
    /// Larger or smaller than the guest OS allows.
    #[error(
        "volume `{name}`: {mib} MiB are asked for, but the guest OS takes {least} to {most} MiB \
         (`image_sizes` of the container, `min_size` and `max_size` of the guest OS)"
    )]
    Size {
        /// The image.
        name: String,
        /// The size that was asked for.
        mib: u64,
        /// The smallest that is allowed.
        least: u64,
        /// The largest that is allowed.
        most: u64,
    },
    /// A file system that we cannot make.
    #[error("volume `{name}`: {fs_type:?} cannot be made; use ext4 or btrfs")]
    FsType {
        /// The image.
        name: String,
        /// Its type.
        fs_type: String,
    },
    /// A name that would get in the way of other files or devices of a container.
    #[error(
        "volume {0:?}: at most 80 bytes, not starting with a dot, not ending in `.meta`, `.fscrypt` or \
         `-integrity`"
    )]
    Name(String),
    /// Two volumes that are not the same want the same image.
    #[error("volume `{0}` is mounted twice, in different ways")]
    Twice(String),
    /// An option that would lead out of the volume.
    #[error("volume `{name}`: mount_data {data:?} names another file or device")]
    Options {
        /// The image.
        name: String,
        /// The options.
        data: String,
    },
}

/// The volumes behind these mounts, each once.
pub fn volumes<'a>(
    mounts: impl Iterator<Item = &'a GuestOsMount>,
    config: &ContainerConfig,
) -> Result<Vec<Volume>, BadVolume> {
    let mut found: Vec<Volume> = Vec::new();
    for mount in mounts {
        let Some(volume) = volume(mount, config)? else {
            continue;
        };
        match found.iter().find(|other| other.name == volume.name) {
            Some(same) if *same == volume => {}
            Some(_) => return Err(BadVolume::Twice(volume.name)),
            None => found.push(volume),
        }
    }
    Ok(found)
}

/// The volume behind a mount, if it is of a type that has one.
pub fn volume(mount: &GuestOsMount, config: &ContainerConfig) -> Result<Option<Volume>, BadVolume> {
    let Some(name) = name(mount, config) else {
        return Ok(None);
    };
    let taken = [".meta", ".fscrypt", "-integrity"];
    if name.is_empty()
        || name.len() > NAME_MAX
        || name.starts_with('.')
        || taken.iter().any(|suffix| name.ends_with(suffix))
    {
        return Err(BadVolume::Name(name));
    }
    let content = match mount.mount_type() {
        Type::Device | Type::DeviceRw => Content::Device {
            device: PathBuf::from(&mount.image_file),
            writable: mount.mount_type() == Type::DeviceRw,
        },
        Type::Copy => Content::Copy {
            image: mount.image_file.clone(),
            bytes: mount.image_size(),
        },
        _ => {
            if !["ext4", "btrfs"].contains(&mount.fs_type.as_str()) {
                let fs_type = mount.fs_type.clone();
                return Err(BadVolume::FsType { name, fs_type });
            }
            Content::Encrypted {
                mib: size(mount, config, &name)?,
            }
        }
    };
    let data = mount.mount_data().to_owned();
    let leads_out = |(key, value): &(&str, &str)| {
        OUTSIDE.contains(key) || (*key != "subvol" && value.contains('/'))
    };
    if options(&data).iter().any(leads_out) {
        return Err(BadVolume::Options { name, data });
    }
    Ok(Some(Volume {
        name,
        fs_type: mount.fs_type.clone(),
        options: data,
        content,
    }))
}

/// Options that name another device than that of the volume.
const OUTSIDE: &[&str] = &["source", "device", "journal_dev", "journal_path"];

/// The name of the image that a volume lies in; `None` for mounts that have no volume.
pub fn name(mount: &GuestOsMount, config: &ContainerConfig) -> Option<String> {
    match mount.mount_type() {
        Type::Empty if mount.fs_type.starts_with("tmpfs") => None,
        // The path of a device is no file name (runtime.md 9, number 17).
        Type::Device | Type::DeviceRw => Some(mount.image_file.trim_matches('/').replace('/', "-")),
        Type::Empty | Type::OverlayRw | Type::Copy => {
            let image = &mount.image_file;
            let replaced = entry(mount, config).and_then(|size| size.image_file.as_ref());
            Some(replaced.unwrap_or(image).clone())
        }
        _ => None,
    }
}

/// Whether a mount shows something that only a PIN opens (runtime.md 3.3).
pub fn is_encrypted(mount: &GuestOsMount) -> bool {
    match mount.mount_type() {
        Type::Empty => !mount.fs_type.starts_with("tmpfs"),
        Type::OverlayRw => true,
        _ => false,
    }
}

/// Whether a container of this guest OS has volumes that only a PIN opens.
pub fn has_encrypted(guestos: &GuestOsConfig, setup: bool) -> bool {
    let setup_mounts = guestos.mounts_setup.iter().filter(|_| setup);
    guestos.mounts.iter().chain(setup_mounts).any(is_encrypted)
}

fn entry<'a>(
    mount: &GuestOsMount,
    config: &'a ContainerConfig,
) -> Option<&'a cml_wire::proto::ContainerImageSize> {
    let mut sizes = config.image_sizes.iter();
    sizes.find(|size| size.image_name == mount.image_file)
}

/// MiB, whatever the comments of the existing protocol files say (runtime.md 3.1).
fn size(mount: &GuestOsMount, config: &ContainerConfig, name: &str) -> Result<u64, BadVolume> {
    let configured = entry(mount, config).map(|size| size.image_size);
    let mib = configured
        .into_iter()
        .chain([mount.image_size()])
        .find(|size| *size != 0)
        .unwrap_or(mount.def_size().into());
    let (least, most) = (
        SMALLEST.max(mount.min_size().into()),
        u64::from(mount.max_size()),
    );
    match (least..=most).contains(&mib) {
        true => Ok(mib),
        false => Err(BadVolume::Size {
            name: name.to_owned(),
            mib,
            least,
            most,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_wire::proto::ContainerImageSize;

    use super::*;

    fn mount(kind: Type, image: &str) -> GuestOsMount {
        GuestOsMount {
            image_file: image.into(),
            mount_point: "/x".into(),
            fs_type: "ext4".into(),
            mount_type: kind.into(),
            ..Default::default()
        }
    }

    fn sized(image: &str, mib: u64, file: Option<&str>) -> ContainerConfig {
        ContainerConfig {
            image_sizes: vec![ContainerImageSize {
                image_name: image.into(),
                image_size: mib,
                image_file: file.map(str::to_owned),
            }],
            ..Default::default()
        }
    }

    fn mib(mount: &GuestOsMount, config: &ContainerConfig) -> Result<u64, BadVolume> {
        match volume(mount, config)?.unwrap().content {
            Content::Encrypted { mib } => Ok(mib),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_container_decides_about_a_size_then_the_guest_os_then_its_default() {
        let plain = mount(Type::Empty, "data");
        let sized_by_os = GuestOsMount {
            image_size: Some(50),
            ..plain.clone()
        };
        let none = ContainerConfig::default();
        assert_eq!(mib(&plain, &none), Ok(1024));
        assert_eq!(mib(&sized_by_os, &none), Ok(50));
        assert_eq!(mib(&sized_by_os, &sized("data", 70, None)), Ok(70));
        assert_eq!(mib(&sized_by_os, &sized("data", 0, None)), Ok(50));
        assert_eq!(mib(&sized_by_os, &sized("other", 70, None)), Ok(50));
    }

    #[test]
    fn a_size_out_of_bounds_is_refused() {
        let bounded = GuestOsMount {
            min_size: Some(20),
            max_size: Some(30),
            ..mount(Type::OverlayRw, "data")
        };
        assert_eq!(mib(&bounded, &sized("data", 20, None)), Ok(20));
        assert_eq!(mib(&bounded, &sized("data", 30, None)), Ok(30));
        for bad in [1, 19, 31, u64::MAX] {
            let refused = mib(&bounded, &sized("data", bad, None));
            assert!(matches!(refused, Err(BadVolume::Size { .. })), "{bad}");
        }
        let unbounded = GuestOsMount {
            min_size: Some(0),
            ..mount(Type::Empty, "data")
        };
        assert!(mib(&unbounded, &sized("data", 9, None)).is_err());
    }

    #[test]
    fn an_image_goes_by_the_name_that_the_container_gives_it_and_a_device_by_a_safe_one() {
        let config = sized("data", 20, Some("mine"));
        assert_eq!(name(&mount(Type::Copy, "data"), &config).unwrap(), "mine");
        assert_eq!(name(&mount(Type::Shared, "data"), &config), None);
        let device = mount(Type::DeviceRw, "/dev/disk/by-label/x");
        assert_eq!(name(&device, &config).unwrap(), "dev-disk-by-label-x");
    }

    #[test]
    fn no_volume_takes_the_name_of_another_ones_checksums_or_devices() {
        let config = ContainerConfig::default();
        let long = "x".repeat(81);
        for bad in [".x", "x.meta", "x.fscrypt", "x-integrity", long.as_str()] {
            for kind in [Type::Empty, Type::Copy] {
                let refused = volume(&mount(kind, bad), &config);
                assert_eq!(refused, Err(BadVolume::Name(bad.into())));
            }
        }
    }

    #[test]
    fn one_volume_may_be_mounted_twice_but_only_in_one_way() {
        let config = ContainerConfig::default();
        let (a, b) = (mount(Type::Empty, "data"), mount(Type::OverlayRw, "data"));
        assert_eq!(volumes([&a, &b].into_iter(), &config).unwrap().len(), 1);
        let other = mount(Type::Copy, "data");
        let twice = volumes([&a, &other].into_iter(), &config);
        assert_eq!(twice, Err(BadVolume::Twice("data".into())));
    }

    #[test]
    fn nothing_that_is_to_be_encrypted_gets_a_file_system_that_we_cannot_make() {
        let config = ContainerConfig::default();
        for bad in ["", "vfat", "overlay", "xfs"] {
            let mount = GuestOsMount {
                fs_type: bad.into(),
                ..mount(Type::Empty, "data")
            };
            let refused = volume(&mount, &config);
            assert!(matches!(refused, Err(BadVolume::FsType { .. })), "{bad}");
            assert!(is_encrypted(&mount));
        }
        for bad in ["journal_path=/dev/sda", "ro,source=/etc", "x=/y"] {
            let mount = GuestOsMount {
                mount_data: Some(bad.into()),
                ..mount(Type::Empty, "data")
            };
            let refused = volume(&mount, &config);
            assert!(matches!(refused, Err(BadVolume::Options { .. })), "{bad}");
        }
    }
}
