//! Images of guest operating systems: hashed and mounted through one open file, so that what was
//! verified is what is used (SEC-09).

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context, Result},
    loopdev::{self, Loop},
    mount::Restrict,
    mounted::Mounted,
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
        let device = self.attach()?;
        mount_device(&device.path, fs_type, options, at)
    }

    /// A read-only loop device of the same open file.
    ///
    /// # Errors
    /// There is none.
    pub fn attach(&self) -> Result<Loop> {
        loopdev::attach(&self.file, true)
    }

    /// Its first bytes, as many as there are room for.
    ///
    /// # Errors
    /// It is shorter, or what the kernel said.
    pub fn start(&self, bytes: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(bytes, 0)
            .context("read", self.path.display())
    }
}

/// Mounts the image on a block device as images are mounted: read-only, and without device files.
///
/// # Errors
/// The content is not such a file system.
pub fn mount_device(
    device: &Path,
    fs_type: &str,
    options: &[(&str, &str)],
    at: &Path,
) -> Result<Mounted> {
    let restrict = Restrict {
        read_only: true,
        no_dev: true,
        ..Restrict::default()
    };
    Mounted::new(device, fs_type, options, restrict, at)
}
