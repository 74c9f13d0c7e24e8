//! Verified images, each mounted once for all its containers (design.md section 2, "Images").
//!
//! An image is hashed through the open file that is then mounted, unless the kernel verifies every block
//! when it is read (dm-verity). As long as somebody holds a lease on the mount nothing is hashed again;
//! when the last lease is dropped the mount goes away.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use cml_bus::{
    api::guestos::{GuestOsError, ImageLease},
    audit::Did,
    blocking::Pool,
    error::BusError,
    event::Events,
};
use cml_sys::{image::Image, mount};
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};
use rustix::fs::{Mode, OFlags};
use tokio::sync::Mutex;

use crate::{
    digest::Promise,
    store,
    verity::{self, Proof},
};

/// The lease on one image, as long as somebody holds it. The lock makes two starts at the same time verify
/// the image once.
type Slot = Arc<Mutex<Weak<ImageLease>>>;

/// What a configuration says of the bytes of an image: size, hashes, root of the hash tree.
type Identity = (u64, [String; 3]);

fn identity(mount: &GuestOsMount) -> Identity {
    let hashes = [
        mount.image_sha2_256(),
        mount.image_sha1(),
        mount.image_verity_sha256(),
    ];
    (mount.image_size(), hashes.map(str::to_ascii_lowercase))
}

/// The images that are mounted.
#[derive(Debug, Clone)]
pub struct Images {
    store: PathBuf,
    mounts: PathBuf,
    allow_sha1: bool,
    pool: Pool,
    events: Events,
    /// By what they are, too: another configuration of the same version may want another image.
    live: Arc<Mutex<HashMap<(PathBuf, Identity), Slot>>>,
}

/// How many were ever mounted by this process: a mount may outlive the service that made it.
static MOUNTED: AtomicU64 = AtomicU64::new(0);

/// What an image must be, and where it goes.
struct Wanted {
    path: PathBuf,
    at: PathBuf,
    allow_sha1: bool,
    mount: GuestOsMount,
    /// What a device for it is called.
    device: String,
}

impl Images {
    /// Images of this store, mounted below `mounts`.
    pub fn new(store: PathBuf, mounts: PathBuf, allow_sha1: bool, events: Events) -> Self {
        verity::remove_stale();
        Self {
            store,
            mounts,
            allow_sha1,
            // Two cores: hashing one image must not keep another start waiting.
            pool: Pool::new("images", 2),
            events,
            live: Arc::default(),
        }
    }

    /// A lease on the image behind `mount`: the mount that is there, or a new one after verification.
    pub async fn lease(
        &self,
        config: &GuestOsConfig,
        mount: &GuestOsMount,
    ) -> Result<Arc<ImageLease>, GuestOsError> {
        let path = store::image_path(&self.store, config, &mount.image_file);
        let slot = self
            .live
            .lock()
            .await
            .entry((path.clone(), identity(mount)))
            .or_default()
            .clone();
        let mut slot = slot.lock().await;
        if let Some(lease) = slot.upgrade() {
            return Ok(lease);
        }
        // A directory of its own each time: the last lease on an earlier mount may be on its way out.
        let number = MOUNTED.fetch_add(1, Ordering::Relaxed);
        let (stem, image) = (store::stem(config), &mount.image_file);
        let wanted = Wanted {
            device: verity::device_name(&stem, image, number),
            at: self.mounts.join(&stem).join(format!("{image}-{number}")),
            path,
            allow_sha1: self.allow_sha1,
            mount: mount.clone(),
        };
        let lease = self.pool.run(move || verified_mount(&wanted)).await;
        let lease = lease.map_err(BusError::from)?;
        let note = Did::VerifyImage.with(stem).meta("name", image);
        self.events.audit(note.result(&lease));
        let lease = Arc::new(lease?);
        *slot = Arc::downgrade(&lease);
        Ok(lease)
    }

    /// Copies the image behind `mount` into a file after verification.
    pub async fn copy(
        &self,
        config: &GuestOsConfig,
        mount: &GuestOsMount,
        into: OwnedFd,
    ) -> Result<(), GuestOsError> {
        let path = store::image_path(&self.store, config, &mount.image_file);
        let promise =
            Promise::of(mount, self.allow_sha1).map_err(|reason| GuestOsError::BadImage {
                path: path.display().to_string(),
                reason,
            })?;
        let copied = self
            .pool
            .run(move || verified_copy(&path, &promise, into))
            .await;
        let copied = copied.map_err(BusError::from)?;
        let note = Did::VerifyImage.with(store::stem(config));
        let note = note.meta("name", &mount.image_file);
        self.events.audit(note.result(&copied));
        copied
    }

    /// Whether an image in this directory is mounted, or about to be.
    pub async fn in_use(&self, dir: &Path) -> bool {
        let live = self.live.lock().await;
        let mut of_dir = live.iter().filter(|((path, _), _)| path.starts_with(dir));
        of_dir.any(|(_, slot)| match slot.try_lock() {
            Ok(lease) => lease.strong_count() > 0,
            Err(_) => true,
        })
    }
}

/// Copies an image; what was copied is what was verified.
fn verified_copy(path: &Path, promise: &Promise, into: OwnedFd) -> Result<(), GuestOsError> {
    let bad = |reason: String| GuestOsError::BadImage {
        path: path.display().to_string(),
        reason,
    };
    let image = Image::open(path).map_err(|error| bad(error.source.to_string()))?;
    let mut copy = File::from(into);
    let mut written = Ok(());
    verify(&image, promise, |bytes| {
        if written.is_ok() {
            written = copy.write_all(bytes);
        }
    })
    .map_err(bad)?;
    written.map_err(|error| bad(format!("cannot be copied: {error}")))
}

fn verified_mount(wanted: &Wanted) -> Result<ImageLease, GuestOsError> {
    let bad = |reason: String| GuestOsError::BadImage {
        path: wanted.path.display().to_string(),
        reason,
    };
    let image = Image::open(&wanted.path).map_err(|error| bad(error.source.to_string()))?;
    let unmountable = |reason: String| GuestOsError::Mount {
        path: wanted.path.display().to_string(),
        reason,
    };
    // Those of SHARED_RW are for the tmpfs over the image (runtime.md 3.2).
    let data = match wanted.mount.mount_type() {
        Type::SharedRw => "",
        _ => wanted.mount.mount_data(),
    };
    let (fs_type, data) = (&wanted.mount.fs_type, mount::options(data));
    let mounted = match verity::proof(&wanted.mount, verity::supported).map_err(bad)? {
        Proof::Whole => {
            let promise = Promise::of(&wanted.mount, wanted.allow_sha1).map_err(bad)?;
            verify(&image, &promise, |_| ()).map_err(bad)?;
            image
                .mount(fs_type, &data, &wanted.at)
                .map_err(|error| unmountable(error.to_string()))?
        }
        Proof::Tree(root) => {
            check_size(&image, wanted.mount.image_size()).map_err(bad)?;
            let tree = store::hash_path(&wanted.path);
            verity::mount(&image, &tree, &root, &wanted.device, |device| {
                cml_sys::image::mount_device(device, fs_type, &data, &wanted.at)
            })
            .map_err(|refused| match refused {
                verity::Refused::Image(reason) => bad(reason),
                verity::Refused::Mount(reason) => unmountable(reason),
            })?
        }
    };
    let root = open_root(mounted.path()).map_err(|error| unmountable(error.to_string()))?;
    Ok(ImageLease::new(root, Box::new(mounted)))
}

fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Size and hash must be what the signed configuration says (protocol.md 6.7).
fn verify(image: &Image, promise: &Promise, mut each: impl FnMut(&[u8])) -> Result<(), String> {
    check_size(image, promise.size)?;
    let mut hasher = promise.hasher();
    image
        .read(|bytes| {
            hasher.update(bytes);
            each(bytes);
        })
        .map_err(|error| error.to_string())?;
    Ok(promise.kept(hasher)?)
}

fn check_size(image: &Image, wanted: u64) -> Result<(), String> {
    let size = image.size().map_err(|error| error.to_string())?;
    match size == wanted {
        true => Ok(()),
        false => Err(format!("it has {size} bytes instead of {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// SHA-256 of "abc", a test vector of FIPS 180-4.
    const ABC: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

    fn verdict(content: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        std::fs::write(&path, content).unwrap();
        let mount = GuestOsMount {
            image_size: Some(3),
            image_sha2_256: Some(ABC.into()),
            ..Default::default()
        };
        let promise = Promise::of(&mount, false).unwrap();
        verify(&Image::open(&path).unwrap(), &promise, |_| ())
    }

    #[test]
    fn exactly_the_promised_bytes_are_accepted() {
        assert_eq!(verdict("abc"), Ok(()));
        assert!(verdict("abd").unwrap_err().contains("SHA-256"));
        assert!(verdict("abcd").unwrap_err().contains("4 bytes"));
    }
}
