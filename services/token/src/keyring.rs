//! What an open token holds: the keys that wrap the keys of containers.

use std::fmt;

use cml_sys::random;
use openssl::{
    error::ErrorStack,
    pkey::{PKey, Private},
};
use zeroize::Zeroizing;

/// A key-encryption key of a hardened token.
pub type Kek = Zeroizing<[u8; 32]>;

/// The keys of an open token: at least one of the two.
pub struct Keyring {
    /// Wraps what is written from now on.
    kek: Option<Kek>,
    /// Opens what the existing system has written.
    rsa: Option<PKey<Private>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl Keyring {
    /// A new key for a hardened token.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn fresh() -> cml_sys::Result<Self> {
        let mut ring = Self {
            kek: None,
            rsa: None,
        };
        ring.harden()?;
        Ok(ring)
    }

    /// The key of a token of the existing system.
    pub fn of_rsa(key: PKey<Private>) -> Self {
        Self {
            kek: None,
            rsa: Some(key),
        }
    }

    /// Adds the key of a hardened token.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn harden(&mut self) -> cml_sys::Result<()> {
        let mut kek = Zeroizing::new([0; 32]);
        random::fill(&mut *kek)?;
        self.kek = Some(kek);
        Ok(())
    }

    /// The key of a hardened token.
    pub fn kek(&self) -> Option<&Kek> {
        self.kek.as_ref()
    }

    /// The key of a token of the existing system.
    pub fn rsa(&self) -> Option<&PKey<Private>> {
        self.rsa.as_ref()
    }

    /// The content of a hardened token: its key, then the RSA key in DER if it took one over.
    ///
    /// # Errors
    /// Openssl could not encode the RSA key.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
        let rsa = match &self.rsa {
            Some(rsa) => Zeroizing::new(rsa.private_key_to_der()?),
            None => Zeroizing::default(),
        };
        let kek = self.kek.as_ref().map_or(&[][..], |kek| &kek[..]);
        // As one piece: a vector that grows leaves copies behind.
        Ok(Zeroizing::new([kek, rsa.as_slice()].concat()))
    }

    /// The key ring from the content of a hardened token.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kek, rsa) = bytes.split_first_chunk::<32>()?;
        Some(Self {
            kek: Some(Zeroizing::new(*kek)),
            rsa: match rsa {
                [] => None,
                der => Some(PKey::private_key_from_der(der).ok()?),
            },
        })
    }
}
