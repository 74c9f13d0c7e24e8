//! Volumes that are not encrypted because what is in them comes from elsewhere: copies of images and of
//! block devices (runtime.md 3.2).

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    path::Path,
};

use cml_sys::{
    loopdev,
    mount::{Restrict, options},
    mounted::Mounted,
    space,
};
use rustix::fs::{Mode, OFlags};

use super::{
    backend::{OpenVolume, VolumeError},
    spec::{Content, Volume},
};

/// Copies a block device of the host into a new file.
pub fn copy_device(device: &Path, into: &Path) -> Result<(), VolumeError> {
    let failed = |error: io::Error| {
        let shown = device.display();
        VolumeError::failed(into, format_args!("cannot copy `{shown}`: {error}"))
    };
    let mut source = File::open(device).map_err(failed)?;
    let size = source.seek(SeekFrom::End(0)).map_err(failed)?;
    if size == 0 {
        return Err(failed(io::Error::other("it is empty, or no block device")));
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
    let file = File::options().read(true).write(!read_only).open(image);
    let file = file.map_err(failed)?;
    let device = loopdev::attach(&file, read_only);
    let device = device.map_err(|error| VolumeError::failed(image, error))?;
    let restrict = Restrict {
        read_only,
        no_dev: true,
        ..Restrict::default()
    };
    let data = options(&volume.options);
    let mounted = Mounted::new(&device.path, &volume.fs_type, &data, restrict, at)
        .map_err(|error| VolumeError::unmountable(image, &error))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = rustix::fs::open(mounted.path(), flags, Mode::empty());
    let tree = tree.map_err(|error| failed(error.into()))?;
    Ok(OpenVolume::new(tree, read_only, mounted))
}
