//! FLASH images: written to a partition or a file outside the store, with a backup of what was there
//! (protocol.md 6.8).
//!
//! A journal is on the disk before the first byte of a target changes, and goes when the version is installed:
//! whatever interrupts the rest is undone, now or when the daemon starts again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cml_bus::api::guestos::GuestOsError;
use cml_sys::{atomic, file};
use cml_wire::proto::{GuestOsConfig, guest_os_mount::Type};
use rustix::fs::{Advice, OFlags, fadvise};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::digest::Promise;

/// Hidden, so that no image can have this name.
const JOURNAL: &str = ".flashing";
/// Bytes that are compared or copied at once.
const BLOCK: usize = 256 << 10;

/// Where FLASH images may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Anywhere: the device is there for its guest OSes.
    Anywhere,
    /// Only to these files and devices, or below these directories.
    Within(Vec<PathBuf>),
}

/// An image that belongs somewhere else.
#[derive(Debug, Clone)]
pub struct Flash {
    /// The file of the image.
    pub image: PathBuf,
    /// What it must be.
    pub promise: Promise,
    /// Where it belongs.
    pub target: PathBuf,
}

/// What is being changed, as the journal has it.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    target: PathBuf,
    /// The name of the image in the directory of the version.
    image: String,
    /// The name of the backup in the directory of the journal; without one there was nothing.
    backup: Option<String>,
}

/// What a version changes outside the store.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    /// The SHA-256 of the configuration that is being installed.
    config: String,
    changes: Vec<Change>,
}

/// Writes FLASH images, and takes them back.
#[derive(Debug, Clone)]
pub struct Flasher {
    /// `os_update_bak`
    pub backups: PathBuf,
    /// Where it may write.
    pub targets: Targets,
}

fn failed(target: &Path, reason: impl ToString) -> GuestOsError {
    GuestOsError::Flash {
        target: target.display().to_string(),
        reason: reason.to_string(),
    }
}

fn sys(error: cml_sys::Error) -> GuestOsError {
    GuestOsError::Store {
        reason: format!("{}: {}", error.action, error.source),
        path: error.subject,
    }
}

impl Flasher {
    /// Whether a version may be flashed, before anything of it is fetched.
    pub fn permit(&self, config: &GuestOsConfig) -> Result<(), GuestOsError> {
        let all = config.mounts.iter().chain(&config.mounts_setup);
        for mount in all.filter(|mount| mount.mount_type() == Type::Flash) {
            self.permit_target(Path::new(&mount.mount_point))?;
        }
        Ok(())
    }

    fn permit_target(&self, target: &Path) -> Result<(), GuestOsError> {
        let real = real(target).map_err(|error| failed(target, error))?;
        let within = |path: &PathBuf| {
            path.canonicalize()
                .is_ok_and(|permitted| real.starts_with(permitted))
        };
        match &self.targets {
            Targets::Anywhere => Ok(()),
            Targets::Within(paths) if paths.iter().any(within) => Ok(()),
            Targets::Within(_) => Err(failed(
                target,
                "guest OSes may not write there; name it, or a directory above it, as `flash_targets` in device.conf",
            )),
        }
    }

    fn dir(&self, stem: &str) -> PathBuf {
        self.backups.join(stem)
    }

    /// Writes what is not there yet. On failure everything is as it was.
    /// `config`: the bytes of the configuration that is being installed.
    pub fn write(&self, stem: &str, config: &[u8], flashes: &[Flash]) -> Result<(), GuestOsError> {
        // The backup of an interrupted flashing is the only one: it goes back before there is another.
        self.take_back(stem)?;
        let mut due = Vec::new();
        for flash in flashes {
            self.permit_target(&flash.target)?;
            let there = is_flashed(&flash.image, &flash.target);
            if !there.map_err(|error| failed(&flash.target, error))? {
                due.push(flash);
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let dir = self.dir(stem);
        remove_dir(&dir)?;
        file::make_dir(&dir, 0o700).map_err(sys)?;
        let written = write_due(&dir, config, &due);
        if let Err(error) = written {
            return match self.take_back(stem) {
                Ok(()) => Err(error),
                Err(also) => Err(failed(
                    &dir,
                    format!(
                        "{error}; and what was there is not back: {also}; its backup is in that directory"
                    ),
                )),
            };
        }
        Ok(())
    }

    /// The version is installed: there is nothing to be undone any more. The backup stays.
    pub fn done(&self, stem: &str) -> Result<(), GuestOsError> {
        atomic::remove(&self.dir(stem).join(JOURNAL)).map_err(sys)
    }

    /// Puts back what was there before [`Flasher::write`], unless that is over and done.
    pub fn take_back(&self, stem: &str) -> Result<(), GuestOsError> {
        let dir = self.dir(stem);
        let Some(journal) = self.journal(stem)? else {
            return Ok(());
        };
        for change in &journal.changes {
            restore(change, &dir).map_err(|error| failed(&change.target, error))?;
        }
        remove_dir(&dir)
    }

    /// Deletes the backups of a version that is gone.
    pub fn forget(&self, stem: &str) -> Result<(), GuestOsError> {
        match self.journal(stem)? {
            None => remove_dir(&self.dir(stem)),
            Some(_) => Ok(()),
        }
    }

    fn journal(&self, stem: &str) -> Result<Option<Journal>, GuestOsError> {
        let path = self.dir(stem).join(JOURNAL);
        match file::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| failed(&path, error)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(sys(error)),
        }
    }

    /// What a previous daemon has left undone is taken back, unless the version in this store is the one that was
    /// flashed, and all of it is in its place.
    pub fn recover(&self, store: &Path) {
        let entries = fs::read_dir(&self.backups).into_iter().flatten().flatten();
        for stem in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let settled = match self.journal(&stem) {
                Ok(None) => continue,
                Ok(Some(journal)) if is_complete(&journal, store, &stem) => self.done(&stem),
                Ok(Some(_)) => {
                    tracing::warn!(guestos = stem, "an interrupted flashing is taken back");
                    self.take_back(&stem)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::error!(guestos = stem, %error, "flashing was not taken back");
            }
        }
    }
}

/// Whether an interrupted flashing had come to its end.
fn is_complete(journal: &Journal, store: &Path, stem: &str) -> bool {
    let config = file::read(&store.join(format!("{stem}.conf")));
    let in_place = |change: &Change| {
        let image = store.join(stem).join(&change.image);
        is_flashed(&image, &change.target).unwrap_or_default()
    };
    config.is_ok_and(|config| digest(&config) == journal.config)
        && journal.changes.iter().all(in_place)
}

fn digest(config: &[u8]) -> String {
    hex::encode(Sha256::digest(config))
}

fn write_due(dir: &Path, config: &[u8], due: &[&Flash]) -> Result<(), GuestOsError> {
    let mut changes = Vec::new();
    for (index, flash) in due.iter().enumerate() {
        let image = flash.image.file_name().unwrap_or_default();
        let name = flash.image.file_stem().unwrap_or_default();
        // Two images of one name may go to two places.
        let name = format!("{index}-{}", name.to_string_lossy());
        let kept = back_up(flash, &dir.join(&name));
        let kept = kept.map_err(|error| failed(&flash.target, format!("backup: {error}")))?;
        changes.push(Change {
            target: flash.target.clone(),
            image: image.to_string_lossy().into_owned(),
            backup: kept.then_some(name),
        });
    }
    let journal = serde_json::to_vec(&Journal {
        config: digest(config),
        changes,
    })
    .map_err(|error| failed(dir, error))?;
    atomic::write(&dir.join(JOURNAL), &journal, 0o600).map_err(sys)?;
    for flash in due {
        tracing::info!(target = %flash.target.display(), "flashing");
        flash_one(flash).map_err(|reason| failed(&flash.target, reason))?;
    }
    Ok(())
}

/// The target without symbolic links; of one that does not exist the directory must.
fn real(target: &Path) -> io::Result<PathBuf> {
    match target.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = target.parent().unwrap_or(Path::new("/")).canonicalize()?;
            Ok(dir.join(target.file_name().unwrap_or_default()))
        }
        other => other,
    }
}

/// What an image is written to.
enum Target {
    /// Block by block in its place; the rest of it stays.
    Device(File, PathBuf),
    /// As a whole.
    File(PathBuf),
    Missing(PathBuf),
}

/// What is to be done with a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    /// Of a device alone: one that is mounted is in use by the file system on it.
    Write,
}

impl Target {
    fn of(target: &Path, access: Access) -> io::Result<Self> {
        let path = real(target)?;
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::Missing(path));
            }
            other => other?,
        };
        if found.is_file() {
            return Ok(Self::File(path));
        }
        if !found.file_type().is_block_device() {
            return Err(io::Error::other("it is neither a block device nor a file"));
        }
        let writes = access == Access::Write;
        let alone = match writes {
            true => OFlags::EXCL,
            false => OFlags::empty(),
        };
        let flags = alone | OFlags::NONBLOCK;
        let device = OpenOptions::new()
            .read(true)
            .write(writes)
            .custom_flags(flags.bits().cast_signed())
            .open(&path);
        Ok(Self::Device(device?, path))
    }
}

/// Whether exactly the image is there.
fn is_flashed(image: &Path, target: &Path) -> io::Result<bool> {
    let image = File::open(image)?;
    let length = image.metadata()?.len();
    match Target::of(target, Access::Read)? {
        Target::Missing(_) => Ok(false),
        Target::File(path) => {
            let there = File::open(path)?;
            Ok(there.metadata()?.len() == length && equal(image, there, length)?)
        }
        Target::Device(device, path) => {
            let room = (&device).seek(SeekFrom::End(0))?;
            (&device).rewind()?;
            if room < length {
                let path = path.display();
                let reason = format!("`{path}` has {room} bytes, and the image {length}");
                return Err(io::Error::other(reason));
            }
            equal(image, device, length)
        }
    }
}

fn equal(one: impl Read, other: impl Read, length: u64) -> io::Result<bool> {
    let (mut one, mut other) = (one.take(length), other.take(length));
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let count = fill(&mut one, &mut left)?;
        if fill(&mut other, &mut right)? != count || left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or nothing is left.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match from.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Keeps what the image will cover; false: there is nothing.
fn back_up(flash: &Flash, backup: &Path) -> io::Result<bool> {
    let length = fs::metadata(&flash.image)?.len();
    let (mut from, mode): (Box<dyn Read>, u32) = match Target::of(&flash.target, Access::Write)? {
        Target::Missing(_) => return Ok(false),
        Target::File(path) => {
            let file = File::open(path)?;
            let mode = file.metadata()?.mode();
            (Box::new(file), mode)
        }
        Target::Device(device, _) => (Box::new(device.take(length)), 0o600),
    };
    let mut copy = File::create_new(backup)?;
    io::copy(&mut from, &mut copy)?;
    copy.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    copy.sync_all()?;
    Ok(true)
}

/// Writes the image; what was written is what was hashed.
fn flash_one(flash: &Flash) -> Result<(), String> {
    let image = file::open(&flash.image).map_err(|error| error.to_string())?;
    let mut hasher = flash.promise.hasher();
    put(&flash.target, image, 0o644, |piece| hasher.update(piece))
        .map_err(|error| error.to_string())?;
    flash.promise.kept(hasher)?;
    match is_flashed(&flash.image, &flash.target) {
        Ok(true) => Ok(()),
        Ok(false) => Err("what was written is not there".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn restore(change: &Change, dir: &Path) -> io::Result<()> {
    let Some(backup) = &change.backup else {
        return match fs::remove_file(real(&change.target)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    };
    let backup = File::open(dir.join(backup))?;
    let mode = backup.metadata()?.mode() & 0o777;
    put(&change.target, backup, mode, |_| ())
}

/// Replaces the content of a target: a file as a whole, a device in its place.
fn put(target: &Path, mut from: File, mode: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let (mut to, replaces) = match Target::of(target, Access::Write)? {
        Target::Device(device, _) => (device, None),
        Target::File(path) | Target::Missing(path) => {
            // A file keeps the mode it has.
            let mode = fs::metadata(&path).map_or(mode, |found| found.mode() & 0o777);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let new = path.with_file_name(format!(".{name}.cml-new"));
            let options = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(mode)
                .open(&new);
            (options?, Some((new, path)))
        }
    };
    let written = copy(&mut from, &mut to, &mut each).and_then(|()| to.sync_all());
    // What is read back shall come from the device and not from memory; a kernel that cannot is no error.
    let _ = fadvise(&to, 0, None, Advice::DontNeed);
    let Some((new, path)) = replaces else {
        return written;
    };
    let replaced = written.and_then(|()| fs::rename(&new, &path));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced?;
    path.parent().map_or(Ok(()), |dir| {
        atomic::sync_dir(dir).map_err(|error| error.source)
    })
}

fn copy(from: &mut File, to: &mut File, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let count = fill(from, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        each(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

fn remove_dir(dir: &Path) -> Result<(), GuestOsError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
