//! Pipes from the host into containers (runtime.md 6.1; section 9, number 28).
//!
//! A pipe is one file that both sides see: `<run>/fifos/<uuid>/<name>` on the host, `/dev/fifos/<name>` inside.
//! Nobody copies between them, so nothing is lost when the daemon dies. It goes one way, by its mode: the host's
//! root owns it, and the container's root reads it by its group. Without a user namespace these are the same,
//! and nothing but good manners keeps the container from writing.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use cml_bus::id::ContainerId;
use cml_sys::idmap::IdRange;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Where the pipes of all containers are.
#[derive(Debug, Clone)]
pub struct Fifos(PathBuf);

impl Fifos {
    /// Below this directory, which is made with the first pipe.
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Where those of a container are.
    pub fn dir(&self, id: ContainerId) -> PathBuf {
        self.0.join(id.to_string())
    }

    /// Makes a pipe, or takes over one that is there: a reboot of the guest does not cut its writers off.
    pub fn make(
        &self,
        id: ContainerId,
        name: &str,
        ids: Option<IdRange>,
    ) -> Result<OwnedFd, String> {
        let dir = self.dir(id);
        let path = dir.join(name);
        let failed = |error: &dyn ToString| format!("`{}`: {}", path.display(), error.to_string());
        cml_sys::file::make_dir(&dir, 0o755).map_err(|error| failed(&error.source))?;
        for dir in [&self.0, &dir] {
            // Whatever the umask: other services of the host write here.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
                .map_err(|error| failed(&error))?;
        }
        match mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed(&error)),
        }
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(&path, mode).map_err(|error| failed(&error))?;
        let reader = ids.map_or(0, |ids| ids.start);
        chown(&path, Some(0), Some(reader)).map_err(|error| failed(&error))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(&error))
    }
}

/// Removes the pipes of a container that has ended.
pub fn remove(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("`{}`: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    #[test]
    fn a_pipe_belongs_to_the_host_and_is_read_by_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::new(dir.path().join("fifos"));
        let id = ContainerId::random();
        let ids = IdRange::of_slot(1).unwrap();
        for _ in 0..2 {
            fifos.make(id, "log", Some(ids)).unwrap();
        }
        let found = fs::metadata(fifos.dir(id).join("log")).unwrap();
        assert!(found.file_type().is_fifo());
        assert_eq!((found.uid(), found.gid()), (0, ids.start));
        assert_eq!(found.mode() & 0o7777, 0o640);
        remove(&fifos.dir(id)).unwrap();
        remove(&fifos.dir(id)).unwrap();
        assert!(!fifos.dir(id).exists());
    }
}
