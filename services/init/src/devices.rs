//! `/dev` of the container: a tmpfs with the host's harmless nodes and the customary links.

use std::{os::fd::OwnedFd, path::Path};

use cml_sys::{
    error::{Context, Result},
    mount::{self, Restrict},
    path,
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

/// Mounts `/dev`. The nodes are bound from the host: a user namespace cannot make nodes that work.
pub(crate) fn mount(root: &OwnedFd, nodes: &[String]) -> Result<()> {
    let target = path::make_dir_in_root(root, Path::new("/dev"), Mode::from_raw_mode(0o755))?;
    let tree = mount::create(
        "tmpfs",
        &[("mode", "0755"), ("size", "256k")],
        // Only the nodes that are bound below are devices: each is a mount with flags of its own.
        Restrict {
            no_dev: true,
            no_suid: true,
            no_exec: true,
            ..Restrict::default()
        },
    )?;
    mount::attach(&tree, target)?;
    for node in nodes {
        let source = mount::copy_path(&Path::new("/dev").join(node))?;
        let target = path::make_file_in_root(root, &Path::new("/dev").join(node))?;
        mount::attach(source, target)?;
    }
    let dev = path::make_dir_in_root(root, Path::new("/dev"), Mode::from_raw_mode(0o755))?;
    for (target, link) in LINKS {
        symlinkat(*target, &dev, *link).context("link", link)?;
    }
    Ok(())
}
