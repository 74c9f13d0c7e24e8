//! The part of a container's group that is the container's own (runtime.md 2.7, docs/adr/0040-groups-of-guests.md).
//!
//! Limits are set on the group itself, which the container does not see. It lives one level below and may divide
//! that among its services; commands get a leaf there, as a group that is divided takes no processes.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::chown},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::Group;
use crate::{
    error::{Context, Result},
    idmap::IdRange,
};

/// Where the container lives.
const CHILD: &str = "child";
/// Where commands in it live.
const COMMANDS: &str = "cmld-injected";
/// What its owner may write (cgroups(7), "Delegating a hierarchy"); limits are not among it.
const OWNED: &[&str] = &["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

impl Group {
    /// Makes the container's part and hands it over to the container's root.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn delegate(&self, ids: Option<IdRange>) -> Result<()> {
        match &self.unified {
            None => Ok(()),
            Some(group) => {
                let child = group.join(CHILD);
                give(&child, ids)?;
                give(&child.join(COMMANDS), ids)
            }
        }
    }

    /// The group itself, which the container does not see: filters of devices belong there.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) fn open_unified(&self) -> Result<Option<OwnedFd>> {
        self.open_below(PathBuf::new())
    }

    /// Where a container begins its life, for `CLONE_INTO_CGROUP`; `None` on a machine without cgroup2.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open_child(&self) -> Result<Option<OwnedFd>> {
        self.open_below(PathBuf::from(CHILD))
    }

    /// Where a command in the container begins its life. The guest can have removed it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open_commands(&self, ids: Option<IdRange>) -> Result<Option<OwnedFd>> {
        let place = Path::new(CHILD).join(COMMANDS);
        if let Some(group) = &self.unified {
            give(&group.join(&place), ids)?;
        }
        self.open_below(place)
    }

    fn open_below(&self, place: PathBuf) -> Result<Option<OwnedFd>> {
        let open = |group: &PathBuf| {
            let path = group.join(&place);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty()).context("open group", path.display())
        };
        self.unified.as_ref().map(open).transpose()
    }
}

/// Makes a group unless it is there, and hands it over.
fn give(path: &Path, ids: Option<IdRange>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path).context("make group", path.display())?;
    let Some(IdRange { start }) = ids else {
        return Ok(());
    };
    chown(path, Some(start), Some(start)).context("hand over group", path.display())?;
    for name in OWNED {
        let file = path.join(name);
        chown(&file, Some(start), Some(start)).context("hand over", file.display())?;
    }
    Ok(())
}
