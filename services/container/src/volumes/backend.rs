//! How volumes are encrypted: the one thing that the ways to do it have in common, and which one is taken.

use std::{
    fmt,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cml_bus::secret::Key;
use cml_sys::{
    mount::{self, Restrict},
    mounted::Mounted,
};
use cml_wire::proto::CryptfsMode;
use rustix::io::Errno;

use super::spec::Volume;

/// Why a volume cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// What is stored in it cannot be read any more, or was tampered with.
    #[error("volume `{path}`: {reason}")]
    Damaged {
        /// Its image.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything that can be put right without losing data.
    #[error("volume `{path}`: {reason}")]
    Failed {
        /// Its image.
        path: String,
        /// What failed.
        reason: String,
    },
}

impl VolumeError {
    /// Something that can be put right.
    pub fn failed(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Failed {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }

    /// Data that are lost.
    pub fn damaged(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Damaged {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }

    /// An image that the kernel would not mount: some of its errors mean that what is in there is no such file
    /// system any more (crypto.md 5.3).
    pub fn unmountable(path: &Path, error: &cml_sys::Error) -> Self {
        const DAMAGE: [Errno; 3] = [Errno::IO, Errno::INVAL, Errno::UCLEAN];
        let content = error.action == mount::CREATE;
        match content && is_one_of(error, &DAMAGE) {
            true => Self::damaged(path, error),
            false => Self::failed(path, error),
        }
    }

    /// Something in a volume that must be there. Other errors than that it is not may pass.
    pub fn missing(path: &Path, error: &cml_sys::Error) -> Self {
        const LOSS: [Errno; 5] = [
            Errno::NOENT,
            Errno::NOTDIR,
            Errno::NODATA,
            Errno::IO,
            Errno::UCLEAN,
        ];
        match is_one_of(error, &LOSS) {
            true => Self::damaged(path, error),
            false => Self::failed(path, error),
        }
    }
}

fn is_one_of(error: &cml_sys::Error, errors: &[Errno]) -> bool {
    let errno = error.errno().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| errors.contains(&errno))
}

/// Mounts the file system of a volume. What the kernel does not like about the options is no fault of the
/// content: then they are left out, as the existing system does (runtime.md 3.2).
pub fn mount(
    device: &Path,
    image: &Path,
    (fs_type, options): (&str, &str),
    restrict: Restrict,
    at: &Path,
) -> Result<Mounted, VolumeError> {
    // Copies of one image have one identity.
    let always: &[(&str, &str)] = match fs_type {
        "xfs" => &[("nouuid", "")],
        _ => &[],
    };
    let wanted = [always, &mount::options(options)].concat();
    let attempt = |options: &[(&str, &str)]| Mounted::new(device, fs_type, options, restrict, at);
    let mut mounted = attempt(&wanted);
    if mounted.is_err() && wanted.len() > always.len() {
        mounted = attempt(always).inspect(|_| {
            tracing::warn!(image = %image.display(), options, "mounted without these options");
        });
    }
    mounted.map_err(|error| VolumeError::unmountable(image, &error))
}

/// Where everything of one encrypted volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The file that holds it.
    pub image: PathBuf,
    /// The file that holds its checksums, where the backend has some.
    pub meta: PathBuf,
    /// Its name among the devices of the machine.
    pub label: String,
    /// The directory at which it is mounted for the daemon.
    pub mount: PathBuf,
}

/// A volume that is mounted.
#[derive(Debug)]
pub struct OpenVolume {
    /// What the container sees, opened with `O_PATH`.
    pub tree: OwnedFd,
    /// The container may only read it.
    pub read_only: bool,
    _mounted: Mounted,
}

impl OpenVolume {
    /// A volume that stays mounted as long as this lives.
    pub fn new(tree: OwnedFd, read_only: bool, mounted: Mounted) -> Self {
        Self {
            tree,
            read_only,
            _mounted: mounted,
        }
    }
}

/// A way to encrypt volumes.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What the status of the container whose images lie in this directory says.
    fn mode(&self, dir: &Path) -> CryptfsMode;

    /// The suffix of its images, so that no other backend misreads them (crypto.md 9.3).
    fn suffix(&self) -> &'static str;

    /// Whether it can hold such a volume; asked before anything is written.
    ///
    /// # Errors
    /// Why not, in words for the operator.
    fn accepts(&self, volume: &Volume) -> Result<(), String>;

    /// Makes an empty volume in image files that have their size.
    ///
    /// # Errors
    /// [`VolumeError::Failed`]; the caller deletes the files.
    fn format(&self, site: &Site, volume: &Volume, key: &Key) -> Result<(), VolumeError>;

    /// Opens a volume.
    ///
    /// # Errors
    /// [`VolumeError`].
    fn open(&self, site: &Site, volume: &Volume, key: &Key) -> Result<OpenVolume, VolumeError>;

    /// The devices that an open volume has, the last one first.
    fn devices(&self, site: &Site) -> Vec<String>;

    /// Bytes of the file for checksums beside an image of so many bytes; `None` if there is no such file.
    fn meta_size(&self, size: u64) -> Option<u64>;
}
