//! New file systems, made by the programs that belong to them.

use std::{
    ffi::OsStr,
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
    let device = device.as_os_str();
    let words = fixed.iter().chain(options).map(OsStr::new);
    run(&format!("mkfs.{fs_type}"), words.chain([device]))
}

/// Makes a subvolume in a mounted btrfs.
///
/// # Errors
/// As [`make`].
pub fn make_subvolume(path: &Path) -> Result<()> {
    let words = ["subvolume", "create"].map(OsStr::new);
    run("btrfs", words.into_iter().chain([path.as_os_str()]))
}

/// Gives a btrfs that is a copy of another one an identity of its own: the kernel takes two with the same
/// for one.
///
/// # Errors
/// As [`make`].
pub fn renew_identity(image: &Path) -> Result<()> {
    run(
        "btrfstune",
        ["-f", "-u"]
            .map(OsStr::new)
            .into_iter()
            .chain([image.as_os_str()]),
    )
}

fn run<'a>(program: &str, words: impl Iterator<Item = &'a OsStr>) -> Result<()> {
    let words: Vec<_> = words.collect();
    let output = Command::new(program)
        .env_clear()
        .env("PATH", PROGRAMS)
        .args(&words)
        .stdin(Stdio::null())
        .output()
        .context("run", format_args!("{program} (is its package installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let on = words
        .last()
        .unwrap_or(&OsStr::new(""))
        .display()
        .to_string();
    Err(Error::failed(
        format!("run {program} on `{on}`"),
        said.trim(),
    ))
}
