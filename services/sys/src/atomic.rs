//! Files that are either old or new, never half: write, fsync, rename, fsync of the directory.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::error::{Context, Error, Result};

/// Replaces `path` with these bytes, durably. The mode is that of a new file.
///
/// # Errors
/// Any step that the kernel refused; the old file is untouched then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    write_with(path, mode, |file| file.write_all(bytes))
}

/// As [`write`], for what is too large to be in memory: the function writes it.
///
/// # Errors
/// As [`write`].
pub fn write_with(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    replace(path, fill, mode, true)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Replaces `path` with these bytes: old or new, never half, as long as the machine runs. For state that
/// means nothing after a reboot, and so need not wait for the disk.
///
/// # Errors
/// Any step that the kernel refused; the old file is untouched then.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, |file| file.write_all(bytes), mode, false)
}

fn replace(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    mode: u32,
    durable: bool,
) -> Result<()> {
    let shown = path.display();
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("write", shown, "not a file path"));
    };
    let temporary = dir.join(temporary(name));
    let result = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)
            .context("create", temporary.display())?;
        fill(&mut file).context("write", temporary.display())?;
        if durable {
            file.sync_all().context("sync", temporary.display())?;
        }
        fs::rename(&temporary, path).context("rename to", &shown)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// The name of a file that is being written. It starts with a dot and ends in no known suffix, so that no scan
/// of a store takes a left-over for an entry.
fn temporary(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    temporary
}

/// What a write of this file leaves when the power goes.
pub(crate) fn left_over(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(temporary(path.file_name()?)))
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// What the kernel said.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .context("sync", dir.display())
}

/// Removes a file and what an interrupted write of it has left; that it is not there is fine.
///
/// # Errors
/// What the kernel said otherwise.
pub fn remove(path: &Path) -> Result<()> {
    if let Some(left) = left_over(path) {
        remove_one(&left)?;
    }
    remove_one(path)
}

fn remove_one(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context("remove", path.display()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf");
        write(&path, b"old", 0o600).unwrap();
        fs::create_dir(dir.path().join(".conf.new")).unwrap();
        assert!(write(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn what_an_interrupted_write_has_left_goes_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf");
        fs::write(dir.path().join(".conf.new"), "half").unwrap();
        write(&path, b"new", 0o600).unwrap();
        fs::write(dir.path().join(".conf.new"), "half").unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
