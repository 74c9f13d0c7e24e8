//! What a file must be for its bytes to count: its size and its hash (protocol.md 6.7).

use cml_wire::proto::GuestOsMount;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What the signed configuration says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// Exactly so many bytes.
    pub size: u64,
    hash: Expected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Sha256(Vec<u8>),
    Sha1(Vec<u8>),
}

impl Promise {
    /// What this mount says of its image. SHA-256 is what counts; SHA-1 alone vouches for nothing unless the
    /// device says so (runtime.md 9, number 54).
    pub fn of(mount: &GuestOsMount, allow_sha1: bool) -> Result<Self, String> {
        let decoded = |text: &str, length| {
            let hash = hex::decode(text).unwrap_or_default();
            (hash.len() == length).then_some(hash)
        };
        let sha256 = decoded(mount.image_sha2_256(), Sha256::output_size()).map(Expected::Sha256);
        let sha1 = || decoded(mount.image_sha1(), Sha1::output_size()).map(Expected::Sha1);
        // One that is there and is no hash is a mistake of the configuration, not a reason for the weaker one.
        let hash = match (sha256, mount.image_sha2_256()) {
            (None, "") if allow_sha1 => sha1(),
            (found, _) => found,
        };
        Ok(Self {
            size: mount.image_size(),
            hash: hash.ok_or("the configuration has no image_sha2_256 for it")?,
        })
    }

    /// A hash to be fed with the bytes.
    pub fn hasher(&self) -> Hasher {
        match self.hash {
            Expected::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Expected::Sha1(_) => Hasher::Sha1(Sha1::new()),
        }
    }

    /// Whether the bytes that were hashed are the promised ones.
    pub fn kept(&self, hasher: Hasher) -> Result<(), &'static str> {
        match (&self.hash, hasher) {
            (Expected::Sha256(wanted), Hasher::Sha256(hash)) => {
                match hash.finalize().as_slice() == wanted {
                    true => Ok(()),
                    false => Err("its SHA-256 is not the one of the configuration"),
                }
            }
            (Expected::Sha1(wanted), Hasher::Sha1(hash)) => {
                match hash.finalize().as_slice() == wanted {
                    true => Ok(()),
                    false => Err("its SHA-1 is not the one of the configuration"),
                }
            }
            _ => Err("it was hashed in another way"),
        }
    }
}

/// A hash that is being computed.
#[derive(Clone)]
pub enum Hasher {
    Sha256(Sha256),
    Sha1(Sha1),
}

impl Hasher {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "Sha256",
            Self::Sha1(_) => "Sha1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of FIPS 180-4 for "abc".
    const SHA256: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
    const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn verdict(sha256: Option<&str>, sha1: Option<&str>, allow_sha1: bool) -> Result<(), String> {
        let mount = GuestOsMount {
            image_size: Some(3),
            image_sha2_256: sha256.map(Into::into),
            image_sha1: sha1.map(Into::into),
            ..Default::default()
        };
        let promise = Promise::of(&mount, allow_sha1)?;
        let mut hasher = promise.hasher();
        hasher.update(b"a");
        hasher.update(b"bc");
        Ok(promise.kept(hasher)?)
    }

    #[test]
    fn sha256_counts_in_either_case_and_a_missing_sha1_is_fine() {
        assert_eq!(verdict(Some(SHA256), None, false), Ok(()));
        assert_eq!(verdict(Some(&SHA256.to_lowercase()), None, true), Ok(()));
        // It does not matter what SHA-1 says.
        assert_eq!(verdict(Some(SHA256), Some("00"), false), Ok(()));
        let other = "00".repeat(32);
        assert!(verdict(Some(&other), Some(SHA1), true).is_err());
    }

    #[test]
    fn sha1_alone_counts_only_where_the_device_says_so() {
        assert!(verdict(None, Some(SHA1), false).is_err());
        assert_eq!(verdict(None, Some(SHA1), true), Ok(()));
        assert_eq!(verdict(Some(""), Some(SHA1), true), Ok(()));
        assert!(verdict(None, Some(&"00".repeat(20)), true).is_err());
        for broken in ["zz", "00"] {
            assert!(verdict(Some(broken), Some(SHA1), true).is_err());
        }
        assert!(verdict(None, None, true).is_err());
    }
}
