//! `/dev` of the container: the nodes that the daemon has made for it, the customary links, and the pipes from
//! the host.

use std::{os::fd::OwnedFd, path::Path};

use cml_sys::{
    error::{Context, Error, Result},
    mount, path,
    plan::Fifo,
};
use rustix::fs::{Mode, symlinkat};

/// Links that programs expect in every `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Mounts `/dev`. Its nodes come from outside: a user namespace cannot make nodes that work.
pub(crate) fn mount(root: &OwnedFd, dev: OwnedFd) -> Result<()> {
    let target = path::make_dir_in_root(root, Path::new("/dev"), Mode::from_raw_mode(0o755))?;
    mount::attach(dev, target)?;
    let dev = path::make_dir_in_root(root, Path::new("/dev"), Mode::from_raw_mode(0o755))?;
    for (target, link) in LINKS {
        symlinkat(*target, &dev, *link).context("link", link)?;
    }
    Ok(())
}

/// Shows the pipes from the host (runtime.md 6.1).
pub(crate) fn fifos(root: &OwnedFd, fifos: &[Fifo], trees: &[OwnedFd]) -> Result<()> {
    for fifo in fifos {
        let tree = trees
            .get(fifo.tree)
            .ok_or_else(|| Error::invalid("find", &fifo.name, "the pipe did not come along"))?;
        let target = Path::new("/dev/fifos").join(&fifo.name);
        mount::attach(tree, path::make_file_in_root(root, &target)?)?;
    }
    Ok(())
}
