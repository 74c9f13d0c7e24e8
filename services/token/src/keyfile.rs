//! The wrapped key of a container on disk (crypto.md 1.5 and 9.4), as bytes.
//!
//! Ours is sealed and bound to its container. Two formats of the existing system are read as well: the
//! envelope that its softtokens made, and the RFC 3394 wrapping of its smart cards.

use cml_bus::{api::token::TokenError, id::ContainerId};
use openssl::{envelope::Open, error::ErrorStack, symm::Cipher};
use zeroize::Zeroizing;

use crate::{
    keyring::Keyring,
    seal::{self, CryptoError},
};

/// 64 bytes for AES-256-XTS, 32 for HMAC-SHA256 (crypto.md 5.1).
pub const KEY_LENGTH: usize = 96;

/// What a file of ours starts with; no length field of an envelope looks like this.
const MAGIC: &[u8; 8] = b"cmlkey2\n";

/// The existing system's envelope starts with two lengths and the IV.
const LENGTHS: usize = 8;
const IV: usize = 16;
/// RFC 3394 adds one block of 8 bytes.
const CARD_LENGTH: usize = KEY_LENGTH + 8;

/// The key of a container.
pub type ContainerKey = Zeroizing<Vec<u8>>;

/// Why a key cannot be had from its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Bits have changed, or it was wrapped by a token that is gone.
    #[error("it is damaged, or was wrapped by another token")]
    Damaged,
    /// It was wrapped by a smart card.
    #[error("it was wrapped by a USB token, which is not available")]
    Card,
    /// The token did not do its part.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A token that is open.
pub trait Wraps {
    /// Wraps the key of a container in the best way that the token can.
    ///
    /// # Errors
    /// There is no randomness, or the token did not do its part.
    fn wrap(&self, container: ContainerId, key: &[u8]) -> Result<Vec<u8>, String>;

    /// The key of a container from its file.
    ///
    /// # Errors
    /// [`KeyError`]; whatever the bytes are.
    fn unwrap(&self, container: ContainerId, bytes: &[u8]) -> Result<ContainerKey, KeyError>;

    /// Whether a file is in the format that this token writes.
    fn is_current(&self, bytes: &[u8]) -> bool;
}

impl Wraps for Keyring {
    fn wrap(&self, container: ContainerId, key: &[u8]) -> Result<Vec<u8>, String> {
        wrap(self, container, key).map_err(|error| error.to_string())
    }

    fn unwrap(&self, container: ContainerId, bytes: &[u8]) -> Result<ContainerKey, KeyError> {
        unwrap(self, container, bytes)
    }

    fn is_current(&self, bytes: &[u8]) -> bool {
        self.kek().is_none() || bytes.starts_with(MAGIC)
    }
}

/// Wraps the key of a container in the best way that the token can.
///
/// # Errors
/// There is no randomness.
pub fn wrap(ring: &Keyring, container: ContainerId, key: &[u8]) -> Result<Vec<u8>, CryptoError> {
    match (ring.kek(), ring.rsa()) {
        (Some(kek), _) => {
            let sealed = seal::seal(&*wrapping_key(kek, container)?, &binding(container), key)?;
            Ok([MAGIC.as_slice(), &sealed].concat())
        }
        (None, Some(rsa)) => Ok(envelope::seal(rsa, key)?),
        // No key ring is made without either.
        (None, None) => Err(ErrorStack::get().into()),
    }
}

/// The key of a container from its file.
///
/// # Errors
/// [`KeyError`]; whatever the bytes are.
pub fn unwrap(
    ring: &Keyring,
    container: ContainerId,
    bytes: &[u8],
) -> Result<ContainerKey, KeyError> {
    let key = match bytes.strip_prefix(MAGIC) {
        Some(sealed) => ring.kek().and_then(|kek| {
            let key = wrapping_key(kek, container).ok()?;
            seal::open(&key, &binding(container), sealed)
        }),
        None if bytes.len() == CARD_LENGTH => return Err(KeyError::Card),
        None => ring.rsa().and_then(|rsa| envelope::open(rsa, bytes)),
    };
    key.filter(|key| key.len() == KEY_LENGTH)
        .ok_or(KeyError::Damaged)
}

fn wrapping_key(kek: &[u8; 32], container: ContainerId) -> Result<Zeroizing<[u8; 32]>, ErrorStack> {
    seal::derive(kek, format!("cml container key {container}").as_bytes())
}

fn binding(container: ContainerId) -> Vec<u8> {
    [MAGIC.as_slice(), container.to_string().as_bytes()].concat()
}

/// The existing system's envelope: AES-256-CBC under a random key, which RSA with PKCS#1 v1.5 encrypts.
mod envelope {
    use openssl::{
        envelope::Seal,
        pkey::{PKey, Private},
    };

    use super::{Cipher, ContainerKey, ErrorStack, IV, LENGTHS, Open, Zeroizing};

    pub(super) fn seal(rsa: &PKey<Private>, key: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let public = PKey::public_key_from_der(&rsa.public_key_to_der()?)?;
        let cipher = Cipher::aes_256_cbc();
        let mut seal = Seal::new(cipher, &[public])?;
        let mut text = vec![0; key.len() + cipher.block_size()];
        let mut length = seal.update(key, &mut text)?;
        length += seal.finalize(&mut text[length..])?;
        text.truncate(length);
        let encrypted_key = &seal.encrypted_keys()[0];
        // Native integers, as the existing system writes them.
        let lengths = [encrypted_key.len(), text.len()]
            .map(|length| i32::try_from(length).unwrap_or_default().to_ne_bytes())
            .concat();
        let iv = seal.iv().unwrap_or_default();
        Ok([&lengths, iv, encrypted_key, &text].concat())
    }

    pub(super) fn open(rsa: &PKey<Private>, bytes: &[u8]) -> Option<ContainerKey> {
        let (lengths, rest) = bytes.split_at_checked(LENGTHS)?;
        let (iv, rest) = rest.split_at_checked(IV)?;
        let length = |at: usize| -> Option<usize> {
            let field = lengths.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(i32::from_ne_bytes(field)).ok()
        };
        let (encrypted_key, text) = rest.split_at_checked(length(0)?)?;
        if text.len() != length(4)? {
            return None;
        }
        let cipher = Cipher::aes_256_cbc();
        let opened = || -> Result<ContainerKey, ErrorStack> {
            let mut open = Open::new(cipher, rsa, Some(iv), encrypted_key)?;
            let mut key = Zeroizing::new(vec![0; text.len() + cipher.block_size()]);
            let mut length = open.update(text, &mut key)?;
            length += open.finalize(&mut key[length..])?;
            key.truncate(length);
            Ok(key)
        };
        opened().ok()
    }
}

/// The key of a container that a smart card has wrapped, given what the card derived for the container
/// (crypto.md 1.5).
pub fn unwrap_card(kek: &[u8; 32], bytes: &[u8]) -> Result<ContainerKey, KeyError> {
    use openssl::aes::{AesKey, unwrap_key};
    let kek = AesKey::new_decrypt(kek).map_err(|_| KeyError::Damaged)?;
    if bytes.len() != CARD_LENGTH {
        return Err(KeyError::Damaged);
    }
    let mut key = Zeroizing::new(vec![0; KEY_LENGTH]);
    match unwrap_key(&kek, None, &mut key, bytes) {
        Ok(KEY_LENGTH) => Ok(key),
        _ => Err(KeyError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use openssl::{pkey::PKey, rsa::Rsa};
    use proptest::prelude::*;

    use super::*;

    fn rsa() -> Keyring {
        Keyring::of_rsa(PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap())
    }

    #[test]
    fn a_key_comes_back_only_by_its_token_for_its_container_and_untouched() {
        let (ring, other) = (Keyring::fresh().unwrap(), Keyring::fresh().unwrap());
        let (a, b) = (ContainerId::random(), ContainerId::random());
        let wrapped = wrap(&ring, a, &[7; KEY_LENGTH]).unwrap();
        assert_eq!(*unwrap(&ring, a, &wrapped).unwrap(), [7; KEY_LENGTH]);
        assert_eq!(unwrap(&other, a, &wrapped), Err(KeyError::Damaged));
        assert_eq!(unwrap(&ring, b, &wrapped), Err(KeyError::Damaged));
        for at in 0..wrapped.len() {
            let mut touched = wrapped.clone();
            touched[at] ^= 1;
            assert!(unwrap(&ring, a, &touched).is_err());
            assert!(unwrap(&ring, a, &wrapped[..at]).is_err());
        }
    }

    #[test]
    fn a_token_that_took_an_rsa_key_over_reads_what_that_has_wrapped() {
        let (mut ring, a) = (rsa(), ContainerId::random());
        let old = wrap(&ring, a, &[7; KEY_LENGTH]).unwrap();
        assert!(ring.is_current(&old));
        ring.harden().unwrap();
        assert!(!ring.is_current(&old));
        let stored = Keyring::from_bytes(&ring.to_bytes().unwrap()).unwrap();
        assert_eq!(*unwrap(&stored, a, &old).unwrap(), [7; KEY_LENGTH]);
        let new = wrap(&stored, a, &[7; KEY_LENGTH]).unwrap();
        assert!(stored.is_current(&new));
        assert_eq!(*unwrap(&ring, a, &new).unwrap(), [7; KEY_LENGTH]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let ring = Keyring::fresh().unwrap();
            prop_assert!(unwrap(&ring, ContainerId::random(), &bytes).is_err());
            prop_assert!(unwrap_card(&[0; 32], &bytes).is_err());
        }
    }
}
