//! Other owners for a tree whose file system the kernel cannot show with other owners (runtime.md 2.4): squashfs
//! before Linux 6.2, for example.
//!
//! An overlay takes the changed owners and nothing else: with `metacopy` the content of files stays where it is. It
//! is made here, and not in the container, because only the host's root may give files away.

use std::{
    ffi::{CStr, OsStr},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use cml_sys::{
    channel::Channel,
    error::{Context, Result},
    idmap::IdRange,
    mount,
    plan::FromInit,
};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags, chmodat, chownat, fstat,
        lgetxattr, lsetxattr, openat, statat,
    },
    io::Errno,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{Failure, Stage, assemble};

/// Hands the tree back with the owners of the container.
pub(crate) fn run(
    channel: &Channel,
    fds: Vec<OwnedFd>,
    ids: IdRange,
) -> std::result::Result<(), Failure> {
    let Ok([tree]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err("one tree must come along").stage("change owners");
    };
    // SAFETY: the flag touches neither descriptors nor signal handling; there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.stage("separate mounts")?;
    mount::make_private().stage("separate mounts")?;
    let stage = assemble::Stage::new().stage("make the stage")?;
    let shifted = stage.owners_overlay(tree).stage("lay owners over")?;
    let root = openat(&shifted, ".", DIRECTORY, Mode::empty()).stage("open the tree")?;
    let stat = fstat(&root).stage("inspect the tree")?;
    let owners = Owners(ids);
    owners.give(&root, c".", &stat).stage("change owners")?;
    owners.give_all_in(&root).stage("change owners")?;
    channel
        .send(&FromInit::Shifted, &[shifted.as_fd()])
        .stage("report")
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Who the owners become.
struct Owners(IdRange);

impl Owners {
    fn give_all_in(&self, dir: &OwnedFd) -> Result<()> {
        for entry in Dir::read_from(dir).context("list", "directory")? {
            let entry = entry.context("list", "directory")?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let shown = name.to_string_lossy();
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).context("inspect", &shown)?;
            self.give(dir, name, &stat).context("give away", &shown)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let below = openat(dir, name, DIRECTORY, Mode::empty()).context("open", &shown)?;
                self.give_all_in(&below)?;
            }
        }
        Ok(())
    }

    /// Gives a file away and restores what the kernel takes from one that is given away. An owner that the container
    /// has no number for stays, and is nobody there.
    fn give(&self, dir: &OwnedFd, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let rights = match is_file {
            true => Rights::of(dir, name)?,
            false => None,
        };
        let user = self.0.host_id(stat.st_uid).map(Uid::from_raw);
        let group = self.0.host_id(stat.st_gid).map(Gid::from_raw);
        chownat(dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_file && stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            chmodat(dir, name, mode, AtFlags::empty())?;
        }
        match rights {
            Some(rights) => rights.give(self.0, dir, name),
            None => Ok(()),
        }
    }
}

/// The capabilities of a program: `struct vfs_ns_cap_data` of linux/capability.h.
struct Rights([u8; 24]);

const CAPABILITIES: &CStr = c"security.capability";
/// The revision, which the first word begins with.
const REVISION: u32 = 0xff00_0000;
/// The one that says whose root grants them.
const WITH_ROOT: u32 = 0x0300_0000;

impl Rights {
    fn of(dir: &OwnedFd, name: &CStr) -> rustix::io::Result<Option<Self>> {
        let mut bytes = [0; 24];
        match lgetxattr(path(dir, name), CAPABILITIES, &mut bytes[..]) {
            Ok(_) => Ok(Some(Self(bytes))),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those of the machine's root become those of the container's.
    fn give(mut self, ids: IdRange, dir: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        let word = |bytes: &[u8], at: usize| {
            let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let first = word(&self.0, 0) & !REVISION | WITH_ROOT;
        // The last word is zero in the older revision.
        let Some(root) = ids.host_id(word(&self.0, 20)) else {
            return Ok(());
        };
        self.0[..4].copy_from_slice(&first.to_le_bytes());
        self.0[20..].copy_from_slice(&root.to_le_bytes());
        lsetxattr(path(dir, name), CAPABILITIES, &self.0, XattrFlags::empty())
    }
}

/// A path for calls that take no descriptor; its last part is not followed by them.
fn path(dir: &OwnedFd, name: &CStr) -> PathBuf {
    let name = OsStr::from_bytes(name.to_bytes());
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}
