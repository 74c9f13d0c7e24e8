//! The directory of wrapped keys: `<uuid>.key`, and `<uuid>.key.next` while a key changes hands.
//!
//! A container's key changes hands when the container gets a token of its own. The key under the new token
//! is written beside the old one first; the token's file then decides which of the two counts, so that one
//! rename of one file takes a container from its old PIN to its new one.

use std::path::{Path, PathBuf};

use cml_bus::{api::token::TokenError, id::ContainerId};
use cml_sys::{atomic, file, random};
use zeroize::Zeroizing;

use crate::{
    keyfile::{ContainerKey, KEY_LENGTH, KeyError, Wraps},
    softtoken::unusable,
};

/// Bytes of the key of `core0`: HMAC-SHA256 alone (crypto.md 5.1).
const CORE0_LENGTH: usize = 32;

/// The directory.
#[derive(Debug, Clone)]
pub struct Keys(PathBuf);

impl Keys {
    /// The keys in this directory.
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    fn path(&self, container: ContainerId) -> PathBuf {
        self.0.join(format!("{container}.key"))
    }

    fn next(&self, container: ContainerId) -> PathBuf {
        self.0.join(format!("{container}.key.next"))
    }

    /// Whether a container has a key.
    pub fn exists(&self, container: ContainerId) -> bool {
        self.path(container).exists() || self.next(container).exists()
    }

    /// The key of a container; a new one if there is none and `create` says that nothing is lost by that.
    ///
    /// # Errors
    /// `KeyLost`, or the file cannot be read or written.
    pub fn release(
        &self,
        container: ContainerId,
        ring: &dyn Wraps,
        create: bool,
    ) -> Result<ContainerKey, TokenError> {
        self.settle(container, ring)?;
        let path = self.path(container);
        let wrapped = match file::read(&path) {
            Err(error) if error.is_absence() && create => return self.create(container, ring),
            Err(error) if error.is_absence() => return Err(lost(&path, "it is missing")),
            other => other.map_err(|error| unusable(&path, error.source))?,
        };
        let key = ring
            .unwrap(container, &wrapped)
            .map_err(|error| match error {
                KeyError::Damaged => lost(&path, error),
                KeyError::Card => unusable(&path, error),
                KeyError::Token(error) => error,
            })?;
        if !ring.is_current(&wrapped)
            && let Err(error) = self.write(&path, container, ring, &key)
        {
            tracing::error!(%error, "the key of a container keeps its old format");
        }
        Ok(key)
    }

    /// A container's key is on the disk before anything is written under it (crypto.md 9.1, number 12).
    fn create(&self, container: ContainerId, ring: &dyn Wraps) -> Result<ContainerKey, TokenError> {
        let path = self.path(container);
        let mut key = Zeroizing::new(vec![0; KEY_LENGTH]);
        random::fill(&mut key).map_err(|error| unusable(&path, error))?;
        self.write(&path, container, ring, &key)?;
        tracing::info!(%container, "a new key for its volumes");
        Ok(key)
    }

    /// The key of `core0`: 32 bytes in clear, as in the existing system, for nobody types a PIN when a device starts.
    /// Where it is missing beside something stored, that was stored by a system of long ago, under a key of zeros.
    ///
    /// # Errors
    /// The file cannot be read or written, or is too short.
    pub fn of_core0(&self, create: bool) -> Result<ContainerKey, TokenError> {
        let path = self.path(ContainerId::CORE0);
        let mut key = match file::read(&path) {
            Err(error) if error.is_absence() => {
                let mut key = Zeroizing::new(vec![0; CORE0_LENGTH]);
                if create {
                    random::fill(&mut key).map_err(|error| unusable(&path, error))?;
                }
                atomic::write(&path, &key, 0o600).map_err(|error| unusable(&path, error))?;
                key
            }
            other => Zeroizing::new(other.map_err(|error| unusable(&path, error.source))?),
        };
        if key.len() < CORE0_LENGTH {
            return Err(lost(&path, "it is too short"));
        }
        key.truncate(CORE0_LENGTH);
        Ok(key)
    }

    fn write(
        &self,
        path: &Path,
        container: ContainerId,
        ring: &dyn Wraps,
        key: &[u8],
    ) -> Result<(), TokenError> {
        let wrapped = ring.wrap(container, key);
        let wrapped = wrapped.map_err(|error| unusable(path, error))?;
        atomic::write(path, &wrapped, 0o600).map_err(|error| unusable(path, error))
    }

    /// Prepares the key of a container for another token. [`Keys::settle`] with that token completes it, with
    /// the present one takes it back.
    ///
    /// # Errors
    /// As [`Keys::release`].
    pub fn hand_over(
        &self,
        container: ContainerId,
        from: &dyn Wraps,
        to: &dyn Wraps,
    ) -> Result<(), TokenError> {
        if !self.exists(container) {
            return Ok(());
        }
        let key = self.release(container, from, false)?;
        self.write(&self.next(container), container, to, &key)
    }

    /// Ends a change of hands that was begun: the token that counts says how.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn settle(&self, container: ContainerId, ring: &dyn Wraps) -> Result<(), TokenError> {
        let (path, next) = (self.path(container), self.next(container));
        let wrapped = match file::read(&next) {
            Err(error) if error.is_absence() => return Ok(()),
            other => other.map_err(|error| unusable(&next, error.source))?,
        };
        if ring.unwrap(container, &wrapped).is_err() {
            return file::shred(&next).map_err(|error| unusable(&next, error));
        }
        std::fs::rename(&next, &path).map_err(|error| unusable(&next, error))?;
        atomic::sync_dir(&self.0).map_err(|error| unusable(&path, error))
    }

    /// Destroys the key of a container: nothing that was written under it can be read any more.
    ///
    /// # Errors
    /// What the kernel said; the key may still be there.
    pub fn destroy(&self, container: ContainerId) -> Result<(), TokenError> {
        for path in [self.next(container), self.path(container)] {
            file::shred(&path).map_err(|error| unusable(&path, error))?;
        }
        Ok(())
    }
}

fn lost(path: &Path, reason: impl ToString) -> TokenError {
    TokenError::KeyLost {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::keyring::Keyring;

    #[test]
    fn a_key_is_made_once_and_never_silently_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, ring) = (Keys::new(dir.path()), Keyring::fresh().unwrap());
        let a = ContainerId::random();
        let missing = keys.release(a, &ring, false);
        assert!(matches!(missing, Err(TokenError::KeyLost { .. })));
        let key = keys.release(a, &ring, true).unwrap();
        assert_eq!(*keys.release(a, &ring, true).unwrap(), *key);
        let other = Keyring::fresh().unwrap();
        let foreign = keys.release(a, &other, true);
        assert!(matches!(foreign, Err(TokenError::KeyLost { .. })));
        assert_eq!(*keys.release(a, &ring, false).unwrap(), *key);
        for damaged in [&b""[..], b"x", &fs::read(keys.path(a)).unwrap()[..20]] {
            fs::write(keys.path(a), damaged).unwrap();
            let damaged = keys.release(a, &ring, true);
            assert!(matches!(damaged, Err(TokenError::KeyLost { .. })));
        }
        keys.destroy(a).unwrap();
        assert_ne!(*keys.release(a, &ring, true).unwrap(), *key);
    }

    #[test]
    fn the_key_of_core0_is_in_clear_and_that_of_long_ago_is_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path());
        let path = keys.path(ContainerId::CORE0);
        assert_eq!(*keys.of_core0(false).unwrap(), [0; CORE0_LENGTH]);
        fs::remove_file(&path).unwrap();
        let key = keys.of_core0(true).unwrap();
        assert_ne!(*key, [0; CORE0_LENGTH]);
        assert_eq!(*keys.of_core0(false).unwrap(), *key);
        assert_eq!(fs::read(&path).unwrap(), *key);
        fs::write(&path, &key[1..]).unwrap();
        let short = keys.of_core0(true);
        assert!(matches!(short, Err(TokenError::KeyLost { .. })));
    }

    #[test]
    fn a_key_that_changes_hands_always_opens_by_the_token_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path());
        let (old, new) = (Keyring::fresh().unwrap(), Keyring::fresh().unwrap());
        let a = ContainerId::random();
        keys.hand_over(a, &old, &new).unwrap();
        let key = keys.release(a, &old, true).unwrap();
        // Interrupted before the new token was there.
        keys.hand_over(a, &old, &new).unwrap();
        assert_eq!(*keys.release(a, &old, false).unwrap(), *key);
        // Interrupted after it.
        keys.hand_over(a, &old, &new).unwrap();
        assert_eq!(*keys.release(a, &new, false).unwrap(), *key);
        assert!(keys.release(a, &old, false).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
