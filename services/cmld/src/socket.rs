//! The control socket on disk, and the lock that keeps a second daemon away from it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use cml_sys::file;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// Members may use the control socket, if the machine has such a group.
const GROUP: &str = "cml-control";
/// The socket in the run directory (protocol.md 1.1).
const NAME: &str = "cml-control";

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another daemon uses it.
    #[error(
        "another cmld is running with `{path}`{by}; stop it, or give this one directories of its own \
         (--base and --run)"
    )]
    Taken {
        /// Of the run directory or of the base.
        path: String,
        /// Its process, if it has written that down.
        by: String,
    },
    /// Somebody else could put things into it.
    #[error("`{0}` must belong to root and be closed to everybody else; remove it")]
    Open(String),
    /// The kernel refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RunError + use<'a> {
    move |source| RunError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

/// The run directory of this daemon, locked for as long as this lives.
#[derive(Debug)]
pub struct RunDir {
    sockets: PathBuf,
    private: PathBuf,
    _locks: [File; 2],
}

impl RunDir {
    /// Takes the run directory, and the base that the containers of it belong to: their groups, ids and tokens
    /// can have one master only.
    ///
    /// # Errors
    /// One of them belongs to another daemon, or cannot be made.
    pub fn take(sockets: &Path, base: &Path) -> Result<Self, RunError> {
        let private = sockets.join("cmld");
        if !sockets.exists() {
            make(sockets, 0o755)?;
            // Whatever the umask: clients of the group must get to the socket.
            fs::set_permissions(sockets, fs::Permissions::from_mode(0o755))
                .map_err(io("set the mode of", sockets))?;
        }
        make(&private, 0o700)?;
        let found = fs::symlink_metadata(&private).map_err(io("inspect", &private))?;
        if !found.is_dir() || found.uid() != 0 || found.mode() & 0o077 != 0 {
            return Err(RunError::Open(private.display().to_string()));
        }
        let locks = [
            lock(&private.join("lock"), sockets)?,
            lock(&base.join(".lock"), base)?,
        ];
        Ok(Self {
            sockets: sockets.to_owned(),
            private,
            _locks: locks,
        })
    }

    /// A directory that only the daemon enters.
    pub fn private(&self) -> &Path {
        &self.private
    }

    /// Where services of the host find pipes into containers (runtime.md 6.1).
    pub fn fifos(&self) -> PathBuf {
        self.sockets.join("fifos")
    }

    /// An empty directory for mounts. Those of a dead daemon went with its mount namespace; what is left
    /// are their empty mount points.
    ///
    /// # Errors
    /// It cannot be emptied or made.
    pub fn mounts(&self) -> Result<PathBuf, RunError> {
        let path = self.private.join("mounts");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("empty", &path)(error));
            }
            _ => {}
        }
        make(&path, 0o700)?;
        Ok(path)
    }

    /// Binds the control socket: for root, and for the group `cml-control` if there is one.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listen(&self) -> Result<UnixListener, RunError> {
        let path = self.sockets.join(NAME);
        // Bound under another name first: whoever finds the socket finds it with its final rights.
        let fresh = self.sockets.join(format!(".{NAME}"));
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(io("bind", &fresh))?;
        let group = fs::read_to_string("/etc/group")
            .ok()
            .and_then(|groups| group_id(&groups));
        chown(&fresh, Some(0), Some(group.unwrap_or(0))).map_err(io("chown", &fresh))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660))
            .map_err(io("set the mode of", &fresh))?;
        fs::rename(&fresh, &path).map_err(io("bind", &path))?;
        Ok(listener)
    }

    /// Takes the socket away: clients shall learn at once that nobody is there.
    pub fn close(&self) {
        let _ = fs::remove_file(self.sockets.join(NAME));
    }
}

fn lock(path: &Path, what: &Path) -> Result<File, RunError> {
    // Not emptied: it may be another daemon's.
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(path).map_err(io("create", path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let pid = std::process::id().to_string();
            let written = lock
                .set_len(0)
                .and_then(|()| lock.write_all(pid.as_bytes()));
            if let Err(error) = written {
                // Of use to people alone; a full disk must not keep the daemon from starting.
                eprintln!("cmld: `{}`: {error}", path.display());
            }
            Ok(lock)
        }
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = lock.read_to_string(&mut pid);
            let pid = pid.parse().ok().filter(|_| read.is_ok());
            Err(RunError::Taken {
                path: what.display().to_string(),
                by: match pid.filter(|pid| has_open(*pid, &lock)) {
                    Some(pid) => format!(" (process {pid})"),
                    None => String::new(),
                },
            })
        }
        Err(error) => Err(io("lock", path)(error.into())),
    }
}

/// Whether this process has the file open. What stands in it may be the number of a daemon long dead, as the one that has
/// the lock writes its own a moment later.
fn has_open(pid: u32, file: &File) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let Ok(ours) = file.metadata().map(identity) else {
        return false;
    };
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut found = files
        .flatten()
        .filter_map(|one| fs::metadata(one.path()).ok());
    found.any(|found| identity(found) == ours)
}

fn make(path: &Path, mode: u32) -> Result<(), RunError> {
    file::make_dir(path, mode).map_err(|error| io("make", path)(error.source))
}

/// The number of our group in the text of group(5).
fn group_id(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?;
        (name == GROUP).then(|| number.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_group_is_found_by_its_exact_name() {
        let groups = "root:x:0:\ncml-control-x:x:7:\ncml-control:x:123:alice\n";
        assert_eq!(group_id(groups), Some(123));
        assert_eq!(group_id("root:x:0:\n"), None);
    }

    #[test]
    fn only_the_daemon_that_is_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _held = lock(&path, &path).unwrap();
        // Between the lock and the number: what the daemon before has left, or nothing.
        for stale in ["1", "4194305", ""] {
            fs::write(&path, stale).unwrap();
            let refused = lock(&path, &path).unwrap_err().to_string();
            assert!(!refused.contains("(process"), "{refused}");
        }
    }

    #[test]
    fn one_run_directory_and_one_base_serve_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let (run, base) = (dir.path().join("run"), dir.path().join("base"));
        let (other_run, other_base) = (dir.path().join("run2"), dir.path().join("base2"));
        fs::create_dir(&base).unwrap();
        fs::create_dir(&other_base).unwrap();
        let first = RunDir::take(&run, &base).unwrap();
        for (run, base) in [(&run, &other_base), (&other_run, &base)] {
            let refused = RunDir::take(run, base).unwrap_err().to_string();
            let first = format!("(process {})", std::process::id());
            assert!(refused.contains(&first), "{refused}");
        }
        drop(first);
        let second = RunDir::take(&run, &base).unwrap();
        let _listener = second.listen().unwrap();
        let mode = fs::metadata(run.join(NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o660);
        second.close();
        assert!(!run.join(NAME).exists());
        drop(second);
        fs::set_permissions(run.join("cmld"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(RunDir::take(&run, &base), Err(RunError::Open(_))));
    }
}
