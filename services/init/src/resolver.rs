//! Where the guest's programs find their name server, whether or not the guest has a program that asks the daemon
//! (runtime.md 1.5, docs/adr/0030-network.md).

use std::{fs::File, io::Write, net::IpAddr, os::fd::OwnedFd, path::Path};

use cml_sys::{
    error::{Context, Result},
    mount, path,
};
use rustix::fs::OFlags;

const FILE: &str = "/etc/resolv.conf";
/// What stands in for it where the root cannot be written.
const SUBSTITUTE: &str = "/run/resolv.conf";

/// Writes the name server down. A root that leaves no place for it runs without: its guest may know better, as one whose
/// file is a symbolic link does.
pub(crate) fn configure(root: &OwnedFd, server: IpAddr) {
    let text = format!("nameserver {server}\n");
    if let Err(error) = write(root, FILE, &text)
        && error.errno() == Some(libc::EROFS)
    {
        let _ = cover(root, &text);
    }
}

fn write(root: &OwnedFd, file: &str, text: &str) -> Result<()> {
    let found = path::open_in_root(root, Path::new(file), OFlags::PATH | OFlags::NOFOLLOW);
    if found.is_err_and(|error| error.errno() == Some(libc::ENOENT)) {
        path::make_file_in_root(root, Path::new(file))?;
    }
    // O_NONBLOCK: nobody would read the other end of a FIFO.
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = path::open_in_root(root, Path::new(file), flags)?;
    File::from(opened)
        .write_all(text.as_bytes())
        .context("write", file)
}

fn cover(root: &OwnedFd, text: &str) -> Result<()> {
    let target = path::open_in_root(root, Path::new(FILE), OFlags::PATH | OFlags::NOFOLLOW)?;
    write(root, SUBSTITUTE, text)?;
    let substitute = path::open_in_root(root, Path::new(SUBSTITUTE), OFlags::PATH)?;
    mount::attach(mount::copy_tree(&substitute)?, target)
}
