//! The store on disk: `<name>-<version>.conf`, `.sig`, `.cert` and a directory of images (protocol.md 6.1).

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use cml_bus::api::{guestos::GuestOsError, token::VerifySignature};
use cml_wire::proto::GuestOsConfig;

/// Ends of the names of the files of a guest OS.
const FILES: [&str; 4] = [".conf", ".sig", ".cert", ".p7s"];

/// One guest OS as it lies on disk, not yet verified.
#[derive(Debug)]
pub struct Entry {
    /// `<name>-<version>`, from the file names.
    pub stem: String,
    /// Configuration, signature and certificate, read once: what is verified is what is used (SEC-09).
    pub signed: VerifySignature,
}

/// `<name>-<version>`, the base of all file names of a guest OS.
pub fn stem(config: &GuestOsConfig) -> String {
    format!("{}-{}", config.name, config.version)
}

/// The image file behind a mount.
pub fn image_path(store: &Path, config: &GuestOsConfig, image: &str) -> PathBuf {
    store.join(stem(config)).join(format!("{image}.img"))
}

/// The hash tree of dm-verity beside an image (crypto.md 5.4).
pub fn hash_path(image: &Path) -> PathBuf {
    image.with_extension("hash.img")
}

/// Every guest OS that has an image directory, by name. One that cannot be read is reported and skipped,
/// so that it does not take the others with it.
pub fn scan(store: &Path) -> Result<Vec<Entry>, GuestOsError> {
    let fail = |error: io::Error| GuestOsError::Store {
        path: store.display().to_string(),
        reason: error.to_string(),
    };
    let mut stems = Vec::new();
    let listing = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(fail)?,
    };
    for entry in listing {
        let entry = entry.map_err(fail)?;
        let is_directory = entry.file_type().map_err(fail)?.is_dir();
        if let (true, Ok(stem)) = (is_directory, entry.file_name().into_string())
            && !stem.starts_with('.')
        {
            stems.push(stem);
        }
    }
    // Directory order is random; a list that changes from start to start helps nobody.
    stems.sort();
    Ok(stems
        .into_iter()
        .filter_map(|stem| match read(store, &stem) {
            Ok(signed) => Some(Entry { stem, signed }),
            Err(error) => {
                tracing::warn!(guestos = stem, %error, "guest OS skipped");
                None
            }
        })
        .collect())
}

/// Every version of a guest OS that has files in the store, whether it can be used or not.
pub fn versions(store: &Path, name: &str) -> Result<Vec<String>, GuestOsError> {
    let list = || -> io::Result<BTreeSet<String>> {
        let mut stems = BTreeSet::new();
        for entry in fs::read_dir(store)? {
            let Ok(file) = entry?.file_name().into_string() else {
                continue;
            };
            let stem = FILES.iter().find_map(|suffix| file.strip_suffix(suffix));
            let stem = stem.unwrap_or(&file);
            let of_name = |(named, version): (&str, &str)| {
                named == name
                    && !version.is_empty()
                    && version.bytes().all(|byte| byte.is_ascii_digit())
            };
            if stem.rsplit_once('-').is_some_and(of_name) {
                stems.insert(stem.to_owned());
            }
        }
        Ok(stems)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other
            .map_err(|error| GuestOsError::Store {
                path: store.display().to_string(),
                reason: error.to_string(),
            })?
            .into_iter()
            .collect()),
    }
}

fn read(store: &Path, stem: &str) -> cml_sys::Result<VerifySignature> {
    let part = |suffix: &str| cml_sys::file::read(&store.join(format!("{stem}.{suffix}")));
    Ok(VerifySignature {
        data: part("conf")?,
        // The signing tool may have written a CMS signature instead (crypto.md 3.4).
        signature: part("sig").or_else(|error| match error.is_absence() {
            true => part("p7s"),
            false => Err(error),
        })?,
        certificate: part("cert")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_come_sorted_and_broken_ones_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for stem in ["b-1", "a-2", "broken-1"] {
            fs::create_dir(dir.path().join(stem)).unwrap();
            for suffix in ["conf", "sig", "cert"] {
                fs::write(dir.path().join(format!("{stem}.{suffix}")), suffix).unwrap();
            }
        }
        fs::remove_file(dir.path().join("broken-1.sig")).unwrap();
        fs::write(dir.path().join("stray"), "").unwrap();
        let stems: Vec<_> = scan(dir.path())
            .unwrap()
            .into_iter()
            .map(|entry| entry.stem)
            .collect();
        assert_eq!(stems, ["a-2", "b-1"]);
    }

    #[test]
    fn all_versions_of_exactly_one_name_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a-1", "a-20", "a-1-1", "a-x", "b-1", ".install-a-1"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["a-1.conf", "a-3.sig", "a-b-4.conf", "a", "a-"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = |name| versions(dir.path(), name).unwrap();
        assert_eq!(found("a"), ["a-1", "a-20", "a-3"]);
        assert_eq!(found("a-1"), ["a-1-1"]);
        assert!(found("c").is_empty());
    }

    #[test]
    fn an_absent_store_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(scan(&dir.path().join("absent")).unwrap().is_empty());
    }
}
