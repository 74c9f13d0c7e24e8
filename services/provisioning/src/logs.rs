//! The log files of the daemon, for clients that fetch them (protocol.md 3.4, 7.6).
//!
//! A symlink whose name ends in `.current` points at the file that is being written; it is sent as far as it goes,
//! and never deleted. Only regular files count, whoever wrote them.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cml_bus::api::provisioning::{LogItem, LogPart, ProvisioningError};
use cml_sys::{atomic, file};
use cml_wire::rules::is_component;
use tokio::sync::mpsc;

/// The most bytes in one part. The existing system sends 64 MiB at once; clients append whatever comes.
const PART: usize = 256 * 1024;

/// What marks the link to the file that is being written.
const CURRENT: &str = ".current";
/// The existing system's lock file.
const LOCK: &str = ".lock-delete-old";

fn store(path: &Path) -> impl FnOnce(io::Error) -> ProvisioningError + use<> {
    let path = path.display().to_string();
    move |error| ProvisioningError::Store {
        path,
        reason: error.to_string(),
    }
}

/// The names of all log files, oldest name first.
///
/// # Errors
/// The directory cannot be read.
pub fn names(dir: &Path) -> Result<BTreeSet<String>, ProvisioningError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(store(dir))? {
        let entry = entry.map_err(store(dir))?;
        let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if regular && !name.contains(CURRENT) && !name.contains(LOCK) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// How far clients have read each file. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Read(Arc<Mutex<HashMap<String, u64>>>);

impl Read {
    fn note(&self, name: &str, length: u64) {
        let mut read = self.lock();
        let known = read.entry(name.to_owned()).or_default();
        *known = length.max(*known);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the files into the channel until all are read or nobody listens. A file that cannot be read is left out.
pub fn send(dir: &Path, names: BTreeSet<String>, to: &mpsc::Sender<LogItem>, read: &Read) {
    // Files that are gone need not be remembered.
    read.lock().retain(|name, _| names.contains(name));
    for name in names {
        match send_one(&dir.join(&name), &name, to, read) {
            Ok(Sent::Whole) => {}
            Ok(Sent::NobodyListens) => return,
            Err(error) => tracing::warn!(%error, "a log file was not sent"),
        }
    }
}

enum Sent {
    Whole,
    NobodyListens,
}

/// What is in the file now: more may be written meanwhile, and must not keep us here for ever.
fn send_one(path: &Path, name: &str, to: &mpsc::Sender<LogItem>, read: &Read) -> io::Result<Sent> {
    let file = file::open(path).map_err(|error| error.source)?;
    let length = file.metadata()?.len();
    let mut left = length;
    let mut file = file.take(left);
    while left > 0 {
        let mut data = Vec::with_capacity(PART);
        let count = file.by_ref().take(PART as u64).read_to_end(&mut data)? as u64;
        left -= count;
        // Somebody has shortened it.
        let last = left == 0 || count == 0;
        let part = LogPart {
            name: name.to_owned(),
            data,
            last,
        };
        if to.blocking_send(LogItem::Part(part)).is_err() {
            return Ok(Sent::NobodyListens);
        }
        if last {
            break;
        }
    }
    // Before anybody hears that it is done, and may ask for its deletion.
    read.note(name, length);
    match to.blocking_send(LogItem::Done(name.to_owned())) {
        Ok(()) => Ok(Sent::Whole),
        Err(_) => Ok(Sent::NobodyListens),
    }
}

/// Deletes these files, but for those that are being written, or of which nobody has read the end: one may have
/// grown between its sending and its deletion.
///
/// # Errors
/// `NoSuchLog` for a name that is none of a log file; nothing is deleted then. `Store` when the kernel refuses.
pub fn remove(dir: &Path, wanted: &[String], read: &Read) -> Result<(), ProvisioningError> {
    let known = names(dir)?;
    // Asked afresh, as what was written a moment ago may have been ended since.
    let current = current(dir)?;
    let unknown = wanted
        .iter()
        .find(|name| !is_component(name) || !known.contains(*name));
    if let Some(name) = unknown {
        return Err(ProvisioningError::NoSuchLog(name.clone()));
    }
    let mut removed = 0;
    for name in wanted {
        if current.contains(OsStr::new(name)) {
            continue;
        }
        let path = dir.join(name);
        let length = fs::metadata(&path).map_err(store(&path))?.len();
        if read.lock().get(name).is_none_or(|read| *read < length) {
            tracing::warn!(name, "a log file stays: it has not been read to its end");
            continue;
        }
        atomic::remove(&path).map_err(|error| store(&path)(error.source))?;
        removed += 1;
    }
    tracing::info!(removed, "log files deleted for a client");
    Ok(())
}

/// Files that a link says are being written.
fn current(dir: &Path) -> Result<BTreeSet<std::ffi::OsString>, ProvisioningError> {
    let mut current = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(store(dir))? {
        let path: PathBuf = entry.map_err(store(dir))?.path();
        if path.extension() == Some(OsStr::new("current"))
            && let Ok(target) = fs::read_link(&path)
            && let Some(name) = target.file_name()
        {
            current.insert(name.to_owned());
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn fetch(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let (to, mut from) = mpsc::channel(1000);
        send(dir, names(dir).unwrap(), &to, &Read::default());
        drop(to);
        let mut files = Vec::new();
        let mut open: Option<(String, Vec<u8>)> = None;
        while let Ok(item) = from.try_recv() {
            match item {
                LogItem::Part(part) => {
                    assert!(part.data.len() <= PART && !part.data.is_empty());
                    let (name, data) = open.get_or_insert((part.name.clone(), Vec::new()));
                    assert_eq!(*name, part.name);
                    data.extend(part.data);
                    if part.last {
                        files.push(open.take().unwrap());
                    }
                }
                LogItem::Done(_) => assert!(open.is_none()),
            }
        }
        files
    }

    #[test]
    fn every_byte_of_every_regular_file_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let large: Vec<u8> = (0..PART * 2 + 7).map(|n| n as u8).collect();
        let exact = vec![0; PART];
        fs::write(at("b"), &large).unwrap();
        fs::write(at("a"), &exact).unwrap();
        fs::write(at("empty"), "").unwrap();
        fs::write(at(".lock-delete-old"), "x").unwrap();
        symlink("b", at("b.current")).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        assert_eq!(
            fetch(dir.path()),
            [("a".into(), exact), ("b".into(), large)]
        );
        assert!(names(dir.path()).unwrap().contains("empty"));
    }

    #[test]
    fn only_log_files_that_nobody_writes_are_deleted() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("logs");
        fs::create_dir(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        for name in ["old", "new", "../outside"] {
            fs::write(at(name), name).unwrap();
        }
        symlink("new", at("cml.current")).unwrap();
        for bad in ["../outside", "absent", "cml.current", ""] {
            let error = remove(&dir, &["old".into(), bad.into()], &Read::default()).unwrap_err();
            assert_eq!(error, ProvisioningError::NoSuchLog(bad.into()));
            assert!(at("old").exists());
        }
        // Nobody has read it, or not to its end.
        let read = Read::default();
        remove(&dir, &["old".into()], &read).unwrap();
        let (to, _from) = mpsc::channel(10);
        send(&dir, names(&dir).unwrap(), &to, &read);
        fs::write(dir.join("old"), "it has grown since").unwrap();
        remove(&dir, &["old".into()], &read).unwrap();
        assert!(dir.join("old").exists());
        send(&dir, names(&dir).unwrap(), &to, &read);
        remove(&dir, &["old".into(), "new".into()], &read).unwrap();
        assert!(!at("old").exists() && at("new").exists());
        assert!(at("../outside").exists());
    }
}
