//! The rule about free space: new volumes leave a part of the disk free (runtime.md 3.1).

use std::path::Path;

use cml_sys::{
    file,
    space::{self, Space},
};

use super::spec::{Content, Volume};

/// Bytes that a new volume takes. An encrypted one needs a tenth more for its checksums.
pub fn need(volume: &Volume) -> u64 {
    match &volume.content {
        Content::Encrypted { mib } => mib.saturating_mul(1 << 20).saturating_mul(11) / 10,
        Content::Copy { bytes, .. } => *bytes,
        Content::Device { device, .. } => size_of_device(device),
    }
}

/// A device that is not there needs nothing yet; the start will say so.
fn size_of_device(device: &Path) -> u64 {
    use std::io::{Seek, SeekFrom};
    let device = file::open_block_device(device).ok();
    let end = device.and_then(|mut device| device.seek(SeekFrom::End(0)).ok());
    end.unwrap_or(0)
}

/// Whether the volumes fit into a directory's file system and leave `reserve` percent of it free.
pub fn check(directory: &Path, bytes: u64, reserve: u32) -> Result<(), String> {
    if bytes == 0 {
        return Ok(());
    }
    let space = space::of(directory).map_err(|error| error.to_string())?;
    match fits(space, bytes, reserve) {
        true => Ok(()),
        false => Err(format!(
            "its volumes need {} MiB, but only {} MiB are free and {reserve} % of {} MiB must stay \
             free; make room or choose smaller `image_sizes`",
            bytes >> 20,
            space.free >> 20,
            space.total >> 20,
        )),
    }
}

fn fits(space: Space, bytes: u64, reserve: u32) -> bool {
    let kept = u128::from(space.total) * u128::from(reserve) / 100;
    u128::from(space.free) >= u128::from(bytes) + kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_disk_stays_free() {
        let space = Space {
            total: 1000,
            free: 500,
        };
        assert!(fits(space, 300, 20));
        assert!(!fits(space, 301, 20));
        assert!(fits(space, 500, 0));
        assert!(!fits(space, u64::MAX, 0));
    }

    #[test]
    fn sizes_are_mib_and_checksums_are_counted() {
        let volume = |content| Volume {
            name: "x".into(),
            fs_type: "ext4".into(),
            options: String::new(),
            content,
        };
        let encrypted = |mib| need(&volume(Content::Encrypted { mib }));
        assert_eq!(encrypted(10), 11 << 20);
        assert!(encrypted(u64::MAX) > 1 << 60);
        let bytes = 5000;
        let image = "i".into();
        assert_eq!(need(&volume(Content::Copy { image, bytes })), bytes);
    }
}
