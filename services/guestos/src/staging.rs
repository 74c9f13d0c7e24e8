//! Changes of the store that a power cut leaves either undone or to be finished.
//!
//! A version is put together in `.install-<stem>`. When everything in it is on the disk the directory becomes
//! `.commit-<stem>`, which is the moment of installation: what is in it is moved to its places, now or when the
//! daemon starts again. A version that goes becomes `.remove-<stem>` in one step, too.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cml_bus::api::{guestos::GuestOsError, token::VerifySignature};
use cml_sys::{atomic, file};

const INSTALL: &str = ".install-";
const COMMIT: &str = ".commit-";
const REMOVE: &str = ".remove-";

/// Where the images lie in a directory that is being put together.
const IMAGES: &str = "images";

/// The files of a version beside its directory of images, and their names while it is put together.
const SUFFIXES: [&str; 3] = ["conf", "sig", "cert"];

/// A version that is being put together.
#[derive(Debug)]
pub struct Staging {
    store: PathBuf,
    stem: String,
}

fn failed(path: &Path, reason: impl ToString) -> GuestOsError {
    GuestOsError::Store {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

fn sys(error: cml_sys::Error) -> GuestOsError {
    GuestOsError::Store {
        reason: format!("{}: {}", error.action, error.source),
        path: error.subject,
    }
}

impl Staging {
    /// Begins: the configuration is there, images are not.
    pub fn begin(store: &Path, stem: &str, signed: &VerifySignature) -> Result<Self, GuestOsError> {
        let staging = Self {
            store: store.to_owned(),
            stem: stem.to_owned(),
        };
        if store.join(format!("{COMMIT}{stem}")).exists() {
            roll_forward(store, stem)?;
        }
        let dir = staging.dir();
        remove_tree(&dir)?;
        file::make_dir(&dir.join(IMAGES), 0o700).map_err(sys)?;
        let contents = [&signed.data, &signed.signature, &signed.certificate];
        for (name, bytes) in SUFFIXES.iter().zip(contents) {
            atomic::write(&dir.join(name), bytes, 0o600).map_err(sys)?;
        }
        Ok(staging)
    }

    fn dir(&self) -> PathBuf {
        self.store.join(format!("{INSTALL}{}", self.stem))
    }

    /// The place of an image that is fetched.
    pub fn image(&self, file: &str) -> PathBuf {
        self.dir().join(IMAGES).join(file)
    }

    /// Where an image goes, with room for this many bytes; more may be written.
    pub fn reserve(&self, file: &str, size: u64) -> Result<PathBuf, GuestOsError> {
        let path = self.image(file);
        match size {
            0 => fs::File::create_new(&path).map_err(|error| failed(&path, error))?,
            size => cml_sys::space::reserve(&path, size).map_err(sys)?,
        };
        Ok(path)
    }

    /// Installs it.
    pub fn commit(&self) -> Result<(), GuestOsError> {
        let dir = self.dir();
        atomic::sync_dir(&dir.join(IMAGES)).map_err(sys)?;
        atomic::sync_dir(&dir).map_err(sys)?;
        // The one step after the moment of installation that needs room.
        file::make_dir(&self.store.join(&self.stem), 0o755).map_err(sys)?;
        let complete = self.store.join(format!("{COMMIT}{}", self.stem));
        fs::rename(&dir, &complete).map_err(|error| failed(&complete, error))?;
        let moved = atomic::sync_dir(&self.store)
            .map_err(sys)
            .and_then(|()| roll_forward(&self.store, &self.stem));
        // What is said to have failed must not be installed by the next start.
        moved.inspect_err(|_| {
            let _ = remove_tree(&complete);
        })
    }

    /// Takes back what is there of it. That it cannot be is no matter: the next beginning tries again.
    pub fn abandon(&self) {
        if let Err(error) = remove_tree(&self.dir()) {
            tracing::warn!(guestos = self.stem, %error, "left-overs of an installation stay");
        }
    }
}

/// Moves a version that is complete to its places.
fn roll_forward(store: &Path, stem: &str) -> Result<(), GuestOsError> {
    let from = store.join(format!("{COMMIT}{stem}"));
    let images = store.join(stem);
    file::make_dir(&images, 0o755).map_err(sys)?;
    for entry in names(&from.join(IMAGES))? {
        relocate(&from.join(IMAGES).join(&entry), &images.join(&entry))?;
    }
    atomic::sync_dir(&images).map_err(sys)?;
    for suffix in SUFFIXES {
        relocate(&from.join(suffix), &store.join(format!("{stem}.{suffix}")))?;
    }
    atomic::sync_dir(store).map_err(sys)?;
    remove_tree(&from)
}

/// Moves a file; that it was moved already is fine.
fn relocate(from: &Path, to: &Path) -> Result<(), GuestOsError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| failed(to, error)),
    }
}

/// Deletes a version: from the first step on it is not installed any more.
pub fn remove(store: &Path, stem: &str) -> Result<(), GuestOsError> {
    let dir = store.join(format!("{REMOVE}{stem}"));
    remove_tree(&dir)?;
    remove_tree(&store.join(format!("{COMMIT}{stem}")))?;
    let images = store.join(stem);
    match fs::rename(&images, &dir) {
        // Without its images there is nothing but files that are in nobody's way.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(|error| failed(&images, error))?,
    }
    atomic::sync_dir(store).map_err(sys)?;
    finish_removal(store, stem)
}

fn finish_removal(store: &Path, stem: &str) -> Result<(), GuestOsError> {
    for suffix in SUFFIXES.iter().chain(&["p7s"]) {
        atomic::remove(&store.join(format!("{stem}.{suffix}"))).map_err(sys)?;
    }
    remove_tree(&store.join(format!("{REMOVE}{stem}")))?;
    atomic::sync_dir(store).map_err(sys)
}

/// Finishes what a previous daemon had begun, or takes it back.
pub fn recover(store: &Path) -> Result<(), GuestOsError> {
    for name in names(store)? {
        let finished = if let Some(stem) = name.strip_prefix(COMMIT) {
            tracing::info!(guestos = stem, "an interrupted installation is finished");
            roll_forward(store, stem)
        } else if let Some(stem) = name.strip_prefix(REMOVE) {
            tracing::info!(guestos = stem, "an interrupted removal is finished");
            finish_removal(store, stem)
        } else if name.starts_with(INSTALL) {
            remove_tree(&store.join(&name))
        } else {
            Ok(())
        };
        // One version's trouble is not the others'.
        if let Err(error) = finished {
            tracing::error!(name, %error, "the guest OS store could not be tidied up");
        }
    }
    Ok(())
}

/// Names in a directory, none if there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>, GuestOsError> {
    let list = || -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| failed(dir, error)),
    }
}

fn remove_tree(dir: &Path) -> Result<(), GuestOsError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| failed(dir, error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn signed() -> VerifySignature {
        VerifySignature {
            data: b"conf".into(),
            signature: b"sig".into(),
            certificate: b"cert".into(),
        }
    }

    fn listing(store: &Path) -> Vec<String> {
        let mut found = names(store).unwrap();
        found.sort();
        found
    }

    fn staged(store: &Path) -> Staging {
        let staging = Staging::begin(store, "os-1", &signed()).unwrap();
        let path = staging.reserve("root.img", 3).unwrap();
        fs::write(path, "new").unwrap();
        staging
    }

    const INSTALLED: [&str; 4] = ["os-1", "os-1.cert", "os-1.conf", "os-1.sig"];

    #[test]
    fn a_version_is_installed_or_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        staged(dir.path()).abandon();
        assert!(listing(dir.path()).is_empty());
        staged(dir.path()).commit().unwrap();
        assert_eq!(listing(dir.path()), INSTALLED);
        assert_eq!(fs::read(dir.path().join("os-1/root.img")).unwrap(), b"new");
    }

    #[test]
    fn what_a_power_cut_left_is_finished_or_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        drop(staged(dir.path()));
        recover(dir.path()).unwrap();
        assert!(listing(dir.path()).is_empty());
        // After the moment of installation, with one file moved already.
        let staging = staged(dir.path());
        let complete = dir.path().join(".commit-os-1");
        fs::rename(staging.dir(), &complete).unwrap();
        fs::rename(complete.join("sig"), dir.path().join("os-1.sig")).unwrap();
        recover(dir.path()).unwrap();
        assert_eq!(listing(dir.path()), INSTALLED);
        // In the middle of a removal.
        fs::rename(dir.path().join("os-1"), dir.path().join(".remove-os-1")).unwrap();
        fs::remove_file(dir.path().join("os-1.conf")).unwrap();
        recover(dir.path()).unwrap();
        assert!(listing(dir.path()).is_empty());
    }

    #[test]
    fn other_images_of_the_same_version_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("os-1")).unwrap();
        fs::write(dir.path().join("os-1/root.img"), "old").unwrap();
        fs::write(dir.path().join("os-1/other.img"), "old").unwrap();
        staged(dir.path()).commit().unwrap();
        let read = |name| fs::read(dir.path().join("os-1").join(name)).unwrap();
        assert_eq!(
            (read("root.img"), read("other.img")),
            (b"new".into(), b"old".into())
        );
    }

    #[test]
    fn a_removed_version_is_gone_completely() {
        let dir = tempfile::tempdir().unwrap();
        staged(dir.path()).commit().unwrap();
        fs::write(dir.path().join("os-1/setup.img"), "x").unwrap();
        fs::write(dir.path().join("os-10.conf"), "another one").unwrap();
        remove(dir.path(), "os-1").unwrap();
        assert_eq!(listing(dir.path()), ["os-10.conf"]);
        remove(dir.path(), "os-1").unwrap();
    }
}
