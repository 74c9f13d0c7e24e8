//! mknod(2): device nodes that work, where the guest wants them (runtime.md 2.6).
//!
//! A node that a guest makes opens nothing: file systems that were mounted in a user namespace, and all of a
//! container's, are `nodev`. So the node is made on a file system of its own, which never leaves our hands but
//! as a mount, and is mounted over an empty file. That file is made, and the mount attached, by a process that
//! has become the caller: no path of the guest is walked with any right that the guest has not (SEC-06).

use std::{
    ffi::CString,
    os::fd::{AsRawFd, OwnedFd},
};

use cml_sys::{
    device::{Access, Device, Kind},
    mount::{self, Restrict},
    seccomp::notify::Call,
};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat, openat, unlinkat},
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    Emulation, Outcome,
    caller::{Caller, Status, last_error, number},
    die_with_parent,
};
use crate::isolate;

const MKNOD: u32 = 27;
const SYS_ADMIN: u32 = 21;

/// What is asked for.
struct Request {
    /// The directory that the path starts from.
    from: u64,
    path: u64,
    mode: u32,
    device: Device,
}

impl Request {
    fn of(call: &Call) -> Self {
        let args = &call.args;
        #[cfg(target_arch = "x86_64")]
        let plain = call.number == libc::SYS_mknod;
        #[cfg(not(target_arch = "x86_64"))]
        let plain = false;
        // The kernel takes the lower 16 bits of the mode and the lower 32 of the number.
        let (from, path, mode, device) = match plain {
            true => (libc::AT_FDCWD as u64, args[0], args[1], args[2]),
            false => (args[0], args[1], args[2], args[3]),
        };
        let mode = mode as u32 & 0xffff;
        Self {
            from,
            path,
            mode,
            device: decode(mode, device as u32),
        }
    }
}

/// The kernel's form of a device number in system calls.
fn decode(mode: u32, device: u32) -> Device {
    Device {
        kind: match mode & libc::S_IFMT == libc::S_IFBLK {
            true => Kind::Block,
            false => Kind::Char,
        },
        major: device >> 8 & 0xfff,
        minor: device & 0xff | device >> 12 & 0xf_ff00,
    }
}

pub(crate) fn emulate(emulation: &Emulation, caller: &Caller<'_>, call: &Call) -> Outcome {
    emulation.has(caller, MKNOD)?;
    let request = Request::of(call);
    if !emulation.plan.devices.permits(request.device, Access::MAKE) {
        return Err(libc::EPERM);
    }
    let status = caller.status()?;
    let path = caller.path(request.path)?;
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    let node = make(&request, &status)?;
    let from = caller.directory(request.from)?;
    let parent = rustix::process::getppid().ok_or(libc::ESRCH)?;
    become_caller(caller, &from, &status)?;
    die_with_parent(parent);
    drop(from);
    rustix::process::umask(Mode::empty());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let place = openat(CWD, &path, flags, Mode::empty()).map_err(number)?;
    mount::attach(&node, &place).map_err(|error| {
        let _ = unlinkat(CWD, &path, AtFlags::empty());
        error.errno().unwrap_or(libc::EIO)
    })?;
    Ok(0)
}

/// The node, as a mount that is attached nowhere.
fn make(request: &Request, status: &Status) -> Result<OwnedFd, i32> {
    let restrict = Restrict {
        no_suid: true,
        no_exec: true,
        ..Restrict::default()
    };
    // Room for the root and the node.
    let options = [("size", "4k"), ("nr_inodes", "3"), ("mode", "0700")];
    let errno = |error: cml_sys::Error| error.errno().unwrap_or(libc::EIO);
    let home = mount::create("tmpfs", &options, restrict).map_err(errno)?;
    let kind = match request.device.kind {
        Kind::Block => FileType::BlockDevice,
        Kind::Char => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(request.mode & 0o7777 & !status.umask);
    let device = rustix::fs::makedev(request.device.major, request.device.minor);
    rustix::process::umask(Mode::empty());
    mknodat(&home, "node", kind, mode, device).map_err(number)?;
    let (user, group) = status.owner;
    // SAFETY: a text that ends and plain numbers.
    let done = unsafe {
        libc::fchownat(
            home.as_raw_fd(),
            c"node".as_ptr(),
            user,
            group,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if done != 0 {
        return Err(last_error());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(&home, "node", flags).map_err(number)
}

/// Enters the caller's user and mount namespace, its root and the directory that the path starts from, as root
/// of the container with the caller's capabilities and the one to mount.
fn become_caller(caller: &Caller<'_>, from: &OwnedFd, status: &Status) -> Result<(), i32> {
    let user = caller.open("ns/user", OFlags::RDONLY)?;
    let mounts = caller.open("ns/mnt", OFlags::RDONLY)?;
    let root = caller.open("root", OFlags::PATH | OFlags::DIRECTORY)?;
    for (namespace, kind) in [(&user, libc::CLONE_NEWUSER), (&mounts, libc::CLONE_NEWNS)] {
        // SAFETY: a namespace's file and its kind; this process has one thread.
        if unsafe { libc::setns(namespace.as_raw_fd(), kind) } != 0 {
            return Err(last_error());
        }
    }
    rustix::process::fchdir(&root).map_err(number)?;
    rustix::process::chroot(".").map_err(number)?;
    rustix::process::fchdir(from).map_err(number)?;
    // SAFETY: plain system calls; root of the container, no supplementary groups.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
    };
    if !done {
        return Err(last_error());
    }
    let kept = status.effective | 1 << SYS_ADMIN;
    isolate::keep_only(|number| kept >> number & 1 == 1)
        .map_err(|error| error.errno().unwrap_or(libc::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_as_the_kernel_reads_them() {
        let shown = |mode, device| decode(mode, device).to_string();
        assert_eq!(shown(libc::S_IFCHR | 0o666, 0x103), "c 1:3");
        // 136:300 as makedev(3) writes the lower 32 bits of it.
        assert_eq!(shown(libc::S_IFCHR, 0x0010_882c), "c 136:300");
        assert_eq!(shown(libc::S_IFBLK | 0o600, 0x700), "b 7:0");
    }
}
