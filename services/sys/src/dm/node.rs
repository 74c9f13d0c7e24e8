//! Nodes: of the device mapper itself, and of its devices where devtmpfs does not make them.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, makedev, minor, mknodat};

use crate::{
    error::{Context, Error, Result},
    file,
};

const DIRECTORY: &str = "/dev/mapper";
const CONTROL: &str = "/dev/mapper/control";
/// The major number of all "misc" devices.
const MISC: u32 = 10;

/// Opens the device mapper, and makes its node if nobody else does.
///
/// # Errors
/// The kernel has no device mapper, or refused.
pub(super) fn open_control() -> Result<File> {
    let open = || File::options().read(true).write(true).open(CONTROL);
    match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other.context("open", CONTROL),
    }
    let misc = fs::read_to_string("/proc/misc").context("read", "/proc/misc")?;
    let number = control_number(&misc).ok_or_else(|| {
        Error::invalid(
            "open",
            CONTROL,
            "the kernel has no device mapper (CONFIG_BLK_DEV_DM)",
        )
    })?;
    make(
        Path::new(CONTROL),
        FileType::CharacterDevice,
        makedev(MISC, number),
    )?;
    open().context("open", CONTROL)
}

/// The minor number of the device mapper in `/proc/misc`.
fn control_number(misc: &str) -> Option<u32> {
    misc.lines().find_map(|line| {
        let (number, name) = line.trim_start().split_once(' ')?;
        (name == "device-mapper").then(|| number.parse().ok())?
    })
}

/// The node of a device: the kernel's, or one that is made here.
///
/// # Errors
/// It cannot be made.
pub(super) fn provide(name: &str, number: u64) -> Result<PathBuf> {
    let kernels = PathBuf::from(format!("/dev/dm-{}", minor(number)));
    if is_node_of(&kernels, number) {
        return Ok(kernels);
    }
    let ours = Path::new(DIRECTORY).join(name);
    if !is_node_of(&ours, number) {
        // What is there belonged to a device that is gone, for names are unique.
        match fs::remove_file(&ours) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("remove stale", ours.display());
            }
            _ => make(&ours, FileType::BlockDevice, number)?,
        }
    }
    Ok(ours)
}

/// Takes the node of a removed device away. One that udev made is a link, and udev's business.
///
/// # Errors
/// It cannot be removed.
pub(super) fn withdraw(name: &str, number: u64) -> Result<()> {
    let ours = Path::new(DIRECTORY).join(name);
    if !is_node_of(&ours, number) {
        return Ok(());
    }
    match fs::remove_file(&ours) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("remove", ours.display())
        }
        _ => Ok(()),
    }
}

fn is_node_of(path: &Path, number: u64) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == number)
}

fn make(path: &Path, kind: FileType, number: u64) -> Result<()> {
    file::make_dir(Path::new(DIRECTORY), 0o755)?;
    match mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, number) {
        // Someone else was faster with the node of the device mapper.
        Err(rustix::io::Errno::EXIST) if kind == FileType::CharacterDevice => Ok(()),
        other => other.context("make node", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_mapper_is_found_among_the_misc_devices() {
        let misc = "121 vboxuser\n236 device-mapper\n 59 ecryptfs\n";
        assert_eq!(control_number(misc), Some(236));
        assert_eq!(control_number(" 58 device-mapper\n"), Some(58));
        assert_eq!(
            control_number("236 device-mapper2\n237 loop-control\n"),
            None
        );
        assert_eq!(control_number(""), None);
    }
}
