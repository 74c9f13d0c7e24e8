//! Where the emulator lives: a root with nothing in it but what it reads.
//!
//! In the daemon's mount namespace it would keep volumes and images mounted that a later daemon has to close, for as
//! long as its own container runs.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use cml_sys::{
    error::{Context, Result},
    mount::{self, Restrict},
    path,
    uevent::Crier,
};
use rustix::{
    fs::{Mode, OFlags},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// Processes, figures of groups and of the kernel, modules.
const NEEDED: &[&str] = &["/proc", "/sys", "/lib/modules"];

/// Makes somebody who speaks in the container's network, without staying there.
pub(crate) fn crier_in(network: &OwnedFd) -> Result<Crier> {
    const OURS: &str = "/proc/self/ns/net";
    let ours = rustix::fs::open(OURS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let ours = ours.context("open", OURS)?;
    let enter = |namespace: &OwnedFd| {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).context("enter", "network namespace")
    };
    enter(network)?;
    let crier = Crier::new();
    enter(&ours)?;
    crier
}

/// Leaves the daemon's mount namespace, and everything in it that is not needed.
pub(crate) fn settle() -> Result<()> {
    // SAFETY: the flag touches neither descriptors nor signal handling; there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("unshare", "mount namespace")?;
    mount::make_private()?;
    let copies = NEEDED.iter().map(Path::new).filter(|path| path.exists());
    let copies = copies.map(|path| Ok((path, mount::copy_path(path)?)));
    let copies = copies.collect::<Result<Vec<_>>>()?;
    let restrict = Restrict {
        no_dev: true,
        no_suid: true,
        no_exec: true,
        ..Restrict::default()
    };
    let root = mount::create("tmpfs", &[("size", "64k"), ("mode", "0755")], restrict)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::open("/", flags, Mode::empty()).context("open", "/")?;
    mount::attach(&root, old)?;
    for (path, copy) in copies {
        let place = path::make_dir_in_root(&root, path, Mode::from_raw_mode(0o755))?;
        mount::attach(copy, place)?;
    }
    mount::pivot(&root)
}
