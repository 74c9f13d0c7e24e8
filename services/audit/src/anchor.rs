//! The anchor: how far every log goes, under the key of the chains. Without it the end of a log could be cut off, or a
//! whole log deleted, and the rest would still be a chain.

use std::{collections::BTreeMap, io, path::Path};

use cml_sys::{atomic, file, random};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::chain::{ChainKey, Link, Mark};

/// Says what the hash over the anchor is about: it is none of a record.
const DOMAIN: &[u8] = b"anchor of the audit logs\n";

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// The newest record that its guest has acknowledged. It need not be in the file any more, nor any before it.
    pub base: Mark,
    /// The newest record.
    pub last: Mark,
    /// Bytes of the file.
    pub length: u64,
    /// Records that found no room, since the log exists.
    pub dropped: u64,
    /// Those of them that no record in the log tells of yet.
    pub untold: u64,
}

/// All logs of a device, and what was found wrong with them as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Anchor {
    /// By the identity of the container.
    pub heads: BTreeMap<String, Head>,
    /// Says for good that logs before this anchor cannot be vouched for.
    pub broken: Option<String>,
}

/// What is there in place of an anchor.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It is genuine.
    Genuine(Anchor),
    /// There is none.
    Nothing,
    /// Nobody with the key has written it.
    Altered,
}

impl Anchor {
    /// Reads it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read(path: &Path, key: &ChainKey) -> cml_sys::Result<Found> {
        let bytes = match file::read(path) {
            Err(error) if error.is_absence() => return Ok(Found::Nothing),
            other => other?,
        };
        let genuine = || {
            let text = str::from_utf8(&bytes).ok()?;
            let (hash, json) = text.split_once('\n')?;
            let expected = key.mac(&[DOMAIN, json.as_bytes()]);
            // Compared as they are written: both are text in a file that its reader may read.
            (String::from(expected) == hash).then(|| serde_json::from_str(json).ok())?
        };
        Ok(genuine().map_or(Found::Altered, Found::Genuine))
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// What the kernel said; the old one is there then.
    pub fn write(&self, path: &Path, key: &ChainKey) -> cml_sys::Result<()> {
        let json = serde_json::to_string(self).map_err(|error| {
            cml_sys::Error::invalid("write", path.display(), &error.to_string())
        })?;
        let hash: Link = key.mac(&[DOMAIN, json.as_bytes()]);
        let text = format!("{}\n{json}", String::from(hash));
        atomic::write(path, text.as_bytes(), 0o600)
    }
}

/// The key of the chains; a new one if there is none, or one that cannot be used. The second value says that it is new.
///
/// # Errors
/// It cannot be read or stored.
pub fn key(path: &Path) -> cml_sys::Result<(ChainKey, bool)> {
    let mut key = Zeroizing::new([0; 32]);
    match file::read(path).map(Zeroizing::new) {
        Ok(bytes) if bytes.len() == key.len() => {
            key.copy_from_slice(&bytes);
            return Ok((ChainKey::new(key), false));
        }
        Ok(_) => {
            tracing::error!(path = %path.display(), "no key of an audit log; making another one")
        }
        Err(error) if error.is_absence() => {}
        Err(error) => return Err(error),
    }
    random::fill(&mut key[..])?;
    atomic::write(path, &key[..], 0o600).map(|()| (ChainKey::new(key), true))
}

/// Sets a log aside that no anchor vouches for: it is evidence, and the new one begins with its first record.
///
/// # Errors
/// What the kernel said.
pub fn set_aside(log: &Path, now: u64) -> io::Result<()> {
    let mut aside = log.as_os_str().to_owned();
    aside.push(format!(".unanchored-{now}"));
    std::fs::rename(log, aside)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn only_the_holder_of_the_key_writes_an_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key_path) = (dir.path().join("anchor"), dir.path().join("audit.key"));
        let (own, new) = key(&key_path).unwrap();
        assert!(new);
        assert!(!key(&key_path).unwrap().1);
        assert_eq!(Anchor::read(&path, &own).unwrap(), Found::Nothing);
        let mut anchor = Anchor::default();
        anchor.heads.insert("x".into(), Head::default());
        anchor.write(&path, &own).unwrap();
        assert_eq!(
            Anchor::read(&path, &own).unwrap(),
            Found::Genuine(anchor.clone())
        );
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            fs::write(&path, altered).unwrap();
            assert_eq!(Anchor::read(&path, &own).unwrap(), Found::Altered, "{at}");
        }
        fs::write(&key_path, "short").unwrap();
        let (other, new) = key(&key_path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert!(new);
        assert_eq!(Anchor::read(&path, &other).unwrap(), Found::Altered);
    }
}
