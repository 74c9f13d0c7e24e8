//! Files of the stores: only regular ones, never through a link, never more than is expected.
//!
//! A FIFO or a device in the place of a configuration would hold up a thread for ever, or never end.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::Read,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::fs::OFlags;

use crate::error::{Context, Error, Result};

/// No configuration, signature, certificate or key comes near this many bytes; the protocol carries less
/// than 64 MiB in one message.
pub const SMALL: u64 = 64 << 20;

/// Makes a directory and those above it, all with this mode; what exists stays as it is.
///
/// # Errors
/// What the kernel said.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.context("make", path.display())
}

/// Opens a regular file for reading.
///
/// # Errors
/// What the kernel said; anything but a regular file is refused.
pub fn open(path: &Path) -> Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens a regular file for appending, and makes an empty one if there is none.
///
/// # Errors
/// As [`open`].
pub fn touch(path: &Path, mode: u32) -> Result<File> {
    open_with(
        path,
        // For reading as well: a FIFO would refuse a writer alone with words that help nobody.
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(mode),
    )
}

fn open_with(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let shown = path.display();
    // O_NONBLOCK: opening a FIFO would wait for its other end. It means nothing for a regular file.
    let file = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .context("open", shown)?;
    regular(file, path)
}

/// Opens a regular file inside a root that may be hostile for reading.
///
/// # Errors
/// As [`open`].
pub fn open_in_root(root: impl AsFd, path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    regular(crate::path::open_in_root(root, path, flags)?.into(), path)
}

fn regular(file: File, path: &Path) -> Result<File> {
    let metadata = file.metadata().context("inspect", path.display())?;
    match metadata.is_file() {
        true => Ok(file),
        false => Err(Error::invalid(
            "open",
            path.display(),
            "it is no regular file",
        )),
    }
}

/// Everything in a regular file of at most [`SMALL`] bytes.
///
/// # Errors
/// As [`open`], or the file is larger.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open(path)?.take(SMALL + 1);
    file.read_to_end(&mut bytes)
        .context("read", path.display())?;
    match bytes.len() as u64 > SMALL {
        true => Err(Error::invalid(
            "read",
            path.display(),
            "it is larger than 64 MiB",
        )),
        false => Ok(bytes),
    }
}

/// Opens a block device for reading, and nothing else: a FIFO would wait for ever, some character devices act
/// when they are opened, and a file of the host is nobody's volume.
///
/// # Errors
/// What the kernel said; anything but a block device is refused.
pub fn open_block_device(path: &Path) -> Result<File> {
    use std::os::unix::fs::FileTypeExt;
    let refuse = || Error::invalid("open", path.display(), "it is no block device");
    let before = std::fs::metadata(path).context("inspect", path.display())?;
    if !before.file_type().is_block_device() {
        return Err(refuse());
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .context("open", path.display())?;
    let opened = file.metadata().context("inspect", path.display())?;
    match opened.file_type().is_block_device() {
        true => Ok(file),
        false => Err(refuse()),
    }
}

/// Has everything that was written to a block device reach what it lies on, through all layers.
///
/// # Errors
/// What the kernel said.
pub fn sync_device(path: &Path) -> Result<()> {
    let device = OpenOptions::new().write(true).open(path);
    let device = device.context("open", path.display())?;
    device.sync_all().context("sync", path.display())
}

/// Opens a regular file for reading and writing.
///
/// # Errors
/// As [`open`].
pub fn open_writable(path: &Path) -> Result<File> {
    open_with(path, OpenOptions::new().read(true).write(true))
}

/// Destroys a file: its bytes are overwritten on the disk before its name goes. That it is not there is
/// fine. What a disk that moves blocks about keeps of it is beyond anybody's reach from here; therefore
/// nothing is ever stored in plain that this is meant to protect.
///
/// # Errors
/// What the kernel said; the file may still be there.
pub fn shred(path: &Path) -> Result<()> {
    if let Some(left) = crate::atomic::left_over(path) {
        shred_one(&left)?;
    }
    shred_one(path)
}

fn shred_one(path: &Path) -> Result<()> {
    let shown = || path.display();
    let mut file = match open_with(path, OpenOptions::new().read(true).write(true)) {
        Err(error) if error.is_absence() => return Ok(()),
        other => other?,
    };
    let length = file.metadata().context("inspect", shown())?.len();
    std::io::copy(&mut std::io::repeat(0).take(length), &mut file).context("overwrite", shown())?;
    file.sync_all().context("sync", shown())?;
    // Tells the disk that it may forget the blocks as well; not every file system can.
    let _ = rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        length,
    );
    crate::atomic::remove(path)?;
    path.parent().map_or(Ok(()), crate::atomic::sync_dir)
}

impl Error {
    /// Whether the disk is full or takes no changes: nothing that the caller did wrong.
    pub fn is_disk_trouble(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(
            self.source.kind(),
            StorageFull | ReadOnlyFilesystem | QuotaExceeded
        )
    }

    /// Whether what was looked for is not there.
    pub fn is_absence(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn a_destroyed_file_is_overwritten_under_every_name_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("key"), dir.path().join("other"));
        fs::write(&path, "secret").unwrap();
        fs::hard_link(&path, &other).unwrap();
        shred(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(&other).unwrap(), [0; 6]);
        shred(&path).unwrap();
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "content").unwrap();
        assert_eq!(read(&at("file")).unwrap(), b"content");
        mkfifoat(CWD, at("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        symlink(at("file"), at("link")).unwrap();
        for bad in ["fifo", "link", "."] {
            assert!(read(&at(bad)).is_err(), "{bad}");
            assert!(touch(&at(bad), 0o600).is_err(), "{bad}");
        }
        assert!(read(Path::new("/dev/zero")).is_err());
        assert!(read(&at("absent")).unwrap_err().is_absence());
    }
}
