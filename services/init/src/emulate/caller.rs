//! The process that made a system call: its memory, its rights, its place in the file system.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use cml_sys::seccomp::notify::{Call, Listener};
use rustix::fs::{Mode, OFlags, fstat, openat};

/// PATH_MAX of linux/limits.h, with the byte that ends the text.
const PATH_MAX: usize = 4096;

/// Which namespace it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespace(u64, u64);

impl Namespace {
    /// Of an open namespace file.
    pub(crate) fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        fstat(file).map(|stat| Self(stat.st_dev, stat.st_ino))
    }
}

/// The caller, by its directory in procfs. The directory stays the same when another thread executes a set-uid program
/// and takes the number over, and what is below it does not. So nothing counts that was opened or read there before the
/// call was seen to wait still: until then nobody else can be behind the number.
pub(crate) struct Caller<'a> {
    directory: OwnedFd,
    listener: &'a Listener,
    call: &'a Call,
}

/// What proc_pid_status(5) says of it, as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Status {
    /// Its capabilities, in its own user namespace.
    pub(crate) effective: u64,
    /// User and group that its files get.
    pub(crate) owner: (u32, u32),
    /// Modes that its files do not get.
    pub(crate) umask: u32,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let words = |field: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(field));
            rest.map(str::split_whitespace)
        };
        // Real, effective, saved, file system.
        let last = |field| words(field)?.nth(3)?.parse().ok();
        Some(Self {
            effective: u64::from_str_radix(words("CapEff:")?.next()?, 16).ok()?,
            owner: (last("Uid:")?, last("Gid:")?),
            umask: u32::from_str_radix(words("Umask:")?.next()?, 8).ok()?,
        })
    }

    pub(crate) fn has(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }
}

impl<'a> Caller<'a> {
    /// Takes hold of the process behind a call.
    pub(crate) fn of(listener: &'a Listener, call: &'a Call) -> Result<Self, i32> {
        let path = format!("/proc/{}", call.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(number)?;
        let caller = Self {
            directory,
            listener,
            call,
        };
        caller.confirm(()).map(|()| caller)
    }

    /// What was just found is the caller's, if its call still waits.
    fn confirm<T>(&self, found: T) -> Result<T, i32> {
        match self.listener.waits(self.call) {
            true => Ok(found),
            false => Err(libc::ESRCH),
        }
    }

    /// Opens something of the process by its name in the directory, also through the kernel's magic links.
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, i32> {
        let opened = openat(
            &self.directory,
            name,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        );
        self.confirm(opened.map_err(number)?)
    }

    /// Its namespace of this kind.
    pub(crate) fn namespace(&self, kind: &str) -> Result<Namespace, i32> {
        let file = self.open(&format!("ns/{kind}"), OFlags::RDONLY)?;
        Namespace::of(file).map_err(number)
    }

    /// What procfs says in this file.
    pub(crate) fn text(&self, name: &str) -> Result<String, i32> {
        let mut text = String::new();
        let mut file = File::from(self.open(name, OFlags::RDONLY)?);
        file.read_to_string(&mut text).map_err(|_| libc::ESRCH)?;
        self.confirm(text)
    }

    /// Its rights.
    pub(crate) fn status(&self) -> Result<Status, i32> {
        Status::parse(&self.text("status")?).ok_or(libc::ESRCH)
    }

    /// A copy of its memory.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), i32> {
        let memory = File::from(self.open("mem", OFlags::RDONLY)?);
        memory
            .read_exact_at(bytes, address)
            .map_err(|_| libc::EFAULT)
    }

    /// Changes its memory, which is what it asked for.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), i32> {
        let memory = File::from(self.open("mem", OFlags::WRONLY)?);
        memory
            .write_all_at(bytes, address)
            .map_err(|_| libc::EFAULT)
    }

    /// A copy of a path in its memory, without the byte that ends it.
    pub(crate) fn path(&self, address: u64) -> Result<Vec<u8>, i32> {
        let memory = File::from(self.open("mem", OFlags::RDONLY)?);
        let mut text = Vec::new();
        while text.len() < PATH_MAX {
            let at = address.checked_add(text.len() as u64).ok_or(libc::EFAULT)?;
            // Never over the end of a page: the next one may not be there, and need not.
            let mut piece = [0; 256];
            let room = usize::try_from(256 - at % 256).unwrap_or(1);
            let length = memory
                .read_at(&mut piece[..room], at)
                .map_err(|_| libc::EFAULT)?;
            let piece = &piece[..length];
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend(&piece[..end]);
                return Ok(text);
            }
            if length == 0 {
                return Err(libc::EFAULT);
            }
            text.extend(piece);
        }
        Err(libc::ENAMETOOLONG)
    }

    /// What paths start from that a call gives relative to a descriptor.
    pub(crate) fn directory(&self, descriptor: u64) -> Result<OwnedFd, i32> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        // The kernel takes an `int`.
        match descriptor as i32 {
            libc::AT_FDCWD => self.open("cwd", flags),
            number if number < 0 => Err(libc::EBADF),
            number => self
                .open(&format!("fd/{number}"), flags)
                .map_err(|errno| match errno {
                    libc::ENOENT => libc::EBADF,
                    other => other,
                }),
        }
    }
}

/// The kernel's number of an error.
pub(crate) fn number(error: rustix::io::Errno) -> i32 {
    error.raw_os_error()
}

/// The kernel's number of the error that libc has just met.
pub(crate) fn last_error() -> i32 {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_the_kernel_writes_them() {
        let text = "Name:\tx\nUmask:\t0022\nUid:\t1\t2\t3\t100000\nGid:\t5\t6\t7\t100008\n\
                    CapEff:\t0000000008000001\n";
        let status = Status::parse(text);
        assert_eq!(
            status,
            Some(Status {
                effective: 0x0800_0001,
                owner: (100_000, 100_008),
                umask: 0o22,
            })
        );
        assert!(status.is_some_and(|status| status.has(27) && !status.has(26)));
        assert_eq!(Status::parse("Uid:\t1\n"), None);
    }
}
