//! Files that results are stored in: whole or not at all, and never over something else.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::exit::CliError;

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CliError + use<'_> {
    move |source| CliError::Store {
        path: path.to_owned(),
        source,
    }
}

/// Writes a file, replacing one of that name.
///
/// # Errors
/// [`CliError::Store`]
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    fs::write(path, bytes).map_err(failed(path))
}

/// Whether a name from the daemon names a file in a directory and nothing else (protocol.md 8.1, S21).
pub fn is_plain(name: &str) -> bool {
    let harmless = |char: char| char != '/' && !char.is_control();
    !name.is_empty() && !name.starts_with('.') && name.len() <= 255 && name.chars().all(harmless)
}

/// A file that is being received. Dropped before [`Incoming::finish`], it is gone.
#[derive(Debug)]
pub struct Incoming {
    dir: PathBuf,
    name: String,
    temporary: PathBuf,
    file: File,
    done: bool,
}

impl Incoming {
    /// Begins a file in this directory.
    ///
    /// # Errors
    /// [`CliError::BadLogName`], [`CliError::Store`]
    pub fn new(dir: &Path, name: &str) -> Result<Self, CliError> {
        if !is_plain(name) {
            return Err(CliError::BadLogName(name.to_owned()));
        }
        let temporary = dir.join(format!(".{name}.part"));
        // One that an earlier run has left, if it is no trap.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&temporary)
            .map_err(failed(&temporary))?;
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            temporary,
            file,
            done: false,
        })
    }

    /// The name it will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next bytes.
    ///
    /// # Errors
    /// [`CliError::Store`]
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(failed(&self.temporary))
    }

    /// Puts the file on the disk under its name, or under one with a number if another file has that.
    ///
    /// # Errors
    /// [`CliError::Store`]
    pub fn finish(mut self) -> Result<PathBuf, CliError> {
        self.file.sync_all().map_err(failed(&self.temporary))?;
        let path = self.place().map_err(failed(&self.temporary))?;
        fs::rename(&self.temporary, &path).map_err(failed(&path))?;
        self.done = true;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(failed(&self.dir))?;
        Ok(path)
    }

    /// A file that goes on where the one of that name ends takes its place.
    fn place(&self) -> io::Result<PathBuf> {
        let plain = self.dir.join(&self.name);
        let numbered = (1..).map(|number| self.dir.join(format!("{}.{number}", self.name)));
        for path in std::iter::once(plain).chain(numbered) {
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(error),
                Ok(found) if found.is_file() && continues(&self.temporary, &path)? => {
                    return Ok(path);
                }
                Ok(_) => {}
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Whether a file begins with everything that another one holds.
fn continues(new: &Path, old: &Path) -> io::Result<bool> {
    let (mut new, mut old) = (File::open(new)?, File::open(old)?);
    let (mut ours, mut theirs) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = old.read(&mut theirs)?;
        if length == 0 {
            return Ok(true);
        }
        match new.read_exact(&mut ours[..length]) {
            Ok(()) if ours[..length] == theirs[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn receive(dir: &Path, content: &str) -> String {
        let mut file = Incoming::new(dir, "log").unwrap();
        file.append(content.as_bytes()).unwrap();
        let path = file.finish().unwrap();
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_file_is_replaced_only_by_its_own_continuation() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(receive(dir, "a\n"), "log");
        assert_eq!(receive(dir, "a\nb\n"), "log");
        assert_eq!(receive(dir, "other\n"), "log.1");
        assert_eq!(receive(dir, "a\n"), "log.2");
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "a\nb\n");
        drop(Incoming::new(dir, "log").unwrap());
        assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
    }

    #[test]
    fn neither_names_nor_links_lead_out_of_the_directory() {
        for name in ["", "..", "../x", "a/b", ".hidden", "a\n", "/etc/passwd"] {
            assert!(!is_plain(name), "{name:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let (dir, outside) = (dir.path().join("in"), dir.path().join("outside"));
        fs::create_dir(&dir).unwrap();
        fs::write(&outside, "").unwrap();
        symlink(&outside, dir.join("log")).unwrap();
        symlink(&outside, dir.join(".log.part")).unwrap();
        assert_eq!(receive(&dir, "x"), "log.1");
        assert_eq!(fs::read(&outside).unwrap(), b"");
    }
}
