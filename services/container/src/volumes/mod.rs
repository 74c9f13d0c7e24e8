//! The volumes of containers: made at the first start, opened at every start, gone with a wipe.
//!
//! [`spec`] says what a container has, [`room`] whether there is room for it; [`backend`] is how things are
//! encrypted, with one file for each way. A volume is made under a name that starts with a dot and gets its
//! own when it is complete, so an interrupted start leaves nothing that a later one could take for data.

pub mod backend;
mod dm;
mod fscrypt;
mod plain;
pub mod room;
pub mod spec;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use cml_bus::{id::ContainerId, secret::Key};
use cml_sys::{atomic, dm::Control, file, loopdev, mkfs, mount, space};
use cml_wire::proto::CryptfsMode;
use serde::{Deserialize, Serialize};

use backend::{Backend, OpenVolume, Site, VolumeError};
use spec::{Content, Volume};

/// How long what an earlier run of a container has left may take to go away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Suffix of images that are not encrypted, and of those that device-mapper encrypts.
const IMAGE: &str = "img";

/// Where volumes lie and how they are encrypted.
#[derive(Debug)]
pub struct Volumes {
    containers: PathBuf,
    mounts: PathBuf,
    /// What encrypts new volumes; those that are there first of all say themselves.
    backends: Vec<Box<dyn Backend>>,
    /// Percent of the disk that new volumes leave free.
    reserve: u32,
}

/// What the device allows.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// fscrypt may encrypt where device-mapper cannot.
    pub allow_fscrypt: bool,
    /// Percent of the disk that new volumes leave free.
    pub reserve: u32,
}

/// The volumes of a container that are open, by name.
#[derive(Debug, Default)]
pub struct OpenVolumes(BTreeMap<String, OpenVolume>);

impl OpenVolumes {
    /// One of them.
    pub fn get(&self, name: &str) -> Option<&OpenVolume> {
        self.0.get(name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What has to be undone for the volumes of a container, in the words of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Where they are mounted for the daemon.
    pub mounts: Vec<PathBuf>,
    /// The devices of device-mapper, the last one first.
    pub devices: Vec<String>,
    /// The files that loop devices have.
    pub images: Vec<PathBuf>,
}

impl Traces {
    /// Closes what is still open. The guest must have ended.
    pub fn remove(&self) -> Result<(), String> {
        let mut failures = Vec::new();
        for at in &self.mounts {
            // After a crash of the daemon its mounts are gone with it.
            let _ = mount::detach(at);
            let _ = fs::remove_dir(at);
            let _ = at.parent().map(fs::remove_dir);
        }
        if !self.devices.is_empty() {
            let control = Control::open().map_err(|error| error.to_string())?;
            let remove = |device: &String| control.remove(device, PATIENCE).err();
            failures.extend(self.devices.iter().filter_map(remove));
        }
        // What a device could not let go of is not worth waiting for.
        if failures.is_empty() {
            let release = |image: &PathBuf| loopdev::await_release(image, PATIENCE).err();
            failures.extend(self.images.iter().filter_map(release));
        }
        let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures.join("; ")),
        }
    }
}

impl Volumes {
    /// Volumes in the images directories of containers, mounted below `mounts`.
    pub fn new(containers: PathBuf, mounts: PathBuf, policy: Policy) -> Self {
        let mut backends: Vec<Box<dyn Backend>> = Vec::new();
        if let Some(dm) = dm::Dm::detect() {
            backends.push(Box::new(dm));
        }
        if policy.allow_fscrypt {
            backends.push(Box::new(fscrypt::Fscrypt));
        }
        Self {
            containers,
            mounts,
            backends,
            reserve: policy.reserve,
        }
    }

    fn dir(&self, id: ContainerId) -> PathBuf {
        self.containers.join(id.to_string())
    }

    fn file(&self, id: ContainerId, name: &str, suffix: &str) -> PathBuf {
        self.dir(id).join(format!("{name}.{suffix}"))
    }

    /// What may encrypt the volumes of a container, the best first.
    fn backends(&self, id: ContainerId) -> impl Iterator<Item = &dyn Backend> {
        let last: Option<&dyn Backend> = id.is_core0().then_some(&plain::Unprotected);
        self.backends.iter().map(|backend| &**backend).chain(last)
    }

    /// What encrypts a volume: what its image was made with, or the first choice for a new one. Where `core0` cannot have
    /// its image, it gets another one, and that stays for better times.
    fn backend(&self, id: ContainerId, volume: &Volume) -> Result<&dyn Backend, VolumeError> {
        let image = self.file(id, &volume.name, IMAGE);
        let made_with =
            |backend: &&dyn Backend| self.file(id, &volume.name, backend.suffix()).exists();
        if let Some(backend) = self.backends(id).find(made_with) {
            return Ok(backend);
        }
        if let Some(made) = self.made_with_another(id, &volume.name)
            && !id.is_core0()
        {
            return Err(VolumeError::failed(
                &made,
                "it was encrypted in a way that this kernel or device.conf (`storage_fallback`) does \
                 not allow now",
            ));
        }
        let backend = self.backends(id).next().ok_or_else(|| {
            VolumeError::failed(
                &image,
                "it must be encrypted, but this kernel has no device-mapper with `crypt` and \
                 `integrity`; load dm_crypt and dm_integrity, or allow `storage_fallback: FSCRYPT` in \
                 device.conf",
            )
        })?;
        backend
            .accepts(volume)
            .map_err(|reason| VolumeError::failed(&image, reason))?;
        Ok(backend)
    }

    fn made_with_another(&self, id: ContainerId, name: &str) -> Option<PathBuf> {
        let known = [IMAGE, "fscrypt.img", "plain.img"].map(|suffix| self.file(id, name, suffix));
        known.into_iter().find(|path| path.exists())
    }

    /// How those of the volumes that are encrypted are encrypted, or would be.
    pub fn mode(&self, id: ContainerId, volumes: &[Volume]) -> CryptfsMode {
        let encrypted = |volume: &&Volume| matches!(volume.content, Content::Encrypted { .. });
        let first = volumes.iter().find(encrypted);
        let backend = first.and_then(|volume| self.backend(id, volume).ok());
        backend.map_or(CryptfsMode::NotImplemented, |backend| {
            backend.mode(&self.dir(id))
        })
    }

    /// Whether a container has written anything yet that only its key opens.
    pub fn any_encrypted(&self, id: ContainerId, volumes: &[Volume]) -> bool {
        volumes.iter().any(|volume| {
            matches!(volume.content, Content::Encrypted { .. })
                && self.made_with_another(id, &volume.name).is_some()
        })
    }

    fn exists(&self, id: ContainerId, volume: &Volume) -> bool {
        match volume.content {
            Content::Encrypted { .. } => self.made_with_another(id, &volume.name).is_some(),
            _ => self.file(id, &volume.name, IMAGE).exists(),
        }
    }

    /// Whether everything that must be encrypted can be; asked before anything is written.
    pub fn check_encryption(&self, id: ContainerId, volumes: &[Volume]) -> Result<(), VolumeError> {
        let encrypted = |volume: &&Volume| matches!(volume.content, Content::Encrypted { .. });
        let mut encrypted = volumes.iter().filter(encrypted);
        encrypted.try_for_each(|volume| self.backend(id, volume).map(drop))
    }

    /// Whether there is room for those of the volumes that are not there yet.
    pub fn check_room(&self, id: ContainerId, volumes: &[Volume]) -> Result<(), String> {
        let new = volumes.iter().filter(|volume| !self.exists(id, volume));
        let needed = new.map(room::need).fold(0, u64::saturating_add);
        room::check(&self.containers, needed, self.reserve)
    }

    /// What opening these volumes leaves behind when nobody can clean up after it.
    pub fn traces(&self, id: ContainerId, volumes: &[Volume]) -> Result<Traces, VolumeError> {
        let mut traces = Traces::default();
        for volume in volumes {
            let suffix = match volume.content {
                Content::Encrypted { .. } => {
                    let backend = self.backend(id, volume)?;
                    traces
                        .devices
                        .extend(backend.devices(&self.site(id, volume, backend)));
                    backend.suffix()
                }
                _ => IMAGE,
            };
            traces.mounts.push(self.mount(id, volume));
            let image = self.file(id, &volume.name, suffix);
            let meta = self.file(id, &volume.name, "meta.img");
            traces
                .images
                .extend([unfinished(&image), image, unfinished(&meta), meta]);
        }
        Ok(traces)
    }

    fn mount(&self, id: ContainerId, volume: &Volume) -> PathBuf {
        self.mounts.join(id.to_string()).join(&volume.name)
    }

    fn site(&self, id: ContainerId, volume: &Volume, backend: &dyn Backend) -> Site {
        Site {
            image: self.file(id, &volume.name, backend.suffix()),
            meta: self.file(id, &volume.name, "meta.img"),
            label: format!("{id}-{}", volume.name),
            mount: self.mount(id, volume),
        }
    }

    /// Opens all volumes, and makes those that are not there yet. The copies of images must be there.
    pub fn open(
        &self,
        id: ContainerId,
        volumes: &[Volume],
        key: Option<&Key>,
    ) -> Result<OpenVolumes, VolumeError> {
        self.check_room(id, volumes)
            .map_err(|reason| VolumeError::failed(&self.dir(id), reason))?;
        let mut open = OpenVolumes::default();
        for volume in volumes {
            let opened = match &volume.content {
                Content::Encrypted { mib } => self.open_encrypted(id, volume, *mib, key)?,
                content => self.open_plain(id, volume, content)?,
            };
            open.0.insert(volume.name.clone(), opened);
        }
        Ok(open)
    }

    fn open_encrypted(
        &self,
        id: ContainerId,
        volume: &Volume,
        mib: u64,
        key: Option<&Key>,
    ) -> Result<OpenVolume, VolumeError> {
        let backend = self.backend(id, volume)?;
        let site = self.site(id, volume, backend);
        let key = key.ok_or_else(|| {
            VolumeError::failed(
                &site.image,
                "it is encrypted, and nobody has given the PIN; start the container with its PIN",
            )
        })?;
        let failed = |error: cml_sys::Error| VolumeError::failed(&site.image, error);
        // What a guest before this one has written must be complete.
        loopdev::await_release(&site.image, PATIENCE).map_err(failed)?;
        if !site.image.exists() {
            self.make(&site.image, id, |new| {
                let size = mib << 20;
                let unfinished = Site {
                    image: new.to_owned(),
                    meta: unfinished(&site.meta),
                    ..site.clone()
                };
                space::reserve(new, size).map_err(failed)?;
                if let Some(size) = backend.meta_size(size) {
                    discard(&unfinished.meta)?;
                    space::reserve(&unfinished.meta, size).map_err(failed)?;
                }
                backend.format(&unfinished, volume, key)?;
                if unfinished.meta.exists() {
                    // Without its image it means nothing.
                    fs::rename(&unfinished.meta, &site.meta)
                        .map_err(|error| VolumeError::failed(&site.meta, error))?;
                }
                Ok(())
            })?;
            tracing::info!(container = %id, volume = volume.name, mib, "volume made");
        }
        backend.open(&site, volume, key)
    }

    fn open_plain(
        &self,
        id: ContainerId,
        volume: &Volume,
        content: &Content,
    ) -> Result<OpenVolume, VolumeError> {
        let image = self.file(id, &volume.name, IMAGE);
        let failed = |error: cml_sys::Error| VolumeError::failed(&image, error);
        loopdev::await_release(&image, PATIENCE).map_err(failed)?;
        if let Content::Device { device, .. } = content
            && !image.exists()
        {
            self.make(&image, id, |new| plain::copy_device(device, new))?;
        }
        plain::open(&image, volume, &self.mount(id, volume))
    }

    /// Makes an image under another name, and gives it its own when it is complete.
    fn make(
        &self,
        image: &Path,
        id: ContainerId,
        fill: impl FnOnce(&Path) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let dir = self.dir(id);
        let failed = |error: cml_sys::Error| VolumeError::failed(image, error);
        file::make_dir(&dir, 0o700).map_err(failed)?;
        let new = unfinished(image);
        discard(&new)?;
        fill(&new).inspect_err(|_| {
            let _ = discard(&new);
        })?;
        fs::rename(&new, image).map_err(|error| VolumeError::failed(image, error))?;
        atomic::sync_dir(&dir).map_err(failed)
    }

    /// The copies of guest OS images that a container still needs.
    pub fn missing_copies<'a>(&self, id: ContainerId, volumes: &'a [Volume]) -> Vec<&'a Volume> {
        let missing = |volume: &&Volume| {
            matches!(volume.content, Content::Copy { .. }) && !self.exists(id, volume)
        };
        volumes.iter().filter(missing).collect()
    }

    /// A file for the copy of an image; [`Volumes::finish_copy`] makes it the volume.
    pub fn begin_copy(&self, id: ContainerId, volume: &Volume) -> Result<fs::File, VolumeError> {
        let image = self.file(id, &volume.name, IMAGE);
        let failed = |error: cml_sys::Error| VolumeError::failed(&image, error);
        file::make_dir(&self.dir(id), 0o700).map_err(failed)?;
        let new = unfinished(&image);
        discard(&new)?;
        let Content::Copy { bytes, .. } = volume.content else {
            return Err(VolumeError::failed(&image, "it is no copy of an image"));
        };
        space::reserve(&new, bytes).map_err(failed)
    }

    /// The copy was not completed.
    pub fn give_up_copy(&self, id: ContainerId, volume: &Volume) -> Result<(), VolumeError> {
        discard(&unfinished(&self.file(id, &volume.name, IMAGE)))
    }

    /// The copy is complete and verified.
    pub fn finish_copy(&self, id: ContainerId, volume: &Volume) -> Result<(), VolumeError> {
        let image = self.file(id, &volume.name, IMAGE);
        let failed = |error: io::Error| VolumeError::failed(&image, error);
        let new = unfinished(&image);
        // The file system knows its copies apart by their identity alone.
        if volume.fs_type == "btrfs" {
            mkfs::renew_identity(&new).map_err(|error| VolumeError::failed(&image, error))?;
        }
        fs::File::open(&new)
            .and_then(|new| new.sync_all())
            .map_err(failed)?;
        fs::rename(&new, &image).map_err(failed)?;
        atomic::sync_dir(&self.dir(id)).map_err(|error| VolumeError::failed(&image, error))
    }

    /// Deletes everything that a container has stored, and looks whether it is gone.
    pub fn wipe(&self, id: ContainerId) -> Result<(), VolumeError> {
        let dir = self.dir(id);
        let failed = |error: io::Error| VolumeError::failed(&dir, error);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path
                .extension()
                .is_some_and(|suffix| suffix == "img" || suffix == "new")
            {
                loopdev::await_release(&path, PATIENCE)
                    .map_err(|error| VolumeError::failed(&path, error))?;
                fs::remove_file(&path).map_err(|error| VolumeError::failed(&path, error))?;
            }
        }
        // Last: until then it says how the images have to be read. Whoever begins anew gets a new one.
        atomic::remove(&dir.join(dm::NOT_STACKED))
            .and_then(|()| atomic::sync_dir(&dir))
            .map_err(|error| VolumeError::failed(&dir, error))?;
        let mut left = fs::read_dir(&dir).map_err(failed)?.flatten();
        match left.find(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|suffix| suffix == "img")
        }) {
            Some(left) => Err(VolumeError::failed(&left.path(), "it is still there")),
            None => Ok(()),
        }
    }
}

/// The name that an image has until it is complete.
fn unfinished(image: &Path) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    image.with_file_name(format!(".{name}.new"))
}

/// Deletes what an interrupted start has left.
fn discard(path: &Path) -> Result<(), VolumeError> {
    loopdev::await_release(path, PATIENCE)
        .and_then(|()| atomic::remove(path))
        .map_err(|error| VolumeError::failed(path, error))
}
