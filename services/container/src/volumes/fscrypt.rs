//! Encryption by the file system itself, for kernels without device-mapper: names and contents of files are
//! encrypted, but nothing tells whether somebody has changed them, and sizes, times, owners and extended
//! attributes can be seen.
//!
//! An image is an ext4 of its own, so that a volume has a size and the file system below need not encrypt; in
//! it there is one encrypted directory, which is what the container sees.

use std::{fs::File, os::fd::OwnedFd, path::Path, time::Duration};

use cml_bus::secret::Key;
use cml_sys::{
    fscrypt::{self, KEY_LENGTH, KeyId},
    loopdev, mkfs,
    mount::Restrict,
    mounted::Mounted,
    path,
};
use cml_wire::proto::CryptfsMode;
use hkdf::Hkdf;
use rustix::fs::{Mode, OFlags};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    backend::{Backend, OpenVolume, Site, VolumeError, mount},
    spec::Volume,
};

/// The encrypted directory in the image.
const DIRECTORY: &str = "volume";

/// How long a file system may take to write everything out when it is unmounted.
const WRITE_OUT: Duration = Duration::from_secs(60);

/// fscrypt on ext4.
#[derive(Debug)]
pub struct Fscrypt;

impl Backend for Fscrypt {
    fn mode(&self, _: &Path) -> CryptfsMode {
        CryptfsMode::EncryptOnly
    }

    fn suffix(&self) -> &'static str {
        "fscrypt.img"
    }

    fn accepts(&self, volume: &Volume) -> Result<(), String> {
        match volume.fs_type.as_str() {
            "ext4" => Ok(()),
            other => Err(format!(
                "without device-mapper only ext4 can be encrypted, and this is {other}"
            )),
        }
    }

    fn format(&self, site: &Site, volume: &Volume, key: &Key) -> Result<(), VolumeError> {
        let failed = |error: cml_sys::Error| VolumeError::failed(&site.image, error);
        mkfs::make("ext4", &site.image, &["-O", "encrypt"]).map_err(failed)?;
        let (mounted, root) = attach(site, volume, "")?;
        let id = add_key(&root, volume, key).map_err(failed)?;
        let directory = path::make_dir_in_root(&root, Path::new(DIRECTORY), Mode::from(0o755));
        let directory = directory
            .and_then(|_| open_directory(&root))
            .map_err(failed)?;
        fscrypt::encrypt(&directory, id).map_err(failed)?;
        drop((directory, root, mounted));
        loopdev::await_release(&site.image, WRITE_OUT).map_err(failed)
    }

    fn open(&self, site: &Site, volume: &Volume, key: &Key) -> Result<OpenVolume, VolumeError> {
        let (mounted, root) = attach(site, volume, &volume.options)?;
        let id = add_key(&root, volume, key);
        let id = id.map_err(|error| VolumeError::failed(&site.image, error))?;
        let missing = |error: cml_sys::Error| VolumeError::missing(&site.image, &error);
        let directory = open_directory(&root).map_err(missing)?;
        if fscrypt::key_of(&directory).map_err(missing)? != id {
            let reason = "it was encrypted under another key";
            return Err(VolumeError::damaged(&site.image, reason));
        }
        let tree = path::open_in_root(
            &root,
            Path::new(DIRECTORY),
            OFlags::PATH | OFlags::DIRECTORY,
        );
        Ok(OpenVolume::new(tree.map_err(missing)?, false, mounted))
    }

    fn devices(&self, _: &Site) -> Vec<String> {
        Vec::new()
    }

    fn meta_size(&self, _: u64) -> Option<u64> {
        None
    }
}

fn attach(site: &Site, volume: &Volume, options: &str) -> Result<(Mounted, OwnedFd), VolumeError> {
    let failed = |error: cml_sys::Error| VolumeError::failed(&site.image, error);
    let image = File::options().read(true).write(true).open(&site.image);
    let image = image.map_err(|error| VolumeError::failed(&site.image, error))?;
    let device = loopdev::attach(&image, false).map_err(failed)?;
    let restrict = Restrict {
        no_dev: true,
        ..Restrict::default()
    };
    let mounted = mount(
        &device.path,
        &site.image,
        (&volume.fs_type, options),
        restrict,
        &site.mount,
    )?;
    let root = File::open(mounted.path());
    let root = root.map_err(|error| VolumeError::failed(&site.image, error))?;
    Ok((mounted, root.into()))
}

fn open_directory(root: &OwnedFd) -> cml_sys::Result<OwnedFd> {
    path::open_in_root(
        root,
        Path::new(DIRECTORY),
        OFlags::RDONLY | OFlags::DIRECTORY,
    )
}

/// Every volume has a key of its own, so that nothing can be moved from one to the other.
fn add_key(root: &OwnedFd, volume: &Volume, key: &Key) -> cml_sys::Result<KeyId> {
    let mut derived = Zeroizing::new([0; KEY_LENGTH]);
    let purpose = format!("cml fscrypt volume {}", volume.name);
    Hkdf::<Sha256>::new(None, key.expose())
        .expand(purpose.as_bytes(), &mut *derived)
        .map_err(|error| cml_sys::Error::failed("derive the key".into(), &error.to_string()))?;
    fscrypt::add_key(root, &derived)
}
