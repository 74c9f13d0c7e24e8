//! Images that the kernel verifies block by block when they are read (crypto.md 5.4): nothing has to be hashed
//! before they are mounted, and whoever changes one afterwards causes I/O errors.

use std::path::Path;

use cml_sys::{
    dm::{
        Control, Target,
        verity::{SIZE, Superblock},
    },
    image::Image,
    mounted::Mounted,
};
use cml_wire::proto::GuestOsMount;

/// Bytes of a sector in all tables.
const SECTOR: u64 = 512;

/// How long a name may be: a UUID of the device mapper has 128 bytes, and this is its last part.
const NAME: usize = 80;

/// What vouches for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A hash of the whole image.
    Whole,
    /// The root of a tree of hashes.
    Tree(Vec<u8>),
}

/// Why an image is not mounted.
#[derive(Debug)]
pub enum Refused {
    /// It is not what the configuration promises.
    Image(String),
    /// The kernel would not mount what it verified.
    Mount(String),
}

/// What vouches for the image behind a mount, on a kernel that may have no dm-verity.
pub fn proof(mount: &GuestOsMount, supported: impl FnOnce() -> bool) -> Result<Proof, String> {
    let root = mount.image_verity_sha256();
    if root.is_empty() {
        return Ok(Proof::Whole);
    }
    let root = hex::decode(root).map_err(|_| "its image_verity_sha256 is no number in hex")?;
    match supported() {
        true => Ok(Proof::Tree(root)),
        false if !mount.image_sha2_256().is_empty() => Ok(Proof::Whole),
        false => Err(
            "only image_verity_sha256 vouches for it, and this kernel has no dm-verity; load dm_verity, or \
             add image_sha2_256 to the configuration"
                .into(),
        ),
    }
}

/// Whether this kernel has dm-verity.
pub fn supported() -> bool {
    Control::open().is_ok_and(|control| control.has_target("verity").unwrap_or_default())
}

/// Ends the name of every device of ours, with the process number of the daemon.
const OWNER: &str = "-cmld";

/// What the device of an image is called; no other mount of any daemon has the same.
pub fn device_name(stem: &str, image: &str, number: u64) -> String {
    let end = format!("-{number}{OWNER}{}", std::process::id());
    let mut name = format!("{stem}-{image}");
    let room = NAME.saturating_sub(end.len());
    while name.len() > room {
        name.pop();
    }
    name + &end
}

/// Removes the devices that daemons have left which are dead. Those that a container still uses go with it.
pub fn remove_stale() {
    let Ok(control) = Control::open() else { return };
    for name in control.list().unwrap_or_default() {
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
            && let Err(error) = control.remove_when_unused(&name)
        {
            tracing::warn!(%error, "a device is left");
        }
    }
}

/// The process number of the daemon that has made a device of ours.
fn owner(name: &str) -> Option<u32> {
    name.rsplit_once(OWNER)?.1.parse().ok()
}

/// Mounts an image whose tree of hashes is in the file `tree`. The device goes with the mount, even if we do not
/// live to see it.
pub fn mount(
    image: &Image,
    tree: &Path,
    root: &[u8],
    name: &str,
    mount: impl FnOnce(&Path) -> cml_sys::Result<Mounted>,
) -> Result<Mounted, Refused> {
    let failed = |error: cml_sys::Error| Refused::Image(error.to_string());
    let control = Control::open().map_err(failed)?;
    let hashes = Image::open(tree).map_err(failed)?;
    let mut start = [0; SIZE];
    hashes.start(&mut start).map_err(failed)?;
    let size = image.size().map_err(failed)?;
    let block = Superblock::parse(&start, size);
    let block = block.map_err(|error| Refused::Image(error.to_string()))?;
    let (data, hash) = (
        image.attach().map_err(failed)?,
        hashes.attach().map_err(failed)?,
    );
    let target = Target::verity(&block, &data.path, &hash.path, root).map_err(failed)?;
    let uuid = format!("CRYPT-VERITY-{}-{name}", hex::encode(block.uuid));
    let device = control
        .create(name, Some(&uuid), true, size / SECTOR, &target)
        .map_err(failed)?;
    let mounted = mount(&device.path);
    // From now on the mount is its only user.
    let status = control.status(name);
    control.remove_when_unused(name).map_err(failed)?;
    match status.map_err(failed)?.starts_with('V') {
        true => mounted.map_err(|error| Refused::Mount(error.to_string())),
        false => Err(Refused::Image(
            "it is not what the image_verity_sha256 of the configuration says".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn promised(root: &str, whole: &str) -> GuestOsMount {
        GuestOsMount {
            image_verity_sha256: Some(root.into()),
            image_sha2_256: Some(whole.into()),
            ..Default::default()
        }
    }

    #[test]
    fn a_root_hash_is_used_where_the_kernel_can_and_never_ignored() {
        let both = promised("00ff", "aa");
        assert_eq!(proof(&both, || true), Ok(Proof::Tree(vec![0, 255])));
        assert_eq!(proof(&both, || false), Ok(Proof::Whole));
        let alone = promised("00ff", "");
        assert_eq!(proof(&alone, || true), Ok(Proof::Tree(vec![0, 255])));
        assert!(proof(&alone, || false).unwrap_err().contains("dm_verity"));
        for supported in [true, false] {
            assert_eq!(proof(&promised("", "aa"), || supported), Ok(Proof::Whole));
            assert!(proof(&promised("xy", "aa"), || supported).is_err());
        }
    }

    #[test]
    fn a_name_tells_its_daemon_and_fits_whatever_the_image_is_called() {
        let name = device_name("busybox-1", "root", 7);
        let pid = std::process::id();
        assert_eq!(name, format!("busybox-1-root-7-cmld{pid}"));
        for stem in ["x".repeat(300), "ä".repeat(100)] {
            let long = device_name(&stem, "-cmld1", 7);
            assert!(long.len() <= NAME, "{long}");
            assert_eq!(owner(&long), Some(pid));
        }
        for other in ["busybox-1-root", "x-cmld", "x-cmld1a", "vg-cmldata", ""] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
