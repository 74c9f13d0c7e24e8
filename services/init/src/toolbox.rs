//! The usual tools for a root that has none: setup mode without images of its own (runtime.md 3.6).

use std::{
    path::Path,
    process::{Command, Stdio},
};

use cml_sys::error::{Context, Error, Result};

/// Where busybox puts the links to itself.
const DIRECTORIES: &[&str] = &[
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/etc",
    "/root",
    "/tmp",
];

/// Has a busybox link all its tools to itself.
pub(crate) fn install(busybox: &Path) -> Result<()> {
    for directory in DIRECTORIES {
        std::fs::create_dir_all(directory).context("make", directory)?;
    }
    let output = Command::new(busybox)
        .args(["--install", "-s"])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .context("run", busybox.display())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::failed(
            format!("run `{}`", busybox.display()),
            String::from_utf8_lossy(&output.stderr).trim(),
        )),
    }
}
