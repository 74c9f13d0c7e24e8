//! Tables: what a device does, as the kernel wants to read it (crypto.md 5.1 and 5.4).
//!
//! The words are part of the on-disk format: another tag size or hash does not open the volumes that exist.

use std::{fmt, path::Path};

use zeroize::Zeroizing;

use super::verity::Superblock;
use crate::error::{Error, Result};

/// Bytes of an HMAC-SHA256 key.
pub const MAC_KEY: usize = 32;
/// Bytes of an AES-256-XTS key.
pub const CRYPT_KEY: usize = 64;
/// Bytes of both, in the order encryption, authentication.
pub const AUTHENC_KEY: usize = CRYPT_KEY + MAC_KEY;

/// How sectors get to the disk. It is no part of what lies there: a volume opens with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// A sector and its tag change together, whatever happens: how volumes are used (crypto.md 5.1).
    On,
    /// Sectors are written once instead of twice, and nothing is flushed in between. What is interrupted leaves sectors that
    /// cannot be read: only for a volume that holds nothing yet.
    Off,
}

impl Journal {
    /// The words before the number of options: where the data begin, the size of a tag, the mode.
    fn words(self) -> Part<'static> {
        match self {
            Self::On => Part::Text(" 0 32 J "),
            Self::Off => Part::Text(" 0 32 D "),
        }
    }
}

/// The one target of a device.
pub struct Target {
    kind: &'static str,
    parameters: Zeroizing<String>,
}

impl Target {
    /// Integrity that computes its own tags (INTEGRITY_ENCRYPT, INTEGRITY_ONLY): a sector that was not
    /// written with this key is an I/O error.
    ///
    /// # Errors
    /// The key is not [`MAC_KEY`] bytes, or a path cannot stand in a table.
    pub fn integrity(data: &Path, meta: &Path, key: &[u8], journal: Journal) -> Result<Self> {
        Self::new(
            "integrity",
            &[
                Part::Text(device(data)?),
                journal.words(),
                Part::Text("3 meta_device:"),
                Part::Text(device(meta)?),
                Part::Text(" internal_hash:hmac(sha256):"),
                Part::Hex(sized(key, MAC_KEY, "the integrity key must have 32 bytes")?),
                Part::Text(" allow_discards"),
            ],
        )
    }

    /// Room for the tags of [`Target::crypt_authenticated`] above it (AUTHENC).
    ///
    /// # Errors
    /// A path cannot stand in a table.
    pub fn integrity_for_crypt(data: &Path, meta: &Path, journal: Journal) -> Result<Self> {
        Self::new(
            "integrity",
            &[
                Part::Text(device(data)?),
                journal.words(),
                Part::Text("1 meta_device:"),
                Part::Text(device(meta)?),
            ],
        )
    }

    /// Encryption alone, on an integrity device (INTEGRITY_ENCRYPT) or on a plain one (ENCRYPT_ONLY).
    ///
    /// # Errors
    /// The key is not [`CRYPT_KEY`] bytes, or the path cannot stand in a table.
    pub fn crypt(below: &Path, key: &[u8]) -> Result<Self> {
        Self::new(
            "crypt",
            &[
                Part::Text("aes-xts-plain64 "),
                Part::Hex(sized(
                    key,
                    CRYPT_KEY,
                    "the encryption key must have 64 bytes",
                )?),
                Part::Text(" 0 "),
                Part::Text(device(below)?),
                Part::Text(" 0 1 allow_discards"),
            ],
        )
    }

    /// Encryption that authenticates every sector, on [`Target::integrity_for_crypt`] (AUTHENC).
    ///
    /// # Errors
    /// The key is not [`AUTHENC_KEY`] bytes, or the path cannot stand in a table.
    pub fn crypt_authenticated(below: &Path, key: &[u8]) -> Result<Self> {
        Self::new(
            "crypt",
            &[
                Part::Text("capi:authenc(hmac(sha256),xts(aes))-random "),
                Part::Hex(sized(key, AUTHENC_KEY, "the key must have 96 bytes")?),
                Part::Text(" 0 "),
                Part::Text(device(below)?),
                Part::Text(" 0 1 integrity:32:aead"),
            ],
        )
    }

    /// Verified reading of `data` against the tree on `hash` whose root is known.
    ///
    /// # Errors
    /// The root hash has not the length that the algorithm makes, or a path cannot stand in a table.
    pub fn verity(block: &Superblock, data: &Path, hash: &Path, root: &[u8]) -> Result<Self> {
        let root = sized(
            root,
            block.algorithm.bytes(),
            "the root hash has not the length that the superblock's algorithm makes",
        )?;
        let sizes = format!(
            " {} {} {} 1 {} ",
            block.data_block_size, block.hash_block_size, block.data_blocks, block.algorithm,
        );
        Self::new(
            "verity",
            &[
                // The kernel's version of the table is the superblock's type of the hash tree.
                Part::Text(&format!("{} ", block.hash_type)),
                Part::Text(device(data)?),
                Part::Text(" "),
                Part::Text(device(hash)?),
                Part::Text(&sizes),
                Part::Hex(root),
                Part::Text(if block.salt.is_empty() { " -" } else { " " }),
                Part::Hex(&block.salt),
            ],
        )
    }

    /// The kernel's name for the type of target.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What follows the type in the table. Holds keys.
    pub fn parameters(&self) -> &str {
        &self.parameters
    }

    /// The whole text is measured before it is written: a buffer that grows leaves copies behind.
    fn new(kind: &'static str, parts: &[Part<'_>]) -> Result<Self> {
        let length = parts.iter().map(Part::length).sum();
        let mut parameters = Zeroizing::new(String::with_capacity(length));
        for part in parts {
            part.append(&mut parameters);
        }
        Ok(Self { kind, parameters })
    }
}

/// Without the parameters: they hold keys, and what is printed ends up in a log.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

enum Part<'a> {
    Text(&'a str),
    Hex(&'a [u8]),
}

impl Part<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Hex(bytes) => bytes.len() * 2,
        }
    }

    fn append(&self, out: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Hex(bytes) => out.extend(
                bytes
                    .iter()
                    .flat_map(|byte| [byte >> 4, byte & 15])
                    .map(|digit| char::from(DIGITS[usize::from(digit)])),
            ),
        }
    }
}

fn sized<'a>(bytes: &'a [u8], length: usize, why: &str) -> Result<&'a [u8]> {
    match bytes.len() == length {
        true => Ok(bytes),
        false => Err(Error::invalid("write", "device-mapper table", why)),
    }
}

/// The kernel splits tables at white space and takes a backslash for an escape.
fn device(path: &Path) -> Result<&str> {
    path.to_str()
        .filter(|text| text.starts_with('/'))
        .filter(|text| !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\'))
        .ok_or_else(|| {
            Error::invalid(
                "write into a device-mapper table",
                path.display(),
                "only an absolute path without white space and backslashes can stand there",
            )
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dm::verity::Algorithm;

    const KEY: [u8; 96] = {
        let mut key = [0; 96];
        let mut at = 0;
        while at < 96 {
            key[at] = at as u8;
            at += 1;
        }
        key
    };
    const CRYPT_HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
        202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    const MAC_HEX: &str = "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f";

    fn at(path: &str) -> &Path {
        Path::new(path)
    }

    #[test]
    fn integrity_with_a_key_is_written_as_existing_volumes_have_it() {
        let table = |journal| {
            let (data, meta) = (at("/dev/loop0"), at("/dev/loop1"));
            let target = Target::integrity(data, meta, &KEY[64..], journal).unwrap();
            assert_eq!(target.kind(), "integrity");
            target.parameters().to_owned()
        };
        let existing = format!(
            "/dev/loop0 0 32 J 3 meta_device:/dev/loop1 internal_hash:hmac(sha256):{MAC_HEX} \
             allow_discards"
        );
        assert_eq!(table(Journal::On), existing);
        assert_eq!(table(Journal::Off), existing.replace(" J ", " D "));
    }

    #[test]
    fn integrity_below_authenticated_encryption_has_no_key() {
        let (data, meta) = (at("/dev/loop0"), at("/dev/loop1"));
        let target = Target::integrity_for_crypt(data, meta, Journal::On).unwrap();
        assert_eq!(target.kind(), "integrity");
        assert_eq!(
            target.parameters(),
            "/dev/loop0 0 32 J 1 meta_device:/dev/loop1"
        );
    }

    #[test]
    fn encryption_is_written_as_existing_volumes_have_it() {
        let target = Target::crypt(at("/dev/dm-0"), &KEY[..64]).unwrap();
        assert_eq!(target.kind(), "crypt");
        assert_eq!(
            target.parameters(),
            format!("aes-xts-plain64 {CRYPT_HEX} 0 /dev/dm-0 0 1 allow_discards")
        );
    }

    #[test]
    fn authenticated_encryption_is_written_as_existing_volumes_have_it() {
        let target = Target::crypt_authenticated(at("/dev/dm-0"), &KEY).unwrap();
        assert_eq!(target.kind(), "crypt");
        assert_eq!(
            target.parameters(),
            format!(
                "capi:authenc(hmac(sha256),xts(aes))-random {CRYPT_HEX}{MAC_HEX} 0 /dev/dm-0 0 1 \
                 integrity:32:aead"
            )
        );
    }

    fn superblock(salt: &[u8]) -> Superblock {
        Superblock {
            hash_type: 1,
            uuid: [0; 16],
            algorithm: Algorithm::Sha256,
            data_block_size: 4096,
            hash_block_size: 4096,
            data_blocks: 16,
            salt: salt.to_vec(),
        }
    }

    #[test]
    fn verity_is_written_with_its_salt_or_a_dash() {
        let verity = |salt: &[u8]| {
            Target::verity(
                &superblock(salt),
                at("/dev/loop0"),
                at("/dev/loop1"),
                &KEY[64..],
            )
            .unwrap()
        };
        let target = verity(&[0xab, 0x01]);
        assert_eq!(target.kind(), "verity");
        let table = format!("1 /dev/loop0 /dev/loop1 4096 4096 16 1 sha256 {MAC_HEX}");
        assert_eq!(target.parameters(), format!("{table} ab01"));
        assert_eq!(verity(&[]).parameters(), format!("{table} -"));
    }

    #[test]
    fn keys_and_hashes_of_other_lengths_are_refused() {
        let (a, b) = (at("/dev/a"), at("/dev/b"));
        assert!(Target::integrity(a, b, &KEY[..31], Journal::On).is_err());
        assert!(Target::crypt(a, &KEY[..32]).is_err());
        assert!(Target::crypt_authenticated(a, &KEY[..64]).is_err());
        assert!(Target::verity(&superblock(&[]), a, b, &KEY[..64]).is_err());
    }

    #[test]
    fn a_path_cannot_add_words_to_a_table() {
        for bad in ["/dev/a b", "/dev/a\tb", "/dev/a\\ b", "/dev/a\nb", "a", ""] {
            assert!(Target::crypt(at(bad), &KEY[..64]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_neither_printed_nor_copied_while_the_table_grows() {
        let target = Target::crypt_authenticated(at("/dev/dm-0"), &KEY).unwrap();
        assert!(!format!("{target:?}").contains("0001"));
        assert_eq!(target.parameters.capacity(), target.parameters.len());
    }
}
