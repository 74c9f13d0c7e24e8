//! File systems on block devices, mounted at a directory of ours for as long as somebody needs them.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, Result},
    mount::{self, Restrict},
};

/// A mount that goes away when this is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts the file system on a block device at a directory, which is made.
    ///
    /// # Errors
    /// The content is not such a file system, or the kernel refused an option.
    pub fn new(
        device: &Path,
        fs_type: &str,
        options: &[(&str, &str)],
        restrict: Restrict,
        at: &Path,
    ) -> Result<Self> {
        let source = device.to_string_lossy();
        let mut all = vec![("source", source.as_ref())];
        if restrict.read_only {
            all.push(("ro", ""));
        }
        all.extend_from_slice(options);
        let tree = mount::create(fs_type, &all, restrict)?;
        std::fs::create_dir_all(at).context("make", at.display())?;
        let target = File::open(at).context("open", at.display())?;
        mount::attach(&tree, &target)?;
        Ok(Self(at.to_owned()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the mount namespace is private, so at the latest
        // the end of the daemon takes the mount away. A directory that is not empty was not made for it.
        let _ = mount::detach(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}
