//! New file systems, made by the programs that belong to them.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::error::{Context, Error, Result};

/// Directories of system programs, which a daemon's own `PATH` need not have.
const PROGRAMS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Makes an empty file system on a block device or in a file. Only ext4 and btrfs (runtime.md 3.2).
///
/// # Errors
/// The program is missing or failed; its own words are in the error.
pub fn make(fs_type: &str, device: &Path, options: &[&str]) -> Result<()> {
    let fixed: &[&str] = match fs_type {
        // Nobody but the guest writes here: no blocks are reserved for a root of the host.
        "ext4" => &["-q", "-F", "-m", "0"],
        "btrfs" => &["-q", "-f"],
        _ => {
            return Err(Error::invalid(
                "make a file system of type",
                fs_type,
                "only ext4 and btrfs can be made",
            ));
        }
    };
    let program = format!("mkfs.{fs_type}");
    let output = Command::new(&program)
        .env_clear()
        .env("PATH", PROGRAMS)
        .args(fixed)
        .args(options)
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .context("run", format_args!("{program} (is its package installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(
        format!("make {fs_type} on `{}`", device.display()),
        said.trim(),
    ))
}
