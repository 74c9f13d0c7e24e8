//! Configurations on disk, in the existing layout (runtime.md 7): `<uuid>.conf`, `.sig`, `.cert`, `.created`.
//!
//! The `.conf` is written last and removed first: it alone makes a container exist. A removal renames it to
//! `.conf.gone`, which is deleted last, so that one that was interrupted is finished by the next daemon. So is
//! a wipe, which leaves the mark `.wiping` until it is over.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use cml_bus::{
    api::container::{ContainerError, Signature},
    id::ContainerId,
};
use cml_sys::{atomic, file};

use crate::env::private_dir;

/// The directory of configurations.
#[derive(Debug, Clone)]
pub struct Store {
    containers: PathBuf,
}

/// A configuration as it lies on disk.
#[derive(Debug)]
pub struct Stored {
    /// The exact bytes.
    pub config: Vec<u8>,
    /// The signature beside it, if there is one.
    pub signature: Option<Signature>,
    /// When the container was created, in seconds of Unix time.
    pub created: u64,
}

/// Suffixes of everything that belongs to a container beside its `.conf`. The unfinished replacement goes
/// first, as it would bring the `.conf` back.
const SUFFIXES: &[&str] = &[
    "conf.next",
    "sig.next",
    "cert.next",
    "wiping.next",
    "sig",
    "cert",
    "uid",
    "created",
    AUDIO,
    WIPING,
];
/// Suffix of the configuration of a container that is being removed.
const GONE: &str = "conf.gone";
/// Suffix of the mark that a container is being wiped: its key may be gone already, which is no damage then.
const WIPING: &str = "wiping";
/// Suffix of the mark that a container may use the sound devices. Not a field of the configuration, which may
/// be signed.
const AUDIO: &str = "audio";

impl Store {
    /// The store below a base directory; makes it if it is missing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(base: &Path) -> Result<Self, ContainerError> {
        let store = Self {
            containers: base.join("containers"),
        };
        private_dir(&store.containers)?;
        store.remove_orphans()?;
        Ok(store)
    }

    /// Deletes what a creation has left that was cut off before its `.conf`. core0 may do without one.
    fn remove_orphans(&self) -> Result<(), ContainerError> {
        for suffix in SUFFIXES {
            for id in self.with_suffix(suffix)? {
                let exists = ["conf", "conf.next", GONE].map(|one| self.file(id, one).exists());
                if !id.is_core0() && exists == [false; 3] {
                    let path = self.file(id, suffix);
                    atomic::remove(&path).map_err(|error| failed(&path, error))?;
                }
            }
        }
        Ok(())
    }

    /// Containers whose removal was interrupted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn half_removed(&self) -> Result<Vec<ContainerId>, ContainerError> {
        self.with_suffix(GONE)
    }

    /// Whether a wipe of the container has begun and not ended.
    pub fn is_wiping(&self, id: ContainerId) -> bool {
        self.file(id, WIPING).exists()
    }

    /// A wipe begins.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn begin_wipe(&self, id: ContainerId) -> Result<(), ContainerError> {
        let path = self.file(id, WIPING);
        atomic::write(&path, b"", 0o600).map_err(|error| failed(&path, error))
    }

    /// Everything is wiped.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn end_wipe(&self, id: ContainerId) -> Result<(), ContainerError> {
        let path = self.file(id, WIPING);
        atomic::remove(&path).map_err(|error| failed(&path, error))
    }

    /// Whether the container may use the sound devices.
    pub fn audio(&self, id: ContainerId) -> bool {
        self.file(id, AUDIO).exists()
    }

    /// Remembers whether the container may use the sound devices.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn set_audio(&self, id: ContainerId, allowed: bool) -> Result<(), ContainerError> {
        let path = self.file(id, AUDIO);
        match allowed {
            true => atomic::write(&path, b"", 0o600),
            false => atomic::remove(&path),
        }
        .map_err(|error| failed(&path, error))
    }

    fn with_suffix(&self, suffix: &str) -> Result<Vec<ContainerId>, ContainerError> {
        let dir = &self.containers;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
            let name = entry.map_err(|error| failed(dir, error))?.file_name();
            found.extend(id_of(&name, suffix));
        }
        Ok(found)
    }

    fn file(&self, id: ContainerId, suffix: &str) -> PathBuf {
        self.containers.join(format!("{id}.{suffix}"))
    }

    /// All containers, the oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<ContainerId>, ContainerError> {
        let mut found = self.with_suffix("conf")?;
        found.sort_by_cached_key(|id| (self.created(*id), self.written(*id), *id));
        Ok(found)
    }

    /// Whether the container has a configuration, whatever that is worth.
    pub fn has(&self, id: ContainerId) -> bool {
        self.file(id, "conf").exists()
    }

    /// Reads one configuration.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, id: ContainerId) -> Result<Stored, ContainerError> {
        self.finish(id)?;
        let path = self.file(id, "conf");
        let config = file::read(&path).map_err(|error| failed(&path, error.source))?;
        let part = |suffix| file::read(&self.file(id, suffix)).ok();
        let signature = part("sig")
            .zip(part("cert"))
            .map(|(signature, certificate)| Signature {
                signature,
                certificate,
            });
        Ok(Stored {
            config,
            signature,
            created: self.created(id),
        })
    }

    /// Replaces a configuration, with or without a signature. `wipes`: a wipe of the container begins with it. The new files lie complete beside the old ones
    /// before the first of these is replaced, and `.conf.next` says so: whatever interrupts this, the next
    /// look at the container finds the old set or the new one.
    ///
    /// # Errors
    /// It cannot be written; the old configuration stays.
    pub fn replace(
        &self,
        id: ContainerId,
        config: &[u8],
        signature: Option<&Signature>,
        wipes: bool,
    ) -> Result<(), ContainerError> {
        let parts = [
            (WIPING, wipes.then_some(&b""[..])),
            ("sig", signature.map(|signature| &signature.signature[..])),
            (
                "cert",
                signature.map(|signature| &signature.certificate[..]),
            ),
            ("conf", Some(config)),
        ];
        for (suffix, bytes) in parts {
            let next = self.file(id, &format!("{suffix}.next"));
            match bytes {
                Some(bytes) => atomic::write(&next, bytes, 0o600),
                None => atomic::remove(&next),
            }
            .map_err(|error| failed(&next, error))?;
        }
        self.finish(id)
    }

    /// Completes a replacement that has begun.
    fn finish(&self, id: ContainerId) -> Result<(), ContainerError> {
        let next = |suffix: &str| self.file(id, &format!("{suffix}.next"));
        if !next("conf").exists() {
            return Ok(());
        }
        for suffix in [WIPING, "sig", "cert", "conf"] {
            let (from, to) = (next(suffix), self.file(id, suffix));
            match fs::rename(&from, &to) {
                // Replaced already, or an unsigned configuration.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|error| failed(&to, error))?,
            }
        }
        self.sync()
    }

    /// Stores a new container.
    ///
    /// # Errors
    /// It cannot be written; nothing of it is left then.
    pub fn add(
        &self,
        id: ContainerId,
        config: &[u8],
        signature: Option<&Signature>,
    ) -> Result<u64, ContainerError> {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut files: Vec<(&str, &[u8])> = Vec::new();
        // The native time_t of the existing system (runtime.md 2.9).
        let stamp = created.to_ne_bytes();
        files.push(("created", &stamp));
        if let Some(signature) = signature {
            files.push(("sig", &signature.signature));
            files.push(("cert", &signature.certificate));
        }
        files.push(("conf", config));
        for (suffix, bytes) in files {
            let path = self.file(id, suffix);
            if let Err(error) = atomic::write(&path, bytes, 0o600) {
                let _ = self.remove(id);
                return Err(failed(&path, error));
            }
        }
        Ok(created)
    }

    /// When the creation time was written down: it counts whole seconds, this tells those of one second apart.
    fn written(&self, id: ContainerId) -> Option<SystemTime> {
        fs::metadata(self.file(id, "created")).ok()?.modified().ok()
    }

    /// When a container was created, in seconds of Unix time.
    pub fn created(&self, id: ContainerId) -> u64 {
        let stored = file::read(&self.file(id, "created")).ok();
        if let Some(bytes) = stored.and_then(|bytes| bytes.try_into().ok()) {
            return u64::from_ne_bytes(bytes);
        }
        // Written on first load by the existing system; the age of the file says the same.
        fs::metadata(self.file(id, "conf"))
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_secs())
    }

    /// The slot of ids that the container had last (runtime.md 2.4: a native int).
    pub fn id_slot(&self, id: ContainerId) -> Option<u32> {
        let bytes = file::read(&self.file(id, "uid")).ok()?;
        u32::try_from(i32::from_ne_bytes(bytes.try_into().ok()?)).ok()
    }

    /// The slots of ids that any container had last. One that cannot be read is nobody's.
    pub fn id_slots(&self) -> BTreeSet<u32> {
        let all = self.with_suffix("uid").unwrap_or_default();
        all.into_iter().filter_map(|id| self.id_slot(id)).collect()
    }

    /// Remembers the slot of ids.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_id_slot(&self, id: ContainerId, slot: u32) -> Result<(), ContainerError> {
        let path = self.file(id, "uid");
        let slot = i32::try_from(slot).unwrap_or(i32::MAX);
        atomic::write(&path, &slot.to_ne_bytes(), 0o600).map_err(|error| failed(&path, error))
    }

    /// From now on there is no such container; [`Store::remove`] deletes what is left of it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn begin_removal(&self, id: ContainerId) -> Result<(), ContainerError> {
        let config = self.file(id, "conf");
        match fs::rename(&config, self.file(id, GONE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other
                .map_err(|error| failed(&config, error))
                .and_then(|()| self.sync()),
        }
    }

    fn sync(&self) -> Result<(), ContainerError> {
        atomic::sync_dir(&self.containers).map_err(|error| failed(&self.containers, error))
    }

    /// Deletes everything that belongs to a container.
    ///
    /// # Errors
    /// Something cannot be deleted; calling again goes on where this stopped.
    pub fn remove(&self, id: ContainerId) -> Result<(), ContainerError> {
        self.begin_removal(id)?;
        let gone = self.file(id, GONE);
        for suffix in SUFFIXES {
            let path = self.file(id, suffix);
            atomic::remove(&path).map_err(|error| failed(&path, error))?;
        }
        let images = self.containers.join(id.to_string());
        match fs::remove_dir_all(&images) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| failed(&images, error))?,
        }
        atomic::remove(&gone).map_err(|error| failed(&gone, error))?;
        self.sync()
    }
}

/// The container that a file `<uuid>.<suffix>` belongs to.
pub(crate) fn id_of(name: &OsStr, suffix: &str) -> Option<ContainerId> {
    let stem = name.to_str()?.strip_suffix(suffix)?.strip_suffix('.')?;
    stem.parse().ok()
}

fn failed(path: &Path, error: impl ToString) -> ContainerError {
    ContainerError::Store {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_added_is_read_back_and_removed_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = ContainerId::random();
        let signature = Signature {
            signature: vec![1],
            certificate: vec![2],
        };
        store.add(id, b"name: \"x\"", Some(&signature)).unwrap();
        store.set_id_slot(id, 7).unwrap();
        assert_eq!(store.list().unwrap(), [id]);
        let stored = store.read(id).unwrap();
        assert_eq!(stored.config, b"name: \"x\"");
        assert_eq!(stored.signature.unwrap().certificate, [2]);
        assert!(stored.created > 1_700_000_000);
        assert_eq!(store.id_slot(id), Some(7));
        assert_eq!(store.id_slots(), [7].into());
        fs::create_dir(dir.path().join(format!("containers/{id}"))).unwrap();
        store.remove(id).unwrap();
        assert_eq!(
            fs::read_dir(dir.path().join("containers")).unwrap().count(),
            0
        );
        store.remove(id).unwrap();
    }

    #[test]
    fn a_replacement_that_was_interrupted_is_finished_or_never_happened() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = ContainerId::random();
        let signed = |byte| Signature {
            signature: vec![byte],
            certificate: vec![byte],
        };
        store.add(id, b"old", Some(&signed(1))).unwrap();
        // Interrupted before the set was complete.
        fs::write(store.file(id, "sig.next"), [2]).unwrap();
        let stored = store.read(id).unwrap();
        assert_eq!(stored.config, b"old");
        assert_eq!(stored.signature.unwrap().signature, [1]);
        // Interrupted after the first file of a complete set was put in its place.
        fs::write(store.file(id, "sig"), [3]).unwrap();
        fs::write(store.file(id, "cert.next"), [3]).unwrap();
        fs::write(store.file(id, "conf.next"), "new").unwrap();
        fs::remove_file(store.file(id, "sig.next")).unwrap();
        let stored = store.read(id).unwrap();
        assert_eq!(stored.config, b"new");
        let signature = stored.signature.unwrap();
        assert_eq!(
            (signature.signature, signature.certificate),
            (vec![3], vec![3])
        );
        store
            .replace(id, b"newest", Some(&signed(4)), false)
            .unwrap();
        assert_eq!(store.read(id).unwrap().config, b"newest");
        assert_eq!(store.list().unwrap(), [id]);
        store.remove(id).unwrap();
        let left = fs::read_dir(dir.path().join("containers")).unwrap();
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_removal_that_was_interrupted_is_found_and_can_be_finished() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (gone, kept) = (ContainerId::random(), ContainerId::random());
        for id in [gone, kept] {
            store.add(id, b"x", None).unwrap();
            fs::create_dir(store.containers.join(id.to_string())).unwrap();
        }
        fs::rename(store.file(gone, "conf"), store.file(gone, GONE)).unwrap();
        assert_eq!(store.list().unwrap(), [kept]);
        assert_eq!(store.half_removed().unwrap(), [gone]);
        store.remove(gone).unwrap();
        for entry in fs::read_dir(&store.containers).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.starts_with(&kept.to_string()), "{name}");
        }
        assert!(store.containers.join(kept.to_string()).exists());
    }

    #[test]
    fn a_failed_add_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = ContainerId::random();
        // The name that the last file is renamed to is taken by a directory.
        fs::create_dir(store.file(id, "conf")).unwrap();
        assert!(store.add(id, b"x", None).is_err());
        fs::remove_dir(store.file(id, GONE)).unwrap();
        store.remove(id).unwrap();
        assert_eq!(
            fs::read_dir(dir.path().join("containers")).unwrap().count(),
            0
        );
    }

    #[test]
    fn a_creation_that_was_cut_off_leaves_nothing_for_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (cut, whole) = (ContainerId::random(), ContainerId::random());
        store.add(whole, b"x", None).unwrap();
        for suffix in ["created", "sig"] {
            fs::write(store.file(cut, suffix), "").unwrap();
            fs::write(store.file(ContainerId::CORE0, suffix), "").unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.list().unwrap(), [whole]);
        assert!(!store.file(cut, "created").exists() && !store.file(cut, "sig").exists());
        assert!(store.file(whole, "created").exists());
        assert!(store.file(ContainerId::CORE0, "created").exists());
    }

    #[test]
    fn a_configuration_for_another_token_comes_with_its_wipe_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = ContainerId::random();
        store.add(id, b"old", None).unwrap();
        store.replace(id, b"same token", None, false).unwrap();
        assert!(!store.is_wiping(id));
        // Cut off after the set was complete.
        fs::write(store.file(id, "wiping.next"), "").unwrap();
        fs::write(store.file(id, "conf.next"), "another token").unwrap();
        assert_eq!(store.read(id).unwrap().config, b"another token");
        assert!(store.is_wiping(id));
    }

    #[test]
    fn stray_files_and_damaged_markers_are_no_containers() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join("containers/notes.conf"), "").unwrap();
        assert!(store.list().unwrap().is_empty());
        let id = ContainerId::random();
        fs::write(store.file(id, "uid"), "nonsense").unwrap();
        assert_eq!(store.id_slot(id), None);
        fs::write(store.file(id, "uid"), (-1_i32).to_ne_bytes()).unwrap();
        assert_eq!(store.id_slot(id), None);
    }
}
