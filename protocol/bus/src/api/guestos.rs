//! The guest OS service: which guest operating systems are installed, and their verified images.

use std::{any::Any, fmt, os::fd::OwnedFd, sync::Arc};

use cml_wire::proto::{ContainerTrust, GuestOsConfig, GuestOsMount, Progress};
use tokio::sync::{oneshot, watch};

use crate::{api::token::TokenError, error::BusError};

/// All installed versions of all guest operating systems, in the order they were found.
#[derive(Debug)]
pub struct List;

/// Which version a container gets (protocol.md 6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Exactly this one: signed container configurations pin theirs.
    Exactly(u64),
    /// The newest, but at least this one.
    AtLeast(u64),
}

/// Finds a version without touching its images.
#[derive(Debug)]
pub struct Find {
    /// The name of the guest OS.
    pub name: String,
    /// Which version.
    pub version: Version,
}

/// Finds a version, verifies its images and mounts them.
#[derive(Debug)]
pub struct Resolve {
    /// The name of the guest OS.
    pub name: String,
    /// Which version.
    pub version: Version,
    /// The mounts for setup mode as well.
    pub setup: bool,
}

/// Copies an image into a file of the caller's, and verifies exactly the bytes that were copied.
#[derive(Debug)]
pub struct CopyImage {
    /// The guest OS.
    pub config: Arc<GuestOsConfig>,
    /// Which of its images.
    pub image: String,
    /// Open for writing, empty.
    pub into: OwnedFd,
}

/// Reads the store again.
#[derive(Debug)]
pub struct Rescan;

/// The device or the daemon is about to end: what is being written outside the store is finished. The answer comes then.
#[derive(Debug)]
pub struct Settle;

/// Nothing is begun outside the store while this is kept, by anybody of those who have asked.
pub struct Settled(Box<dyn Any + Send + Sync>);

impl Settled {
    /// Until `guard` is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        f.write_str("Settled(..)")
    }
}

/// Installs or updates a guest OS. The answer comes when the configuration was verified and the installation
/// has begun, or was refused.
#[derive(Debug)]
pub struct Push {
    /// The configuration in text form.
    pub config: Vec<u8>,
    /// Its detached signature.
    pub signature: Vec<u8>,
    /// PEM: the signer first, then intermediates.
    pub certificate: Vec<u8>,
    /// The process that asked: a `file://` URL with a relative path means a path below its root (protocol.md 6.6).
    pub caller: Option<i32>,
}

/// An installation at work. It goes on when this is dropped.
#[derive(Debug)]
pub struct Installation {
    /// How many bytes of the missing images are there; `total` is 0 until it is known.
    pub progress: watch::Receiver<Progress>,
    /// How it ended. Without an answer the service died.
    pub outcome: oneshot::Receiver<Result<(), GuestOsError>>,
}

/// Deletes all versions of a guest OS. Whether a container uses it is the caller's business.
#[derive(Debug)]
pub struct Remove {
    /// The name of the guest OS.
    pub name: String,
}

/// Deletes versions that nobody needs: older than the newest one of that name, not in this list, and without
/// a mounted image.
#[derive(Debug)]
pub struct Purge {
    /// Name and version of what containers pin.
    pub needed: Vec<(String, u64)>,
}

/// An installed guest OS whose signature was verified.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The configuration, from exactly the bytes that were verified.
    pub config: Arc<GuestOsConfig>,
    /// Who vouches for it.
    pub trust: ContainerTrust,
}

/// A mounted, verified, read-only image. The mount goes away with the last clone of the `Arc`.
pub struct ImageLease {
    /// The root of the mounted file system, opened with `O_PATH`.
    pub root: OwnedFd,
    guard: Box<dyn Any + Send + Sync>,
}

impl ImageLease {
    /// A lease on the tree at `root`; dropping `guard` takes the mount away.
    pub fn new(root: OwnedFd, guard: Box<dyn Any + Send + Sync>) -> Self {
        Self { root, guard }
    }
}

impl fmt::Debug for ImageLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.guard;
        f.debug_struct("ImageLease")
            .field("root", &self.root)
            .finish()
    }
}

/// One mount of the guest OS with the image behind it, if it has one.
#[derive(Debug, Clone)]
pub struct ResolvedMount {
    /// What the configuration says.
    pub mount: GuestOsMount,
    /// The verified image, for the types that come from the guest OS store.
    pub image: Option<Arc<ImageLease>>,
}

/// A guest OS ready to be started.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What is installed.
    pub installed: Installed,
    /// Its normal mounts in file order.
    pub mounts: Vec<ResolvedMount>,
    /// Its mounts for setup mode, empty unless asked for.
    pub setup_mounts: Vec<ResolvedMount>,
}

/// Why the guest OS service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestOsError {
    /// No such guest OS, or not in that version.
    #[error("guest OS `{name}` is not installed{}", wanted(*version))]
    NotInstalled {
        /// The name asked for.
        name: String,
        /// The version asked for.
        version: Version,
    },
    /// An image is missing or not what the configuration promises.
    #[error(
        "image `{path}`: {reason}; install the guest OS again with `control push_guestos_config`"
    )]
    BadImage {
        /// The image file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The kernel would not mount an image.
    #[error("cannot mount image `{path}`: {reason}")]
    Mount {
        /// The image file.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// A pushed configuration cannot be accepted.
    #[error("the configuration is refused: {0}")]
    BadConfig(String),
    /// A pushed version is older than one that is installed.
    #[error("guest OS `{name}` is installed in version {newest}; version {version} is older")]
    Downgrade {
        /// The name of the guest OS.
        name: String,
        /// What was pushed.
        version: u64,
        /// What is installed.
        newest: u64,
    },
    /// One installation of a guest OS at a time.
    #[error("guest OS `{0}` is being installed already; wait for its end")]
    Installing(String),
    /// An image could not be fetched.
    #[error("cannot fetch `{url}`: {reason}")]
    Fetch {
        /// Where it should have come from.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A FLASH image cannot be written to its place.
    #[error("cannot flash `{target}`: {reason}")]
    Flash {
        /// The file or device.
        target: String,
        /// What is wrong.
        reason: String,
    },
    /// The images do not fit on the disk.
    #[error(
        "no room for the images: {needed} bytes are needed and {free} are free, apart from the \
         reserve (`free_space_reserve` in device.conf)"
    )]
    NoRoom {
        /// Bytes of all missing images.
        needed: u64,
        /// Bytes that may be taken.
        free: u64,
    },
    /// The store cannot be read or written.
    #[error("guest OS store, `{path}`: {reason}")]
    Store {
        /// The file or directory.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// Verification was impossible.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The bus could not deliver.
    #[error(transparent)]
    Bus(#[from] BusError),
}

fn wanted(version: Version) -> String {
    match version {
        Version::Exactly(v) => format!(" in version {v}"),
        Version::AtLeast(0 | 1) => String::new(),
        Version::AtLeast(v) => format!(" in version {v} or newer"),
    }
}

crate::request!(List => Vec<Installed>, GuestOsError, "guestos.list", 10 s);
crate::request!(Find => Installed, GuestOsError, "guestos.find", 10 s);
crate::request!(Resolve => Resolved, GuestOsError, "guestos.resolve", 300 s);
crate::request!(CopyImage => (), GuestOsError, "guestos.copy_image", 300 s);
crate::request!(Rescan => (), GuestOsError, "guestos.rescan", 60 s);
crate::request!(Settle => Settled, GuestOsError, "guestos.settle", 300 s);
crate::request!(Push => Installation, GuestOsError, "guestos.push", 60 s);
crate::request!(Remove => (), GuestOsError, "guestos.remove", 60 s);
crate::request!(Purge => (), GuestOsError, "guestos.purge", 60 s);

crate::service_port! {
    /// What the holder may ask of the guest OS service.
    GuestOsPort {
        /// What is installed.
        list: List,
        /// One version, without its images.
        find: Find,
        /// One version with verified, mounted images.
        resolve: Resolve,
        /// A verified copy of an image.
        copy_image: CopyImage,
        /// Read the store again.
        rescan: Rescan,
        /// Get ready for the end of the device or the daemon.
        settle: Settle,
        /// Install or update.
        push: Push,
        /// Delete all versions.
        remove: Remove,
        /// Delete obsolete versions.
        purge: Purge,
    }
}
