//! Volumes that are not encrypted: because what is in them comes from elsewhere, copies of images and of block devices
//! (runtime.md 3.2); and those of `core0` on a kernel that can protect none.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    path::Path,
};

use cml_bus::secret::Key;
use cml_sys::{file, loopdev, mkfs, mount::Restrict, space};
use cml_wire::proto::CryptfsMode;
use rustix::fs::{Mode, OFlags};

use super::{
    backend::{Backend, OpenVolume, Site, VolumeError, mount},
    spec::{Content, Volume},
};

/// Nothing is protected. For `core0` alone: its key lies beside its images anyway, and a device that cannot be operated
/// cannot be repaired (ADR 60).
#[derive(Debug)]
pub struct Unprotected;

impl Backend for Unprotected {
    fn mode(&self, _: &Path) -> CryptfsMode {
        CryptfsMode::NotImplemented
    }

    fn suffix(&self) -> &'static str {
        "plain.img"
    }

    fn accepts(&self, _: &Volume) -> Result<(), String> {
        Ok(())
    }

    fn format(&self, site: &Site, volume: &Volume, _: &Key) -> Result<(), VolumeError> {
        mkfs::make(&volume.fs_type, &site.image, &[])
            .map_err(|error| VolumeError::failed(&site.image, error))
    }

    fn open(&self, site: &Site, volume: &Volume, key: &Key) -> Result<OpenVolume, VolumeError> {
        tracing::warn!(
            image = %site.image.display(),
            "nothing notices changes of what core0 stores here: the kernel that made it had no device-mapper with \
             `crypt` and `integrity`"
        );
        match open(&site.image, volume, &site.mount) {
            // A wipe would take the volumes that stay for another kernel as well.
            Err(error @ VolumeError::Damaged { .. }) => {
                tracing::error!(%error, "what core0 has stored here is damaged; the volume begins anew");
                self.format(site, volume, key)?;
                open(&site.image, volume, &site.mount)
            }
            opened => opened,
        }
    }

    fn devices(&self, _: &Site) -> Vec<String> {
        Vec::new()
    }

    fn meta_size(&self, _: u64) -> Option<u64> {
        None
    }
}

/// Copies a block device of the host into a new file.
pub fn copy_device(device: &Path, into: &Path) -> Result<(), VolumeError> {
    let failed = |error: io::Error| {
        let shown = device.display();
        VolumeError::failed(into, format_args!("cannot copy `{shown}`: {error}"))
    };
    let source = file::open_block_device(device);
    let mut source = source.map_err(|error| VolumeError::failed(into, error))?;
    let size = source.seek(SeekFrom::End(0)).map_err(failed)?;
    if size == 0 {
        return Err(failed(io::Error::other("it is empty")));
    }
    source.rewind().map_err(failed)?;
    let mut copy = space::reserve(into, size).map_err(|error| VolumeError::failed(into, error))?;
    io::copy(&mut source, &mut copy).map_err(failed)?;
    copy.sync_all().map_err(failed)
}

/// Mounts a copy.
pub fn open(image: &Path, volume: &Volume, at: &Path) -> Result<OpenVolume, VolumeError> {
    let failed = |error: io::Error| VolumeError::failed(image, error);
    let read_only = matches!(
        volume.content,
        Content::Device {
            writable: false,
            ..
        }
    );
    let image_file = File::options().read(true).write(!read_only).open(image);
    let file = image_file.map_err(failed)?;
    let device = loopdev::attach(&file, read_only);
    let device = device.map_err(|error| VolumeError::failed(image, error))?;
    let restrict = Restrict {
        read_only,
        no_dev: true,
        ..Restrict::default()
    };
    let mounted = mount(
        &device.path,
        image,
        (&volume.fs_type, &volume.options),
        restrict,
        at,
    )?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = rustix::fs::open(mounted.path(), flags, Mode::empty());
    let tree = tree.map_err(|error| failed(error.into()))?;
    Ok(OpenVolume::new(tree, read_only, mounted))
}
