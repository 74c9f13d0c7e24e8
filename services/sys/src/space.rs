//! Room on a file system, and files that take it before anything is written to them.

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

use crate::error::{Context, Result};

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What can still be written.
    pub free: u64,
}

/// The room on the file system that a path lies on.
///
/// # Errors
/// What the kernel said.
pub fn of(path: &Path) -> Result<Space> {
    let found = statvfs(path).context("inspect", path.display())?;
    Ok(Space {
        total: found.f_blocks * found.f_frsize,
        free: found.f_bavail * found.f_frsize,
    })
}

/// A file system as a whole, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// All of it.
    pub total: u64,
    /// What holds no data, also where only root may write.
    pub unused: u64,
    /// Tells file systems apart.
    pub device: u64,
}

/// The file system that a path lies on.
///
/// # Errors
/// What the kernel said.
pub fn usage(path: &Path) -> Result<Usage> {
    let found = statvfs(path).context("inspect", path.display())?;
    let device = std::fs::metadata(path).context("inspect", path.display())?;
    Ok(Usage {
        total: found.f_blocks * found.f_frsize,
        unused: found.f_bfree * found.f_frsize,
        device: device.dev(),
    })
}

/// Writes zeros over a whole block device.
///
/// # Errors
/// What the kernel said.
pub fn fill_with_zeros(device: &Path) -> Result<()> {
    let shown = || device.display();
    let mut target = OpenOptions::new()
        .write(true)
        .open(device)
        .context("open", shown())?;
    let end = target.seek(SeekFrom::End(0)).context("measure", shown())?;
    target.rewind().context("rewind", shown())?;
    // 1 MiB at a time.
    let zeros = vec![0; 1 << 20];
    let mut left = end;
    while left > 0 {
        let length = left.min(zeros.len() as u64);
        let part = usize::try_from(length).map_or(&zeros[..], |length| &zeros[..length]);
        target.write_all(part).context("fill", shown())?;
        left -= length;
    }
    target.sync_all().context("sync", shown())
}

/// Makes a file of this size. The room is taken at once where the file system can do that, so that a full
/// disk is noticed now and not by whoever writes later.
///
/// # Errors
/// The disk is full, or the file exists.
pub fn reserve(path: &Path, size: u64) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .context("make", path.display())?;
    match fallocate(&file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP) => file.set_len(size).context("size", path.display())?,
        other => other.context("reserve room for", path.display())?,
    }
    Ok(file)
}
