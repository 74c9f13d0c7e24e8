//! The superblock in front of a dm-verity hash tree, as `veritysetup format` writes it.
//!
//! It is read from storage that anyone may have written, before anything was verified: everything in it
//! is checked, and only what the CML's own tools make is accepted.

use std::fmt;

/// Bytes at the start of the hash device that hold the superblock.
pub const SIZE: usize = 512;
/// The only block size in use, of the data as of the tree: the page size.
const BLOCK: u32 = 4096;

/// What of the superblock a table is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// How digests are laid out in the tree.
    pub hash_type: u32,
    /// A name of this tree.
    pub uuid: [u8; 16],
    /// What digests are made with.
    pub algorithm: Algorithm,
    /// Bytes of a block of data.
    pub data_block_size: u32,
    /// Bytes of a block of the tree.
    pub hash_block_size: u32,
    /// Blocks of data.
    pub data_blocks: u64,
    /// What every digest begins with.
    pub salt: Vec<u8>,
}

/// What digests are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Bytes of a digest.
    pub fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// As the kernel writes it.
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        })
    }
}

/// Why a hash device is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Fewer bytes than a superblock.
    #[error("the hash image ends within its superblock")]
    Short,
    /// Something else.
    #[error("this is no hash image of dm-verity")]
    Signature,
    /// Another format.
    #[error("version {0} of the hash image is not known, only 1")]
    Version(u32),
    /// Another layout of the tree.
    #[error("hash type {0} of the hash image is not known, only 1")]
    HashType(u32),
    /// A weak or unknown hash.
    #[error("hash algorithm {0:?} of the hash image is not accepted, only sha256 and sha512")]
    Algorithm(String),
    /// Another block size.
    #[error("blocks of {data} bytes hashed in blocks of {hash} bytes are not accepted, only 4096")]
    BlockSize {
        /// Bytes of a block of data.
        data: u32,
        /// Bytes of a block of the tree.
        hash: u32,
    },
    /// More salt than the superblock has room for.
    #[error("a salt of {0} bytes is not accepted, at most 256")]
    Salt(u16),
    /// A part of the image would be missing, or not verified.
    #[error("the hash image covers {blocks} blocks of 4096 bytes, but the image has {size} bytes")]
    DataSize {
        /// What the superblock says.
        blocks: u64,
        /// What there is.
        size: u64,
    },
}

impl Superblock {
    /// Reads the start of a hash device whose data device has `data_size` bytes.
    ///
    /// The tree must cover the data to its last byte: images are padded to whole blocks when they are
    /// built, and what lies behind the last hashed block would be readable without being verified by
    /// whoever opens the file itself.
    ///
    /// # Errors
    /// The first thing that is not as it has to be.
    pub fn parse(bytes: &[u8], data_size: u64) -> Result<Self, Refused> {
        let mut fields = Fields(bytes.get(..SIZE).ok_or(Refused::Short)?);
        if fields.take() != *b"verity\0\0" {
            return Err(Refused::Signature);
        }
        let version = u32::from_le_bytes(fields.take());
        if version != 1 {
            return Err(Refused::Version(version));
        }
        let hash_type = u32::from_le_bytes(fields.take());
        if hash_type != 1 {
            return Err(Refused::HashType(hash_type));
        }
        let uuid = fields.take();
        let algorithm = algorithm(&fields.take::<32>())?;
        let data_block_size = u32::from_le_bytes(fields.take());
        let hash_block_size = u32::from_le_bytes(fields.take());
        if (data_block_size, hash_block_size) != (BLOCK, BLOCK) {
            return Err(Refused::BlockSize {
                data: data_block_size,
                hash: hash_block_size,
            });
        }
        let data_blocks = u64::from_le_bytes(fields.take());
        if data_blocks == 0 || data_blocks.checked_mul(u64::from(BLOCK)) != Some(data_size) {
            return Err(Refused::DataSize {
                blocks: data_blocks,
                size: data_size,
            });
        }
        let salt_size = u16::from_le_bytes(fields.take());
        let _padding: [u8; 6] = fields.take();
        let salt = fields
            .take::<256>()
            .get(..usize::from(salt_size))
            .ok_or(Refused::Salt(salt_size))?
            .to_vec();
        Ok(Self {
            hash_type,
            uuid,
            algorithm,
            data_block_size,
            hash_block_size,
            data_blocks,
            salt,
        })
    }
}

fn algorithm(name: &[u8; 32]) -> Result<Algorithm, Refused> {
    let text = match name.iter().position(|byte| *byte == 0) {
        Some(end) if name[end..].iter().all(|byte| *byte == 0) => &name[..end],
        _ => &name[..],
    };
    match text {
        b"sha256" => Ok(Algorithm::Sha256),
        b"sha512" => Ok(Algorithm::Sha512),
        other => Err(Refused::Algorithm(
            String::from_utf8_lossy(other).into_owned(),
        )),
    }
}

/// The rest of the superblock. Whatever is taken from behind its end is zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        field[..head.len()].copy_from_slice(head);
        self.0 = rest;
        field
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const DATA: u64 = 16 * 4096;

    fn valid() -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(b"verity\0\0");
        bytes[8] = 1;
        bytes[12] = 1;
        bytes[16..32].fill(0x17);
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[64..68].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[68..72].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&16_u64.to_le_bytes());
        bytes[80] = 3;
        bytes[88..91].copy_from_slice(&[7, 8, 9]);
        bytes
    }

    fn changed(at: usize, new: &[u8]) -> Result<Superblock, Refused> {
        let mut bytes = valid();
        bytes[at..at + new.len()].copy_from_slice(new);
        Superblock::parse(&bytes, DATA)
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        assert_eq!(
            Superblock::parse(&valid(), DATA),
            Ok(Superblock {
                hash_type: 1,
                uuid: [0x17; 16],
                algorithm: Algorithm::Sha256,
                data_block_size: 4096,
                hash_block_size: 4096,
                data_blocks: 16,
                salt: vec![7, 8, 9],
            })
        );
        assert_eq!(changed(32, b"sha512").unwrap().algorithm, Algorithm::Sha512);
        assert_eq!(changed(80, &[0, 1]).unwrap().salt.len(), 256);
        assert!(changed(80, &[0, 0]).unwrap().salt.is_empty());
    }

    #[test]
    fn what_our_tools_do_not_make_is_refused() {
        assert_eq!(
            Superblock::parse(&valid()[..511], DATA),
            Err(Refused::Short)
        );
        assert_eq!(changed(0, b"V"), Err(Refused::Signature));
        assert_eq!(changed(7, b"1"), Err(Refused::Signature));
        assert_eq!(changed(8, &[2]), Err(Refused::Version(2)));
        assert_eq!(changed(12, &[0]), Err(Refused::HashType(0)));
        assert_eq!(changed(80, &[1, 1]), Err(Refused::Salt(257)));
        for name in [
            &b"sha1\0\0"[..],
            b"md5\0\0\0",
            b"sha256 -",
            b"sha256\0x",
            b"SHA256",
        ] {
            assert!(
                matches!(changed(32, name), Err(Refused::Algorithm(_))),
                "{name:?}"
            );
        }
        for at in [64, 68] {
            assert!(matches!(
                changed(at, &512_u32.to_le_bytes()),
                Err(Refused::BlockSize { .. })
            ));
        }
    }

    #[test]
    fn the_tree_covers_exactly_the_data() {
        for blocks in [0, 15, 17, u64::MAX, 1 << 52] {
            assert_eq!(
                changed(72, &blocks.to_le_bytes()),
                Err(Refused::DataSize { blocks, size: DATA })
            );
        }
        for size in [0, DATA - 1, DATA + 1, DATA + 4096] {
            assert!(Superblock::parse(&valid(), size).is_err(), "{size}");
        }
        let mut empty = valid();
        empty[72..80].fill(0);
        assert!(Superblock::parse(&empty, 0).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1024), size: u64) {
            let _ = Superblock::parse(&bytes, size);
        }

        #[test]
        fn no_damage_makes_it_panic_or_covers_other_data(
            damage in proptest::collection::vec((0..SIZE, any::<u8>()), 0..8),
        ) {
            let mut bytes = valid();
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            if let Ok(block) = Superblock::parse(&bytes, DATA) {
                prop_assert_eq!(block.data_blocks, 16);
                prop_assert!(block.salt.len() <= 256);
            }
        }
    }
}
