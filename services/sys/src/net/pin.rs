//! Network namespaces that have a name: a mount that keeps them, whoever ends (runtime.md 4.1).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::namespace::{Namespace, in_thread};
use crate::{
    error::{Context, Result},
    mount,
};

/// The mount namespace in which names are given: one that outlives the daemon.
#[derive(Debug)]
pub struct Place(OwnedFd);

impl Place {
    /// That of the calling thread.
    ///
    /// # Errors
    /// procfs is not mounted.
    pub fn current() -> Result<Self> {
        let path = "/proc/thread-self/ns/mnt";
        Ok(Self(File::open(path).context("open", path)?.into()))
    }

    fn run<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            // SAFETY: root and working directory of this thread become its own; it ends with this.
            unsafe { unshare_unsafe(UnshareFlags::FS) }
                .context("leave", "file system of threads")?;
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Mount))
                .context("enter", "mount namespace")?;
            job()
        })
    }

    /// Names a namespace: it lives until the name is taken away, with or without processes. `ip netns` knows it
    /// by that name if the file lies in `/run/netns`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn pin(&self, namespace: &Namespace, path: &Path) -> Result<()> {
        self.run(|| {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).context("make", dir.display())?;
            }
            let target = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(libc::O_NOFOLLOW)
                .mode(0o000)
                .open(path)
                .context("make", path.display())?;
            mount::attach(mount::copy_tree(namespace)?, target)
        })
    }

    /// The namespace of that name, if there is one.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn find(&self, path: &Path) -> Result<Option<Namespace>> {
        self.run(|| Namespace::at(path))
    }

    /// Takes a name away; that there is none is fine.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn unpin(&self, path: &Path) -> Result<()> {
        self.run(|| {
            while Namespace::at(path)?.is_some() {
                mount::detach(path)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other.context("remove", path.display()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pinned_namespace_is_found_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns/x");
        let place = Place::current().unwrap();
        assert!(place.find(&path).unwrap().is_none());
        let namespace = Namespace::create().unwrap();
        place.pin(&namespace, &path).unwrap();
        let copy = namespace.try_clone().unwrap();
        drop(namespace);
        assert!(place.find(&path).unwrap().unwrap().is(&copy));
        place.unpin(&path).unwrap();
        assert!(place.find(&path).unwrap().is_none());
        place.unpin(&path).unwrap();
        assert!(!path.exists());
    }
}
