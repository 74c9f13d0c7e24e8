//! Encryption by device-mapper, with the tables of the existing system (crypto.md 5.1): integrity below, crypt
//! above. Whoever changes a block of an image makes it unreadable.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use cml_bus::{id::ContainerId, secret::Key};
use cml_sys::{
    dm::{Control, Journal, Target, integrity},
    file,
    loopdev::{self, Loop},
    mkfs,
    mount::{Restrict, options},
    mounted::Mounted,
    space,
};
use cml_wire::proto::CryptfsMode;
use rustix::fs::{Mode, OFlags};

use super::{
    backend::{Backend, OpenVolume, Site, VolumeError, mount},
    spec::Volume,
};

/// Says that the volumes of a container have the present tables and not those of before (crypto.md 5.2).
pub(super) const NOT_STACKED: &str = "not-stacked";

/// Bytes of a sector in all tables.
const SECTOR: u64 = 512;

/// How long a device that nobody should use any more may be busy: whoever looks at every device that
/// appears holds it for a moment (LIF-09).
const PATIENCE: Duration = Duration::from_secs(20);

/// dm-crypt on dm-integrity.
#[derive(Debug)]
pub struct Dm {
    control: Control,
}

/// The tables of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// The integrity layer checks, the crypt layer encrypts.
    IntegrityEncrypt,
    /// The integrity layer alone: `core0`, whose key anybody could read.
    IntegrityOnly,
    /// The crypt layer does both; the integrity layer holds its tags. Only volumes of long ago.
    Authenc,
}

impl Scheme {
    /// The tables of the container whose images lie in this directory.
    fn of(dir: &Path) -> Self {
        let owner = dir.file_name().and_then(|name| name.to_str());
        if owner.and_then(|name| name.parse().ok()) == Some(ContainerId::CORE0) {
            return Self::IntegrityOnly;
        }
        if dir.join(NOT_STACKED).exists() {
            return Self::IntegrityEncrypt;
        }
        let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let is_meta = |name: &str| name.ends_with(".meta.img") && !name.starts_with('.');
        match entries.any(|entry| entry.file_name().to_str().is_some_and(is_meta)) {
            true => Self::Authenc,
            false => Self::IntegrityEncrypt,
        }
    }
}

impl Dm {
    /// Device-mapper, if this kernel has what the tables need.
    pub fn detect() -> Option<Self> {
        let control = Control::open().ok()?;
        let has = |target| control.has_target(target).unwrap_or_default();
        (has("integrity") && has("crypt")).then_some(Self { control })
    }
}

/// The devices of a volume; they are taken away again when this is dropped.
struct Devices<'a> {
    control: &'a Control,
    labels: Vec<String>,
    path: PathBuf,
}

impl Devices<'_> {
    /// They stay; the record of the container says how they go.
    fn keep(mut self) -> PathBuf {
        self.labels.clear();
        std::mem::take(&mut self.path)
    }
}

impl Drop for Devices<'_> {
    fn drop(&mut self) {
        for label in self.labels.iter().rev() {
            if let Err(error) = self.control.remove(label, PATIENCE) {
                tracing::error!(%error, "a device is left");
            }
        }
    }
}

impl Dm {
    fn map(
        &self,
        site: &Site,
        key: &Key,
        scheme: Scheme,
        journal: Journal,
    ) -> Result<Devices<'_>, VolumeError> {
        let failed = |error: cml_sys::Error| VolumeError::failed(&site.image, error);
        let [top, below] = labels(site);
        for stale in [&top, &below] {
            self.control.remove(stale, PATIENCE).map_err(failed)?;
        }
        let (data, size) = attach(&site.image)?;
        let (meta, _) = attach(&site.meta)?;
        let sectors = size / SECTOR;
        let key = key.expose();
        let crypt_bytes = match scheme {
            Scheme::IntegrityOnly => 0,
            Scheme::IntegrityEncrypt | Scheme::Authenc => 64,
        };
        let (crypt_key, mac_key) = key
            .split_at_checked(crypt_bytes)
            .ok_or_else(|| VolumeError::damaged(&site.image, "its key is too short"))?;
        let integrity = match scheme {
            Scheme::IntegrityEncrypt | Scheme::IntegrityOnly => {
                Target::integrity(&data.path, &meta.path, mac_key, journal)
            }
            Scheme::Authenc => Target::integrity_for_crypt(&data.path, &meta.path, journal),
        };
        let create = |name: &str, target: cml_sys::Result<Target>| {
            let device = self.control.create(name, None, false, sectors, &target?)?;
            Ok::<_, cml_sys::Error>(device.path)
        };
        let mut devices = Devices {
            control: &self.control,
            labels: Vec::new(),
            path: create(&below, integrity).map_err(failed)?,
        };
        devices.labels.push(below);
        let crypt = match scheme {
            Scheme::IntegrityOnly => return Ok(devices),
            Scheme::IntegrityEncrypt => Target::crypt(&devices.path, crypt_key),
            Scheme::Authenc => Target::crypt_authenticated(&devices.path, key),
        };
        devices.path = create(&top, crypt).map_err(failed)?;
        devices.labels.push(top);
        Ok(devices)
    }
}

impl Backend for Dm {
    fn mode(&self, dir: &Path) -> CryptfsMode {
        match Scheme::of(dir) {
            Scheme::IntegrityEncrypt => CryptfsMode::IntegrityEncrypt,
            Scheme::IntegrityOnly => CryptfsMode::IntegrityOnly,
            Scheme::Authenc => CryptfsMode::Authenc,
        }
    }

    fn suffix(&self) -> &'static str {
        "img"
    }

    fn accepts(&self, _: &Volume) -> Result<(), String> {
        Ok(())
    }

    fn format(&self, site: &Site, volume: &Volume, key: &Key) -> Result<(), VolumeError> {
        let failed = |error: cml_sys::Error| VolumeError::failed(&site.image, error);
        let dir = site.image.parent().unwrap_or(Path::new("/"));
        let scheme = Scheme::of(dir);
        if scheme != Scheme::Authenc {
            cml_sys::atomic::write(&dir.join(NOT_STACKED), b"", 0o600).map_err(failed)?;
        }
        // The journal of a small volume is full after some KiB, and each time all is flushed down to the disk. What it would
        // keep whole nobody looks at: an interrupted start begins anew.
        let devices = self.map(site, key, scheme, Journal::Off)?;
        // Only what has been written once has a valid tag.
        space::fill_with_zeros(&devices.path).map_err(failed)?;
        mkfs::make(&volume.fs_type, &devices.path, &[]).map_err(failed)?;
        if let Some(subvolume) = subvolume(volume) {
            let (mounted, _) = show(site, &devices.path, &volume.fs_type, "")?;
            mkfs::make_subvolume(&mounted.path().join(subvolume)).map_err(failed)?;
        }
        // Without a journal the tags are written when they must be.
        file::sync_device(&devices.path).map_err(failed)?;
        drop(devices);
        [&site.image, &site.meta]
            .into_iter()
            .try_for_each(|image| loopdev::await_release(image, PATIENCE))
            .map_err(failed)
    }

    fn open(&self, site: &Site, volume: &Volume, key: &Key) -> Result<OpenVolume, VolumeError> {
        // A table that is loaded over anything else would format it: that is a loss, not a new volume.
        let damaged = |reason: &str| VolumeError::damaged(&site.meta, reason);
        let meta = File::open(&site.meta).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("its checksums are missing"),
            _ => VolumeError::failed(&site.meta, error),
        })?;
        let size = std::fs::metadata(&site.image)
            .map_err(|error| VolumeError::failed(&site.image, error))?
            .len();
        // The tags alone are 32 bytes for each sector.
        if meta
            .metadata()
            .is_ok_and(|meta| meta.len() < size / SECTOR * 32)
        {
            return Err(damaged("a part of its checksums is missing"));
        }
        match integrity::read(&meta) {
            Ok(Some(sectors)) if sectors == size / SECTOR => {}
            Ok(Some(_)) => return Err(damaged("it belongs to an image of another size")),
            Ok(None) => return Err(damaged("it holds no checksums any more")),
            Err(error) => return Err(VolumeError::failed(&site.meta, error)),
        }
        let scheme = Scheme::of(site.image.parent().unwrap_or(Path::new("/")));
        let devices = self.map(site, key, scheme, Journal::On)?;
        let options = &volume.options;
        let (mounted, tree) = show(site, &devices.path, &volume.fs_type, options)?;
        devices.keep();
        Ok(OpenVolume::new(tree, false, mounted))
    }

    fn devices(&self, site: &Site) -> Vec<String> {
        labels(site).to_vec()
    }

    fn meta_size(&self, size: u64) -> Option<u64> {
        Some(size / 10)
    }
}

/// The crypt layer and the integrity layer below it.
fn labels(site: &Site) -> [String; 2] {
    [site.label.clone(), format!("{}-integrity", site.label)]
}

fn subvolume(volume: &Volume) -> Option<String> {
    let wanted = options(&volume.options);
    let name = wanted.iter().find(|(key, _)| *key == "subvol")?.1;
    (volume.fs_type == "btrfs" && cml_wire::rules::is_component(name)).then(|| name.to_owned())
}

/// The loop device of an image, and its size.
fn attach(image: &Path) -> Result<(Loop, u64), VolumeError> {
    let failed = |error: std::io::Error| VolumeError::failed(image, error);
    let file = File::options().read(true).write(true).open(image);
    let file = file.map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let device = loopdev::attach(&file, false);
    let device = device.map_err(|error| VolumeError::failed(image, error))?;
    Ok((device, size))
}

fn show(
    site: &Site,
    device: &Path,
    fs_type: &str,
    options: &str,
) -> Result<(Mounted, OwnedFd), VolumeError> {
    let restrict = Restrict {
        no_dev: true,
        ..Restrict::default()
    };
    let kind = (fs_type, options);
    let mounted = mount(device, &site.image, kind, restrict, &site.mount)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = rustix::fs::open(mounted.path(), flags, Mode::empty());
    let tree = tree.map_err(|error| VolumeError::failed(&site.image, io::Error::from(error)))?;
    Ok((mounted, tree))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn volumes_of_long_ago_keep_their_tables_and_new_ones_get_the_present_ones() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(Scheme::of(&at("absent")), Scheme::IntegrityEncrypt);
        // A copy of an image, and what an interrupted start has left.
        fs::write(at("copy.img"), "").unwrap();
        fs::write(at(".data.meta.img.new"), "").unwrap();
        assert_eq!(Scheme::of(dir.path()), Scheme::IntegrityEncrypt);
        fs::write(at("data.meta.img"), "").unwrap();
        assert_eq!(Scheme::of(dir.path()), Scheme::Authenc);
        fs::write(at(NOT_STACKED), "").unwrap();
        assert_eq!(Scheme::of(dir.path()), Scheme::IntegrityEncrypt);
        let core0 = at(&ContainerId::CORE0.to_string());
        assert_eq!(Scheme::of(&core0), Scheme::IntegrityOnly);
    }
}
