//! Paths inside a root that may be hostile: every step stays inside it (SEC-06).

use std::{
    ffi::OsString,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat},
    io::Errno,
};

use crate::error::{Context, Error, Result};

/// Opens a path inside the root; symbolic links, also absolute ones, never lead out of it.
///
/// # Errors
/// What the kernel said.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    // `ResolveFlags::IN_ROOT` makes absolute paths start at the root; NO_MAGICLINKS keeps
    // /proc/PID/fd links from pointing anywhere.
    openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .context("open in the guest", path.display())
}

/// Opens a directory inside the root and makes what is missing of it, one directory at a time.
///
/// # Errors
/// A component exists and is no directory, or the file system is read-only.
pub fn make_dir_in_root(root: impl AsFd, path: &Path, mode: Mode) -> Result<OwnedFd> {
    let root = root.as_fd();
    match open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.errno() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let mut done = PathBuf::from("/");
    let mut here = open_in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
    for part in normal_parts(path)? {
        match mkdirat(&here, &part, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(error).context("make in the guest", done.join(&part).display());
            }
        }
        done.push(&part);
        here = open_in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
    }
    Ok(here)
}

/// Opens a file inside the root and makes an empty one if it is missing, with its directories.
///
/// # Errors
/// The file system is read-only, or the path leads to something that cannot be created.
pub fn make_file_in_root(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let root = root.as_fd();
    match open_in_root(root, path, OFlags::PATH) {
        Err(error) if error.errno() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(
            "make file",
            path.display(),
            "not a file path",
        ));
    };
    let dir = make_dir_in_root(root, dir, Mode::from_raw_mode(0o755))?;
    openat(
        &dir,
        name,
        OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY,
        Mode::from_raw_mode(0o644),
    )
    .context("make in the guest", path.display())?;
    open_in_root(root, path, OFlags::PATH)
}

fn normal_parts(path: &Path) -> Result<Vec<OsString>> {
    path.components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .map(|part| match part {
            Component::Normal(name) => Ok(name.to_owned()),
            _ => Err(Error::invalid(
                "make",
                path.display(),
                "`..` is not allowed",
            )),
        })
        .collect()
}

/// Where a path inside the root leads in the end: the name that the last symbolic link of the chain
/// has. Only the last component is followed by hand; the kernel resolves the rest.
///
/// # Errors
/// The path does not exist, or the links go in circles.
pub fn final_name(root: impl AsFd, path: &Path) -> Result<PathBuf> {
    let root = root.as_fd();
    let mut at = PathBuf::from("/").join(path);
    // 40 is the kernel's own limit for symbolic links on the way to one file.
    for _ in 0..40 {
        let fd = open_in_root(root, &at, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&fd).context("inspect in the guest", at.display())?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Symlink {
            return Ok(at);
        }
        let target = readlinkat(&fd, "", Vec::new()).context("read link", at.display())?;
        let target = PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(
            target.into_bytes(),
        ));
        at = match at.parent() {
            Some(dir) => dir.join(target),
            None => PathBuf::from("/").join(target),
        };
    }
    Err(Error::invalid(
        "follow",
        path.display(),
        "too many symbolic links",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        (dir, fd)
    }

    #[test]
    fn absolute_links_stay_inside_the_root() {
        let (dir, fd) = root();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/opt/x", dir.path().join("etc/resolv.conf")).unwrap();
        assert!(open_in_root(&fd, Path::new("/etc/resolv.conf"), OFlags::PATH).is_err());
        fs::create_dir(dir.path().join("opt")).unwrap();
        fs::write(dir.path().join("opt/x"), "inside").unwrap();
        assert!(open_in_root(&fd, Path::new("/etc/resolv.conf"), OFlags::PATH).is_ok());
    }

    #[test]
    fn directories_are_never_made_outside_the_root() {
        let (dir, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        let made = make_dir_in_root(&fd, Path::new("/out/new"), Mode::from_raw_mode(0o755));
        assert!(made.is_err());
        assert!(!outside.path().join("new").exists());
        assert!(make_dir_in_root(&fd, Path::new("/a/../b"), Mode::from_raw_mode(0o755)).is_err());
    }

    #[test]
    fn the_last_link_of_a_chain_is_found() {
        let (dir, fd) = root();
        fs::create_dir_all(dir.path().join("usr/lib/systemd")).unwrap();
        fs::create_dir(dir.path().join("sbin")).unwrap();
        fs::write(dir.path().join("usr/lib/systemd/systemd"), "").unwrap();
        symlink("../usr/lib/systemd/systemd", dir.path().join("sbin/init")).unwrap();
        let name = final_name(&fd, Path::new("/sbin/init")).unwrap();
        assert_eq!(name.file_name().unwrap(), "systemd");
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(final_name(&fd, Path::new("/loop")).is_err());
    }
}
