//! The superblock of dm-integrity: whether a volume was ever formatted, and for how many sectors.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::error::{Context, Result};

/// Bytes at the start of the meta device that tell it.
pub const SIZE: usize = 512;

/// The sectors that a formatted meta device provides tags for, or `None` if it is not formatted.
///
/// The kernel formats a meta device of zeros by itself when the first table is loaded, and adapts the
/// number when a later table is longer. Neither gives the sectors valid tags: whoever was interrupted
/// while writing every sector for the first time finds a formatted device that cannot be read.
pub fn sectors(superblock: &[u8]) -> Option<u64> {
    let superblock = superblock.get(..SIZE)?;
    if !superblock.starts_with(b"integrt\0") {
        return None;
    }
    let (count, _) = superblock.get(16..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*count))
}

/// As [`sectors`], for an open meta device or its image file. One that is too short is not formatted.
///
/// # Errors
/// It cannot be read.
pub fn read(meta: &File) -> Result<Option<u64>> {
    let mut bytes = [0; SIZE];
    match meta.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(sectors(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).context("read", "meta device"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn formatted(count: u64) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[..8].copy_from_slice(b"integrt\0");
        // Version, interleave, tag size and journal sections lie between.
        bytes[8..16].copy_from_slice(&[4, 15, 32, 0, 9, 0, 0, 0]);
        bytes[16..24].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    #[test]
    fn a_formatted_device_tells_its_sectors() {
        let file = tempfile::tempfile().unwrap();
        let mut image = formatted(20_480);
        image.resize(8192, 0xff);
        file.write_all_at(&image, 0).unwrap();
        assert_eq!(read(&file).unwrap(), Some(20_480));
        assert_eq!(sectors(&formatted(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn zeros_other_content_and_short_files_are_not_formatted() {
        assert_eq!(sectors(&[0; SIZE]), None);
        assert_eq!(sectors(&[0xff; SIZE]), None);
        assert_eq!(sectors(&formatted(8)[..SIZE - 1]), None);
        assert_eq!(sectors(b"integrt\0"), None);
        let mut other = formatted(8);
        other[7] = b'y';
        assert_eq!(sectors(&other), None);
        assert_eq!(read(&tempfile::tempfile().unwrap()).unwrap(), None);
        assert!(read(&File::open("/").unwrap()).is_err());
    }
}
