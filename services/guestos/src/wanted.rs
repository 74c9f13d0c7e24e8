//! Which files a guest OS needs, and which of them are there.

use std::{collections::BTreeMap, path::Path};

use cml_bus::api::guestos::GuestOsError;
use cml_sys::image::Image;
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};

use crate::{digest::Promise, fetch::Wanted, tree::Tree};

/// A file of the directory of images.
#[derive(Debug, Clone)]
pub struct Needed {
    /// Its name.
    pub file: String,
    /// What it must be.
    pub wanted: Wanted,
    /// What vouches for it, if it is a tree of hashes.
    pub tree: Option<Tree>,
}

impl Needed {
    /// Bytes that the disk must have for it.
    pub fn size(&self) -> u64 {
        match &self.wanted {
            Wanted::Image(promise) => promise.size,
            Wanted::UpTo(limit) => *limit,
        }
    }
}

/// Whether the image behind a mount comes from outside; the other types are made on the device.
fn is_delivered(mount: &GuestOsMount) -> bool {
    match mount.mount_type() {
        Type::Shared
        | Type::SharedRw
        | Type::OverlayRo
        | Type::Copy
        | Type::Flash
        | Type::StoreOnly => true,
        Type::Device
        | Type::DeviceRw
        | Type::Empty
        | Type::OverlayRw
        | Type::BindFile
        | Type::BindFileRw => false,
    }
}

/// A hash tree has one hash of 32 bytes for every 4096 bytes, level by level, and a superblock: less than
/// a hundredth of the image and 1 MiB.
fn hash_tree_limit(size: u64) -> u64 {
    (size / 100).saturating_add(1 << 20)
}

/// All files that the configuration names, those of setup mode as well.
///
/// # Errors
/// `BadConfig`: nothing says what an image must be, or two mounts say it differently.
pub fn needed(config: &GuestOsConfig, allow_sha1: bool) -> Result<Vec<Needed>, GuestOsError> {
    let bad = |image: &str, reason: &str| {
        Err(GuestOsError::BadConfig(format!(
            "image {image:?}: {reason}"
        )))
    };
    let mut promises: BTreeMap<&str, (Promise, Option<Tree>)> = BTreeMap::new();
    for mount in config.mounts.iter().chain(&config.mounts_setup) {
        if !is_delivered(mount) {
            continue;
        }
        let image = mount.image_file.as_str();
        let promise = match Promise::of(mount, allow_sha1) {
            Ok(promise) if promise.size == 0 => return bad(image, "it has no image_size"),
            Ok(promise) => promise,
            Err(reason) => return bad(image, &reason),
        };
        let tree = match mount.image_verity_sha256() {
            "" => None,
            root => Some(Tree {
                size: promise.size,
                root: hex::decode(root).unwrap_or_default(),
            }),
        };
        let known = promises
            .entry(image)
            .or_insert_with(|| (promise.clone(), None));
        let other_tree = known.1.is_some() && tree.is_some() && known.1 != tree;
        if known.0 != promise || other_tree {
            return bad(image, "two mounts promise different things of it");
        }
        known.1 = known.1.take().or(tree);
    }
    let mut files = Vec::new();
    for (image, (promise, tree)) in promises {
        if tree.is_some() {
            files.push(Needed {
                file: format!("{image}.hash.img"),
                wanted: Wanted::UpTo(hash_tree_limit(promise.size)),
                tree,
            });
        }
        files.push(Needed {
            file: format!("{image}.img"),
            wanted: Wanted::Image(promise),
            tree: None,
        });
    }
    Ok(files)
}

/// Whether the file is there, as far as a look at its size tells.
pub fn looks_present(dir: &Path, needed: &Needed) -> bool {
    let Ok(size) = Image::open(&dir.join(&needed.file)).and_then(|image| image.size()) else {
        return false;
    };
    match &needed.wanted {
        Wanted::Image(promise) => size == promise.size,
        Wanted::UpTo(limit) => (1..=*limit).contains(&size),
    }
}

/// Whether exactly the promised file is there.
pub fn is_present(dir: &Path, needed: &Needed) -> bool {
    let Wanted::Image(promise) = &needed.wanted else {
        let whole = |tree: &Tree| tree.is_whole(&dir.join(&needed.file));
        return looks_present(dir, needed) && needed.tree.as_ref().is_none_or(whole);
    };
    let mut hasher = promise.hasher();
    looks_present(dir, needed)
        && Image::open(&dir.join(&needed.file))
            .and_then(|image| image.read(|bytes| hasher.update(bytes)))
            .is_ok()
        && promise.kept(hasher).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mount(image: &str, kind: Type) -> GuestOsMount {
        GuestOsMount {
            image_file: image.into(),
            mount_type: kind.into(),
            image_size: Some(3),
            image_sha2_256: Some("00".repeat(32)),
            ..Default::default()
        }
    }

    fn files(mounts: Vec<GuestOsMount>, setup: Vec<GuestOsMount>) -> Result<Vec<String>, String> {
        let config = GuestOsConfig {
            mounts,
            mounts_setup: setup,
            ..Default::default()
        };
        let found = needed(&config, false).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|one| one.file).collect())
    }

    #[test]
    fn images_of_both_modes_and_hash_trees_are_needed_once_and_volumes_are_not() {
        let verity = GuestOsMount {
            image_verity_sha256: Some("00".into()),
            ..mount("root", Type::Shared)
        };
        let found = files(
            vec![
                verity,
                mount("data", Type::Empty),
                mount("fw", Type::StoreOnly),
            ],
            vec![mount("root", Type::Shared), mount("setup", Type::Shared)],
        );
        assert_eq!(
            found.unwrap(),
            ["fw.img", "root.hash.img", "root.img", "setup.img"]
        );
    }

    #[test]
    fn an_image_without_a_promise_is_refused() {
        for change in [
            (|mount| mount.image_size = None) as fn(&mut GuestOsMount),
            |mount| mount.image_sha2_256 = None,
        ] {
            let mut mount = mount("root", Type::Shared);
            change(&mut mount);
            assert!(files(vec![mount], vec![]).unwrap_err().contains("root"));
        }
        let other = GuestOsMount {
            image_size: Some(4),
            ..mount("root", Type::Shared)
        };
        let refused = files(vec![mount("root", Type::Shared), other], vec![]);
        assert!(refused.unwrap_err().contains("different"));
    }
}
