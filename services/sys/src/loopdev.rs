//! Loop devices that free themselves: configured in one call, released with their last user (LIF-08).

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::error::{Context, Error, Result};

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Default)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [[u8; 32]; 2],
    crypt_name: [[u8; 32]; 2],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Default)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A configured loop device. The device frees itself when this and all mounts of it are gone.
#[derive(Debug)]
pub struct Loop {
    /// Keeps the device busy until it is mounted.
    pub device: File,
    /// `/dev/loopN`.
    pub path: PathBuf,
}

/// How often the kernel is asked whether it has let go of a file.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until no loop device has this file any more: only then has everything that was written to it
/// reached it, and it may be used again. The kernel frees a device a moment after its last user is gone.
///
/// # Errors
/// It is still in use when the patience is over.
pub fn await_release(file: &Path, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    while let Some(device) = holder(file)? {
        if Instant::now() >= end {
            let why = format!("it is still in use as {}", device.display());
            return Err(Error::invalid("release", file.display(), &why));
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// The loop device that has a file. The kernel's name of the file is no help: it is that in the mount namespace
/// of whoever attached it, who may be gone.
fn holder(file: &Path) -> Result<Option<PathBuf>> {
    let found = match fs::metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context("inspect", file.display())?,
    };
    let wanted = (encoded(found.dev()), found.ino());
    let blocks = Path::new("/sys/block");
    for entry in fs::read_dir(blocks).context("read", blocks.display())? {
        let entry = entry.context("read", blocks.display())?;
        // Other devices, and those without a file, have no such directory.
        if !entry.path().join("loop").exists() {
            continue;
        }
        let device = Path::new("/dev").join(entry.file_name());
        // One that is freed just now has no file any more.
        if status(&device).is_some_and(|info| (info.device, info.inode) == wanted) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// What the kernel has noted about a loop device.
fn status(device: &Path) -> Option<LoopInfo> {
    let device = File::open(device).ok()?;
    let mut info = LoopInfo::default();
    // SAFETY: `info` is a live `struct loop_info64`.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    (done == 0).then_some(info)
}

/// A device number as loop devices report it: `new_encode_dev` of linux/kdev_t.h.
fn encoded(number: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xFF) | (major << 8) | ((minor & !0xFF) << 12)
}

/// The loop device that has a file for writing, or a new one. Two devices with one file would be two file
/// systems that know nothing of each other.
///
/// # Errors
/// As [`attach`].
pub fn attach_shared(file: &Path) -> Result<Loop> {
    if let Some(path) = holder(file)? {
        let device = OpenOptions::new().read(true).write(true).open(&path);
        let device = device.context("open", path.display())?;
        return Ok(Loop { device, path });
    }
    attach(crate::file::open_writable(file)?, false)
}

/// Binds a loop device to an open file.
///
/// # Errors
/// The kernel has no loop driver or no free device.
pub fn attach(file: impl AsFd, read_only: bool) -> Result<Loop> {
    let control = File::open("/dev/loop-control").context("open", "/dev/loop-control")?;
    // Another process may take the free device between the two calls; then the next one is tried. 64
    // rounds outlast any honest competition.
    for _ in 0..64 {
        // SAFETY: the request takes no argument and returns a device number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(std::io::Error::last_os_error()).context("find free", "loop device");
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(&path)
            .context("open", path.display())?;
        let mut config = LoopConfig {
            fd: file.as_fd().as_raw_fd().cast_unsigned(),
            ..LoopConfig::default()
        };
        config.info.flags = LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
        // SAFETY: `config` is a live `struct loop_config` with a valid descriptor in it.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if done == 0 {
            return Ok(Loop { device, path });
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error).context("configure", path.display());
        }
    }
    Err(Error::invalid(
        "find free",
        "loop device",
        "every free device was taken by someone else",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_known_by_what_it_is_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, [0; 4096]).unwrap();
        fs::write(&other, [0; 4096]).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        // Only root has loop devices.
        let Ok(device) = attach(File::open(&path).unwrap(), true) else {
            return;
        };
        let renamed = dir.path().join("c");
        fs::rename(&path, &renamed).unwrap();
        assert_eq!(holder(&renamed).unwrap(), Some(device.path.clone()));
        assert_eq!(holder(&other).unwrap(), None);
        assert!(await_release(&renamed, Duration::ZERO).is_err());
        drop(device);
        await_release(&renamed, Duration::from_secs(10)).unwrap();
    }
}
