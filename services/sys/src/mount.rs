//! Mounts by file descriptor: nothing is found twice by its path between check and use (SEC-03, SEC-06).

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
        fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
};

use crate::error::{Context, Error, Result, explained};

/// What a mount allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restrict {
    /// No writing.
    pub read_only: bool,
    /// Device nodes mean nothing.
    pub no_dev: bool,
    /// Set-uid bits mean nothing.
    pub no_suid: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// `relatime`, as kernel file systems have it (runtime.md 3.7), instead of `noatime` (3.2). A user
    /// namespace may mount procfs and sysfs only with the setting that the host's own has.
    pub relative_atime: bool,
}

impl Restrict {
    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_NOATIME, !self.relative_atime);
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags
    }
}

/// The action in the error of [`create`] when the kernel looked at the content and did not like it.
pub const CREATE: &str = "create file system";

/// A new file system that is mounted nowhere yet. Options are key and value, never a joined string
/// (SEC-08); an empty value is a flag.
///
/// # Errors
/// The kernel refused the type, an option, or the device.
pub fn create(fs_type: &str, options: &[(&str, &str)], restrict: Restrict) -> Result<OwnedFd> {
    let context =
        fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).context("open file system", fs_type)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *key)
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)
        }
        .map_err(|error| detail(&context, error))
        .context("set option of", format_args!("{fs_type}: {key}={value}"))?;
    }
    fsconfig_create(context.as_fd())
        .map_err(|error| detail(&context, error))
        .context(CREATE, fs_type)?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        restrict.flags(),
    )
    .context("mount file system", fs_type)
}

/// The kernel explains refused mounts in the context's log; the errno alone rarely helps anyone.
fn detail(context: &OwnedFd, error: rustix::io::Errno) -> std::io::Error {
    let mut text = [0_u8; 512];
    match rustix::io::read(context, &mut text) {
        Ok(length) if length > 0 => {
            let said = String::from_utf8_lossy(&text[..length]);
            explained(error.raw_os_error(), said.trim())
        }
        _ => error.into(),
    }
}

/// Splits a `mount_data` text into options; a word without `=` is a flag.
pub fn options(data: &str) -> Vec<(&str, &str)> {
    data.split(',')
        .filter(|word| !word.is_empty())
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .collect()
}

/// Attaches a detached mount onto the object behind `target`.
///
/// # Errors
/// What the kernel said.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    move_mount(
        mount.as_fd(),
        "",
        target.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .context("attach", "mount")
}

/// A detached copy of the tree at an open file, with everything mounted below it.
///
/// # Errors
/// What the kernel said.
pub fn copy_tree(tree: impl AsFd) -> Result<OwnedFd> {
    open_tree(
        tree.as_fd(),
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .context("copy", "mount tree")
}

/// A detached copy of the tree at a path of ours.
///
/// # Errors
/// What the kernel said.
pub fn copy_path(path: &Path) -> Result<OwnedFd> {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .context("copy mount tree", path.display())
}

/// Restricts a detached tree and, with `userns`, maps its owners as that user namespace does.
///
/// # Errors
/// The kernel or the file system cannot do it.
pub fn set_attributes(
    mount: impl AsFd,
    restrict: Restrict,
    userns: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut set = u64::from(restrict.flags().bits());
    if userns.is_some() {
        set |= libc::MOUNT_ATTR_IDMAP;
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: userns.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    // SAFETY: the path is an empty C string, the structure is a live mount_attr of the size given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        let action = if userns.is_some() {
            "map owners of"
        } else {
            "restrict"
        };
        return Err(error).context(action, "mount tree");
    }
    Ok(())
}

/// Changes nothing outside reaches in and nothing inside reaches out: everything below `/` is private.
///
/// # Errors
/// What the kernel said.
pub fn make_private() -> Result<()> {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .context("make private", "/")
}

/// Host mounts still arrive here, ours do not leave.
///
/// # Errors
/// What the kernel said.
pub fn make_slave() -> Result<()> {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )
    .context("make slave", "/")
}

/// Takes the mount at a path of ours away; a busy one disappears with its last user.
///
/// # Errors
/// What the kernel said.
pub fn detach(path: &Path) -> Result<()> {
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).context("unmount", path.display())
}

/// Makes `root` the root of this process's mount namespace and forgets the old one, with everything that
/// was ever mounted over it.
///
/// # Errors
/// What the kernel said, or that something of the old root is still there.
pub fn pivot(root: impl AsFd) -> Result<()> {
    let new_root = mount_id(root.as_fd(), "")?;
    rustix::process::fchdir(root.as_fd()).context("enter", "new root")?;
    rustix::process::pivot_root(".", ".").context("switch to", "new root")?;
    // The old root is stacked on the new one, and what was mounted over the old one on top of it. Each
    // unmount takes the topmost away; `..` of the root is what is topmost (path_resolution(7) follows
    // mounts there, but not at the root itself).
    for _ in 0..OLD_ROOT_LAYERS {
        if mount_id(CWD, "/..")? == new_root {
            return rustix::process::chdir("/").context("enter", "/");
        }
        unmount(".", UnmountFlags::DETACH).context("leave", "old root")?;
    }
    Err(Error::invalid(
        "leave",
        "old root",
        "too much is mounted over it",
    ))
}

/// The old root and the stage over it are two layers; the rest is for hosts that do the like themselves.
const OLD_ROOT_LAYERS: usize = 16;

fn mount_id(at: impl AsFd, path: &str) -> Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(at, path, flags, StatxFlags::MNT_ID).context("identify mount at", path)?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Error::invalid(
            "identify mount at",
            path,
            "this kernel is older than 5.8",
        ));
    }
    Ok(found.stx_mnt_id)
}

/// Remounts what is at `path` read-only by a bind mount of itself. The path is one of procfs or sysfs
/// that we have just mounted.
///
/// # Errors
/// What the kernel said.
pub fn bind_read_only(target: impl AsFd) -> Result<()> {
    let copy = copy_tree(target.as_fd())?;
    set_attributes(
        &copy,
        Restrict {
            read_only: true,
            no_dev: true,
            no_suid: true,
            no_exec: true,
            relative_atime: true,
        },
        None,
    )?;
    attach(copy, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_data_is_split_into_flags_and_values() {
        assert_eq!(
            options("size=5m,noswap,mode=0755"),
            [("size", "5m"), ("noswap", ""), ("mode", "0755")]
        );
        assert!(options("").is_empty());
    }
}
