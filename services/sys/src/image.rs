//! Images of guest operating systems: hashed and mounted through one open file, so that what was
//! verified is what is used (SEC-09).

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, Result},
    loopdev,
    mount::{self, Restrict},
};

/// An open image file.
#[derive(Debug)]
pub struct Image {
    file: File,
    path: PathBuf,
}

impl Image {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            file: crate::file::open(path)?,
            path: path.to_owned(),
        })
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn size(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.context("inspect", self.path.display())?.len())
    }

    /// Reads the whole image in order, 1 MiB at a time.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let length = self
                .file
                .read_at(&mut buffer, at)
                .context("read", self.path.display())?;
            if length == 0 {
                return Ok(());
            }
            each(&buffer[..length]);
            at += length as u64;
        }
    }

    /// Mounts the image read-only at a directory of ours, from the same open file.
    ///
    /// # Errors
    /// No loop device, or the content is not such a file system.
    pub fn mount(&self, fs_type: &str, options: &[(&str, &str)], at: &Path) -> Result<Mounted> {
        let device = loopdev::attach(&self.file, true)?;
        let source = device.path.to_string_lossy();
        let mut all = vec![("source", source.as_ref()), ("ro", "")];
        all.extend_from_slice(options);
        let restrict = Restrict {
            read_only: true,
            no_dev: true,
            ..Restrict::default()
        };
        let tree = mount::create(fs_type, &all, restrict)?;
        std::fs::create_dir_all(at).context("make", at.display())?;
        let target = File::open(at).context("open", at.display())?;
        mount::attach(&tree, &target)?;
        Ok(Mounted(at.to_owned()))
    }
}

/// A mount that goes away when this is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the mount namespace is private, so at the latest
        // the end of the daemon takes the mount away.
        let _ = mount::detach(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}
