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
    blocking::Pool,
    error::BusError,
};
use cml_sys::{image::Image, mount};
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::{
    store,
    verity::{self, Proof},
};

/// The lease on one image, as long as somebody holds it. The lock makes two starts at the same time verify
/// the image once.
type Slot = Arc<Mutex<Weak<ImageLease>>>;

/// The images that are mounted.
#[derive(Debug, Clone)]
pub struct Images {
    store: PathBuf,
    mounts: PathBuf,
    pool: Pool,
    live: Arc<Mutex<HashMap<PathBuf, Slot>>>,
}

/// How many were ever mounted by this process: a mount may outlive the service that made it.
static MOUNTED: AtomicU64 = AtomicU64::new(0);

/// What an image must be, and where it goes.
struct Wanted {
    path: PathBuf,
    at: PathBuf,
    mount: GuestOsMount,
    /// What a device for it is called.
    device: String,
}

impl Images {
    /// Images of this store, mounted below `mounts`.
    pub fn new(store: PathBuf, mounts: PathBuf) -> Self {
        verity::remove_stale();
        Self {
            store,
            mounts,
            // Two cores: hashing one image must not keep another start waiting.
            pool: Pool::new("images", 2),
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
            .entry(path.clone())
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
            at: self.mounts.join(stem).join(format!("{image}-{number}")),
            path,
            mount: mount.clone(),
        };
        let lease = self.pool.run(move || verified_mount(&wanted)).await;
        let lease = lease.map_err(BusError::from)??;
        let lease = Arc::new(lease);
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
        let mount = mount.clone();
        let copied = self
            .pool
            .run(move || verified_copy(&path, &mount, into))
            .await;
        copied.map_err(BusError::from)?
    }
}

/// Copies an image; what was copied is what was verified.
fn verified_copy(path: &Path, mount: &GuestOsMount, into: OwnedFd) -> Result<(), GuestOsError> {
    let bad = |reason: String| GuestOsError::BadImage {
        path: path.display().to_string(),
        reason,
    };
    let image = Image::open(path).map_err(|error| bad(error.source.to_string()))?;
    let mut copy = File::from(into);
    let mut written = Ok(());
    verify(&image, mount, |bytes| {
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
            verify(&image, &wanted.mount, |_| ()).map_err(bad)?;
            image
                .mount(fs_type, &data, &wanted.at)
                .map_err(|error| unmountable(error.to_string()))?
        }
        Proof::Tree(root) => {
            check_size(&image, &wanted.mount).map_err(bad)?;
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

/// Size and SHA-256 must be what the signed configuration says (protocol.md 6.7). SHA-1 alone vouches for
/// nothing (runtime.md 9, number 54).
fn verify(image: &Image, mount: &GuestOsMount, mut each: impl FnMut(&[u8])) -> Result<(), String> {
    check_size(image, mount)?;
    let wanted = hex::decode(mount.image_sha2_256()).unwrap_or_default();
    if wanted.len() != <Sha256 as Digest>::output_size() {
        return Err("the configuration has no image_sha2_256 for it".into());
    }
    let mut hash = Sha256::new();
    image
        .read(|bytes| {
            hash.update(bytes);
            each(bytes);
        })
        .map_err(|error| error.to_string())?;
    match hash.finalize().as_slice() == wanted {
        true => Ok(()),
        false => Err("its SHA-256 is not the one of the configuration".into()),
    }
}

fn check_size(image: &Image, mount: &GuestOsMount) -> Result<(), String> {
    let size = image.size().map_err(|error| error.to_string())?;
    let wanted = mount.image_size();
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

    fn verdict(content: &str, mount: GuestOsMount) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        std::fs::write(&path, content).unwrap();
        verify(&Image::open(&path).unwrap(), &mount, |_| ())
    }

    fn abc() -> GuestOsMount {
        GuestOsMount {
            image_size: Some(3),
            image_sha2_256: Some(ABC.into()),
            ..Default::default()
        }
    }

    #[test]
    fn exactly_the_promised_bytes_are_accepted_in_either_case_of_the_hash() {
        assert_eq!(verdict("abc", abc()), Ok(()));
        let lower = GuestOsMount {
            image_sha2_256: Some(ABC.to_lowercase()),
            ..abc()
        };
        assert_eq!(verdict("abc", lower), Ok(()));
        assert!(verdict("abd", abc()).unwrap_err().contains("SHA-256"));
        assert!(verdict("abcd", abc()).unwrap_err().contains("4 bytes"));
    }

    #[test]
    fn without_a_sha256_nothing_is_accepted() {
        for hash in [
            None,
            Some(String::new()),
            Some("zz".into()),
            Some("00".into()),
        ] {
            let mount = GuestOsMount {
                image_sha2_256: hash,
                image_sha1: Some("a9993e364706816aba3e25717850c26c9cd0d89d".into()),
                ..abc()
            };
            assert!(verdict("abc", mount).is_err());
        }
    }
}
