//! The kernel's own file systems inside the container (runtime.md 3.7), and what is hidden of them.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use cml_sys::{
    error::{Context, Error, Result},
    mount::{self, Restrict},
    path,
    plan::LaunchPlan,
};
use rustix::fs::{Mode, OFlags};

use crate::{Failure, Stage, devices};

const HARDENED: Restrict = Restrict {
    read_only: false,
    no_dev: true,
    no_suid: true,
    no_exec: true,
    relative_atime: true,
};

/// Mounts /proc, /sys, /dev, /run and what belongs below them.
pub(crate) fn mount_all(
    root: &OwnedFd,
    plan: &LaunchPlan,
    dev: OwnedFd,
) -> std::result::Result<(), Failure> {
    simple(root, "/proc", "proc", &[], HARDENED).stage("mount /proc")?;
    sysfs(root, plan).stage("mount /sys")?;
    if plan.own_groups {
        // The namespace shows the container's part alone (SEC-07, docs/adr/0040-groups-of-guests.md).
        simple(root, GROUPS, "cgroup2", &[], HARDENED).stage("mount control groups")?;
    }
    devices::mount(root, dev).stage("mount /dev")?;
    simple(
        root,
        "/dev/pts",
        "devpts",
        PTS_OPTIONS,
        Restrict {
            no_dev: false,
            ..HARDENED
        },
    )
    .stage("mount /dev/pts")?;
    simple(root, "/dev/shm", "tmpfs", &[("mode", "1777")], HARDENED).stage("mount /dev/shm")?;
    simple(root, "/dev/mqueue", "mqueue", &[], HARDENED).stage("mount /dev/mqueue")?;
    let run = Restrict {
        no_exec: false,
        ..HARDENED
    };
    simple(root, "/run", "tmpfs", &[("mode", "0755")], run).stage("mount /run")
}

/// Where everybody looks for control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// A fresh instance: the guest sees no terminal of the host. Group 5 is `tty` by convention.
const PTS_OPTIONS: &[(&str, &str)] = &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];

fn simple(
    root: &OwnedFd,
    target: &str,
    fs_type: &str,
    options: &[(&str, &str)],
    restrict: Restrict,
) -> Result<()> {
    let target = path::make_dir_in_root(root, Path::new(target), Mode::from_raw_mode(0o755))?;
    mount::attach(mount::create(fs_type, options, restrict)?, target)
}

/// A guest without a network of its own would see the host's interfaces in its own sysfs, and the kernel
/// only lets the owner of the network mount one; it gets an empty, read-only place instead.
fn sysfs(root: &OwnedFd, plan: &LaunchPlan) -> Result<()> {
    if plan.own_network || plan.ids.is_none() {
        let restrict = Restrict {
            read_only: plan.ids.is_none(),
            ..HARDENED
        };
        return simple(root, "/sys", "sysfs", &[], restrict);
    }
    let target = path::make_dir_in_root(root, Path::new("/sys"), Mode::from_raw_mode(0o755))?;
    let empty = mount::create("tmpfs", &[("mode", "0555"), ("size", "4k")], HARDENED)?;
    mount::attach(&empty, target)?;
    path::make_dir_in_root(root, Path::new(GROUPS), Mode::from_raw_mode(0o555))?;
    let read_only = Restrict {
        read_only: true,
        ..HARDENED
    };
    mount::set_attributes(empty, read_only, None)
}

/// The container's own null device.
pub(crate) fn null() -> Result<File> {
    let null = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open("/dev/null")
        .context("open", "/dev/null")?;
    let metadata = null.metadata().context("inspect", "/dev/null")?;
    match metadata.file_type().is_char_device() && metadata.rdev() == rustix::fs::makedev(1, 3) {
        true => Ok(null),
        false => Err(Error::invalid("use", "/dev/null", "it is not device 1:3")),
    }
}

/// Hides and write-protects kernel files. Runs after the switch of the root, so no path can lead to the
/// host; each target is opened once and used by descriptor, and must lie in a kernel file system (SEC-03).
pub(crate) fn mask(plan: &LaunchPlan, null: &File) -> Result<()> {
    for target in &plan.masked {
        let Some(target) = open_kernel_file(target)? else {
            continue;
        };
        if is_directory(&target)? {
            let empty = mount::create(
                "tmpfs",
                &[("size", "4k"), ("mode", "0555")],
                Restrict {
                    read_only: true,
                    ..HARDENED
                },
            )?;
            mount::attach(empty, target)?;
        } else {
            mount::attach(mount::copy_tree(null)?, target)?;
        }
    }
    if plan.ids.is_none() {
        for target in &plan.read_only {
            if let Some(target) = open_kernel_file(target)? {
                mount::bind_read_only(target)?;
            }
        }
    }
    Ok(())
}

/// Opens a file of procfs or sysfs; `None` if this kernel does not have it.
fn open_kernel_file(target: &str) -> Result<Option<OwnedFd>> {
    const PROC_MAGIC: i64 = 0x9fa0;
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/")?;
    let file = match path::open_in_root(&root, Path::new(target), OFlags::PATH | OFlags::NOFOLLOW) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let kind = rustix::fs::fstatfs(&file)
        .context("inspect", target)?
        .f_type as i64;
    // An empty tmpfs stands in for sysfs in some containers; there is nothing to hide then.
    Ok((kind == PROC_MAGIC || kind == SYSFS_MAGIC).then_some(file))
}

fn is_directory(file: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(file).context("inspect", "kernel file")?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}
