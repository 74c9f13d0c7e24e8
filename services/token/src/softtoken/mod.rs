//! Softtokens: what a PIN releases, in a file that only the PIN opens.
//!
//! New ones have the [`hardened`] format (`<name>.tok`), or that of the existing system ([`p12`],
//! `<name>.p12`) where `device.conf` wants it. A token of the existing system becomes a hardened one when
//! it is opened for the first time: its key moves into the new file, so everything that it has ever wrapped
//! stays readable, and the old file, which is easier to guess, is destroyed. Where both files lie side by
//! side such a move was interrupted, and the new one counts.

pub mod hardened;
pub mod p12;

use std::path::{Path, PathBuf};

use cml_bus::{api::token::TokenError, secret::Pin};
use cml_sys::file;
use zeroize::Zeroizing;

use crate::keyring::Keyring;

/// The passphrase of a token that nobody has changed yet (design.md section 1).
pub const FIRST_PIN: &str = "trustme";

/// How a new token is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Argon2id and AES-256-GCM (crypto.md 9.4).
    Hardened,
    /// PKCS#12 with an RSA key (crypto.md 1.1).
    P12,
}

/// A token, whether its file exists or not.
#[derive(Debug, Clone)]
pub struct Softtoken {
    /// The path of its files without their suffix.
    stem: PathBuf,
    /// What it is bound to: the container's identity, or the device.
    name: String,
    /// How it is stored when it is made anew.
    format: Format,
}

/// A new token that lies nowhere yet.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    /// What it will release.
    pub keyring: Keyring,
}

impl Softtoken {
    /// The token with this name in a directory.
    pub fn new(dir: &Path, name: &str, format: Format) -> Self {
        Self {
            stem: dir.join(name),
            name: name.to_owned(),
            format,
        }
    }

    fn tok(&self) -> PathBuf {
        self.stem.with_extension("tok")
    }

    fn p12(&self) -> PathBuf {
        self.stem.with_extension("p12")
    }

    /// The file that counts.
    pub fn path(&self) -> PathBuf {
        let hardened = self.format == Format::Hardened && !self.p12().exists();
        match hardened || self.tok().exists() {
            true => self.tok(),
            false => self.p12(),
        }
    }

    /// Whether there is such a token.
    pub fn exists(&self) -> bool {
        self.tok().exists() || self.p12().exists()
    }

    /// A new token with a new key for this PIN.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn prepare(&self, pin: &Pin) -> Result<Prepared, TokenError> {
        let (path, keyring) = match self.format {
            Format::Hardened => (
                self.tok(),
                Keyring::fresh().map_err(|error| error.to_string()),
            ),
            Format::P12 => (self.p12(), p12::fresh().map_err(|error| error.to_string())),
        };
        let keyring = keyring.map_err(|error| unusable(&path, error))?;
        let bytes = self.encode(&path, &keyring, pin)?;
        Ok(Prepared {
            path,
            bytes,
            keyring,
        })
    }

    /// Makes the token, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written, or there is no randomness.
    pub fn create(&self, pin: &Pin) -> Result<(), TokenError> {
        self.prepare(pin)?.store()
    }

    /// Opens the token. One of the existing system is a hardened one afterwards.
    ///
    /// # Errors
    /// `WrongPin`, or `Unusable` when the file is missing or damaged.
    pub fn open(&self, pin: &Pin) -> Result<Keyring, TokenError> {
        self.reopen(pin, pin)
    }

    /// Puts the token under another PIN. It has the old PIN or the new one, whatever happens.
    ///
    /// # Errors
    /// As [`Softtoken::open`], or the file cannot be written.
    pub fn change(&self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        self.reopen(old, new).map(drop)
    }

    /// Opens the token and stores it again where its format or its PIN changes.
    fn reopen(&self, pin: &Pin, next: &Pin) -> Result<Keyring, TokenError> {
        let path = self.path();
        let is_hardened = path == self.tok();
        let mut keyring = match is_hardened {
            true => hardened::open(&path, &self.name, pin)?,
            false => p12::open(&path, pin)?,
        };
        let migrates = !is_hardened && self.format == Format::Hardened;
        if migrates {
            keyring.harden().map_err(|error| unusable(&path, error))?;
        }
        if migrates || pin.expose() != next.expose() {
            let target = match migrates {
                true => self.tok(),
                false => path,
            };
            let bytes = self.encode(&target, &keyring, next)?;
            match store(&target, &bytes) {
                // A full disk must not keep the right PIN from stopping a container.
                Err(error) if pin.expose() == next.expose() => {
                    tracing::error!(%error, "the token keeps its old format");
                    return Ok(keyring);
                }
                other => other?,
            }
        }
        if (migrates || is_hardened) && self.p12().exists() {
            match file::shred(&self.p12()) {
                Ok(()) => {
                    tracing::info!(token = self.name, "the token has the hardened format now")
                }
                Err(error) => tracing::error!(%error, "a token of the old format is still there"),
            }
        }
        Ok(keyring)
    }

    fn encode(
        &self,
        path: &Path,
        keyring: &Keyring,
        pin: &Pin,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        match path.extension().is_some_and(|suffix| suffix == "tok") {
            true => hardened::encode(keyring, &self.name, pin),
            false => p12::encode(keyring, &self.name, pin),
        }
        .map_err(|reason| unusable(path, reason))
    }

    /// Destroys the token, so that nobody can open what it has wrapped any more.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn destroy(&self) -> Result<(), TokenError> {
        for path in [self.tok(), self.p12()] {
            file::shred(&path).map_err(|error| unusable(&path, error))?;
        }
        Ok(())
    }
}

impl Prepared {
    /// Puts the token where it belongs.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self) -> Result<(), TokenError> {
        store(&self.path, &self.bytes)
    }
}

fn store(path: &Path, bytes: &[u8]) -> Result<(), TokenError> {
    cml_sys::atomic::write(path, bytes, 0o600).map_err(|error| unusable(path, error))
}

/// The token at this path, or what belongs to it, cannot be used.
pub(crate) fn unusable(path: &Path, reason: impl ToString) -> TokenError {
    TokenError::Unusable {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}
