//! Network namespaces, by descriptor.

use std::{
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::netlink::Netlink;
use crate::error::{Context, Error, Result};

/// The namespace that a thread is in.
const OWN: &str = "/proc/thread-self/ns/net";
/// linux/nsfs.h: _IO(0xb7, 0x3).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// What a short-lived thread of ours needs; it only makes system calls.
const STACK: usize = 128 << 10;

/// A network namespace. It exists at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: OwnedFd,
    /// Tells namespaces from each other: device and inode number.
    identity: (u64, u64),
}

impl Namespace {
    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// procfs is not mounted.
    pub fn current() -> Result<Self> {
        File::open(OWN).context("open", OWN)?.try_into()
    }

    /// That of a process.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of_process(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        File::open(&path).context("open", path)?.try_into()
    }

    /// The one that is mounted on a file; `None` where there is none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.context("open", path.display())?,
        };
        Ok(Self::try_from(file).ok())
    }

    /// A new one, with nothing but a loopback interface.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn create() -> Result<Self> {
        in_thread(|| {
            // SAFETY: the flag touches neither descriptors nor signals, and the thread ends with this.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("make", "network namespace")?;
            Self::current()
        })
    }

    /// Runs a job in this namespace, on a thread that ends with it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or that of the job.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            // Nothing to enter, and nobody's privileges needed for that.
            if Self::current()?.identity != self.identity {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("enter", "network namespace")?;
            }
            job()
        })
    }

    /// A netlink socket of this namespace.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub fn netlink(&self) -> Result<Netlink> {
        if Self::current()?.identity == self.identity {
            return Netlink::open();
        }
        self.run(Netlink::open)
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self.file.try_clone().context("duplicate", "namespace")?;
        Ok(Self {
            file,
            identity: self.identity,
        })
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.file
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TryFrom<File> for Namespace {
    type Error = Error;

    fn try_from(file: File) -> Result<Self> {
        // SAFETY: takes no argument and answers a number.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(Error::invalid("use", "file", "it is no network namespace"));
        }
        let metadata = file.metadata().context("inspect", "network namespace")?;
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            file: file.into(),
        })
    }
}

impl TryFrom<OwnedFd> for Namespace {
    type Error = Error;

    fn try_from(file: OwnedFd) -> Result<Self> {
        File::from(file).try_into()
    }
}

/// Runs a job on a thread of its own, which may therefore change what belongs to threads.
pub(super) fn in_thread<T: Send>(job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("namespace".into())
            .stack_size(STACK)
            .spawn_scoped(scope, job)
            .context("start", "thread")?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::invalid("run", "job in a namespace", "it panicked")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_job_in_a_namespace_leaves_every_other_thread_where_it_is() {
        let here = Namespace::current().unwrap();
        let there = Namespace::create().unwrap();
        assert!(!there.is(&here));
        let found = there.run(Namespace::current).unwrap();
        assert!(found.is(&there));
        assert!(Namespace::current().unwrap().is(&here));
        assert!(there.try_clone().unwrap().is(&there));
    }

    #[test]
    fn other_files_are_no_networks() {
        for path in ["/proc/self/ns/mnt", "/dev/null"] {
            assert!(Namespace::at(Path::new(path)).unwrap().is_none(), "{path}");
        }
        assert!(Namespace::at(Path::new("/nowhere")).unwrap().is_none());
    }
}
