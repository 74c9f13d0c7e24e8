//! The token format of ours (crypto.md 9.4): Argon2id makes a key of the PIN, and AES-256-GCM under that key
//! seals what the token releases, bound to the name of the token.
//!
//! The file is a JSON document of one line. A checksum over it tells damage from a wrong PIN, which the
//! seal alone cannot.

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use cml_bus::{api::token::TokenError, secret::Pin};
use cml_sys::{file, random};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::unusable;
use crate::{keyring::Keyring, seal};

/// What a new token's derivation costs: 64 MiB of memory (crypto.md 9.4), and about 0.1 s of one core
/// (design.md section 3, "Speed").
const COST: Cost = Cost {
    memory_kib: 64 << 10,
    passes: 3,
    lanes: 1,
};

/// The most that a token may cost: whoever changes the file must not take the machine's memory.
const COST_MAX: Cost = Cost {
    memory_kib: 1 << 20,
    passes: 64,
    lanes: 16,
};

const VERSION: u32 = 2;
const SALT_LENGTH: usize = 16;

/// What the derivation of a key costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    argon2id: Cost,
    #[serde(with = "hex")]
    salt: [u8; SALT_LENGTH],
    #[serde(with = "hex")]
    sealed: Vec<u8>,
    /// SHA-256 over the document with this field empty.
    #[serde(with = "hex")]
    checksum: Vec<u8>,
}

impl File {
    fn digest(&self) -> Result<Vec<u8>, String> {
        let plain = Self {
            checksum: Vec::new(),
            sealed: self.sealed.clone(),
            ..*self
        };
        let text = serde_json::to_vec(&plain).map_err(|error| error.to_string())?;
        Ok(Sha256::digest(text).to_vec())
    }

    /// What the seal is bound to.
    fn binding(&self, name: &str) -> Vec<u8> {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.argon2id;
        let salt = hex::encode(self.salt);
        format!(
            "cml-softtoken {} {name} {memory_kib} {passes} {lanes} {salt}",
            self.version
        )
        .into_bytes()
    }

    fn key(&self, pin: &Pin) -> Result<Zeroizing<[u8; 32]>, String> {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.argon2id;
        let text = |error: argon2::Error| error.to_string();
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(text)?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon
            .hash_password_into(pin.expose().as_bytes(), &self.salt, &mut *key)
            .map_err(text)?;
        Ok(key)
    }
}

/// The content of a token file.
///
/// # Errors
/// There is no randomness or no memory.
pub fn encode(keyring: &Keyring, name: &str, pin: &Pin) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut file = File {
        version: VERSION,
        argon2id: COST,
        salt: [0; SALT_LENGTH],
        sealed: Vec::new(),
        checksum: Vec::new(),
    };
    random::fill(&mut file.salt).map_err(|error| error.to_string())?;
    let content = keyring.to_bytes().map_err(|error| error.to_string())?;
    let key = file.key(pin)?;
    file.sealed =
        seal::seal(&key, &file.binding(name), &content).map_err(|error| error.to_string())?;
    file.checksum = file.digest()?;
    let mut text = serde_json::to_vec(&file).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(Zeroizing::new(text))
}

/// Opens a token file.
///
/// # Errors
/// `WrongPin`, or `Unusable` when the file is missing or damaged.
pub fn open(path: &Path, name: &str, pin: &Pin) -> Result<Keyring, TokenError> {
    let damaged = |reason: &str| unusable(path, reason);
    let text = file::read(path).map_err(|error| unusable(path, error.source))?;
    let file: File = serde_json::from_slice(&text)
        .map_err(|error| damaged(&format!("it is damaged: {error}")))?;
    if file.version != VERSION {
        let version = file.version;
        return Err(damaged(&format!(
            "version {version} is not known to this cmld"
        )));
    }
    if file.digest().map_err(|error| damaged(&error))? != file.checksum {
        return Err(damaged("it is damaged: its checksum is wrong"));
    }
    let cost = file.argon2id;
    if cost.memory_kib > COST_MAX.memory_kib
        || cost.passes > COST_MAX.passes
        || cost.lanes > COST_MAX.lanes
    {
        return Err(damaged("its derivation costs more than any token of ours"));
    }
    let key = file.key(pin).map_err(|error| damaged(&error))?;
    // The document is intact, so it is the PIN that is wrong, or the file is that of another token.
    let content =
        seal::open(&key, &file.binding(name), &file.sealed).ok_or(TokenError::WrongPin)?;
    Keyring::from_bytes(&content).ok_or_else(|| damaged("what it holds is no key ring"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned())
    }

    #[test]
    fn a_token_opens_with_its_pin_under_its_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tok");
        let ring = Keyring::fresh().unwrap();
        fs::write(&path, encode(&ring, "a", &pin("1234")).unwrap()).unwrap();
        let opened = open(&path, "a", &pin("1234")).unwrap();
        assert_eq!(*opened.to_bytes().unwrap(), *ring.to_bytes().unwrap());
        for (name, guess) in [("a", "1235"), ("a", ""), ("b", "1234")] {
            assert_eq!(
                open(&path, name, &pin(guess)).unwrap_err(),
                TokenError::WrongPin
            );
        }
    }

    #[test]
    fn damage_anywhere_is_damage_and_no_wrong_pin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tok");
        let whole = encode(&Keyring::fresh().unwrap(), "a", &pin("1234")).unwrap();
        // The last byte is the newline that nothing depends on.
        for at in (0..whole.len() - 1).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let refused = open(&path, "a", &pin("1234"));
            assert!(
                matches!(refused, Err(TokenError::Unusable { .. })),
                "byte {at}"
            );
            fs::write(&path, &whole[..at]).unwrap();
            let refused = open(&path, "a", &pin("1234"));
            assert!(
                matches!(refused, Err(TokenError::Unusable { .. })),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_token_that_would_take_the_machines_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tok");
        let mut file = File {
            version: VERSION,
            argon2id: Cost {
                memory_kib: u32::MAX,
                ..COST
            },
            salt: [0; SALT_LENGTH],
            sealed: vec![0; 60],
            checksum: Vec::new(),
        };
        file.checksum = file.digest().unwrap();
        fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        let refused = open(&path, "a", &pin("1234"));
        assert!(matches!(refused, Err(TokenError::Unusable { .. })));
    }
}
