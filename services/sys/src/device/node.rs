//! Device nodes: those of the host, and those in the `/dev` of a container.
//!
//! A user namespace cannot make nodes that work, so the daemon makes them: in a tmpfs of its own, with owners
//! of the container, which becomes the container's `/dev`. The same way leads to a running container.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chownat, fstat, major,
        makedev, minor, mkdirat, mknodat, openat, openat2, statat, unlinkat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{Device, Kind};
use crate::{
    error::{Context, Error, Result},
    idmap::IdRange,
    mount::{self, Restrict},
    path,
};

/// A node with its name below `/dev`, e.g. `net/tun`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name below `/dev`.
    pub name: PathBuf,
    /// What it stands for.
    pub device: Device,
    /// Permissions, and set-id bits that mean nothing.
    pub mode: u32,
    /// Owner and group on the host.
    pub owner: (u32, u32),
}

/// Kernel file systems of the container's own take these places.
const NOT_COPIED: &[&str] = &["ptmx", "console"];

/// All nodes below a directory such as `/dev`, without what is mounted there: terminals and shared memory
/// are each container's own.
///
/// # Errors
/// The directory cannot be read. What disappears meanwhile is skipped.
pub fn all(dir: &Path) -> Result<Vec<Node>> {
    let file_system = fs::metadata(dir).context("inspect", dir.display())?.dev();
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(here) = left.pop() {
        let entries = match fs::read_dir(&here) {
            Ok(entries) => entries,
            Err(_) if here != dir => continue,
            Err(error) => return Err(error).context("list", here.display()),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && metadata.dev() == file_system {
                left.push(path);
            } else if let Some(node) = node(dir, &path, &metadata) {
                found.push(node);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The node at a name below a directory such as `/dev`, if there is one.
pub fn find(dir: &Path, name: &Path) -> Option<Node> {
    let path = dir.join(name);
    node(dir, &path, &fs::symlink_metadata(&path).ok()?)
}

fn node(dir: &Path, path: &Path, metadata: &fs::Metadata) -> Option<Node> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => Kind::Char,
        kind if kind.is_block_device() => Kind::Block,
        _ => return None,
    };
    let name = path.strip_prefix(dir).ok()?;
    if NOT_COPIED.iter().any(|one| name == Path::new(one)) {
        return None;
    }
    let number = metadata.rdev();
    Some(Node {
        name: name.to_owned(),
        device: Device {
            kind,
            major: major(number),
            minor: minor(number),
        },
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
    })
}

/// The `/dev` of one container.
#[derive(Debug)]
pub struct Dev {
    tree: OwnedFd,
    ids: Option<IdRange>,
}

/// What tells the `/dev` that we have made from whatever a guest has put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevId(u64);

impl Dev {
    /// A new one, mounted nowhere yet. It has room for nodes and links, and not for much else.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(ids: Option<IdRange>) -> Result<Self> {
        let owner = ids.map_or(0, |ids| ids.start).to_string();
        let options = [
            ("mode", "0755"),
            ("size", "256k"),
            ("nr_inodes", "16k"),
            ("uid", owner.as_str()),
            ("gid", owner.as_str()),
        ];
        let restrict = Restrict {
            no_suid: true,
            no_exec: true,
            ..Restrict::default()
        };
        let tree = mount::create("tmpfs", &options, restrict)?;
        Ok(Self { tree, ids })
    }

    /// The one of a running container, found again by a daemon that was started anew.
    ///
    /// # Errors
    /// The container is gone, or has something else at `/dev`.
    pub fn of(pid: i32, id: DevId, ids: Option<IdRange>) -> Result<Self> {
        let root = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&root, flags, Mode::empty()).context("open", root)?;
        let tree = path::open_in_root(&root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY)?;
        let found = Self { tree, ids };
        match found.id()? == id {
            true => Ok(found),
            false => Err(Error::invalid(
                "find",
                "/dev",
                "the guest has mounted something else there",
            )),
        }
    }

    /// What it is found again by.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn id(&self) -> Result<DevId> {
        Ok(DevId(fstat(&self.tree).context("inspect", "/dev")?.st_dev))
    }

    /// The file system, to be mounted.
    pub fn tree(&self) -> &OwnedFd {
        &self.tree
    }

    /// Makes a node, with the owner that it has on the host, seen from inside. One that is there already is
    /// left alone.
    ///
    /// # Errors
    /// The guest has put something in the way, or what the kernel said.
    pub fn add(&self, node: &Node) -> Result<()> {
        let shown = &node.name.display().to_string();
        let (dir, name) = self.parent(&node.name, true)?;
        let kind = match node.device.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
        };
        let number = makedev(node.device.major, node.device.minor);
        match mknodat(&dir, &name, kind, Mode::from_raw_mode(0o600), number) {
            Ok(()) => {}
            Err(Errno::EXIST) if self.holds(&dir, &name, node.device) => return Ok(()),
            Err(error) => return Err(error).context("make node", shown),
        }
        // By descriptor from here on: the guest's root owns the directory and may change the name's meaning.
        let made = open_beneath(&dir, &name, OFlags::empty())?;
        if !is_node(&fstat(&made).context("inspect node", shown)?, node.device) {
            return Err(Error::invalid("make node", shown, "the guest replaced it"));
        }
        let path = format!("/proc/self/fd/{}", made.as_raw_fd());
        let mode = Mode::from_raw_mode(node.mode & 0o777);
        rustix::fs::chmod(&path, mode).context("set mode of node", shown)?;
        let root = self.ids.map_or(0, |ids| ids.start);
        // An owner that the container has no number for is its root.
        let shifted = |id| match self.ids {
            Some(ids) => ids.host_id(id).unwrap_or(root),
            None => id,
        };
        let uid = Uid::from_raw(shifted(node.owner.0));
        let gid = Gid::from_raw(shifted(node.owner.1));
        chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .context("give away node", shown)
    }

    /// All nodes in it with their names, whoever made them. What the guest has mounted there is left out, and
    /// what it hides or changes meanwhile may be.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn nodes(&self) -> Result<Vec<(PathBuf, Device)>> {
        let mut found = Vec::new();
        let mut left = vec![PathBuf::from(".")];
        while let Some(here) = left.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = open_beneath(self.tree.as_fd(), &here, OFlags::DIRECTORY);
            let dir = dir.map(|dir| openat(dir, ".", flags, Mode::empty()));
            let Ok(Ok(dir)) = dir else {
                continue;
            };
            let entries = rustix::fs::Dir::read_from(&dir).context("list", here.display())?;
            for entry in entries.flatten() {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                let path = here.strip_prefix(".").unwrap_or(&here).join(name);
                match entry.file_type() {
                    _ if name == "." || name == ".." => {}
                    FileType::Directory => left.push(path),
                    FileType::CharacterDevice | FileType::BlockDevice => {
                        let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
                        let device = stat.ok().and_then(|stat| device(&stat));
                        found.extend(device.map(|device| (path, device)));
                    }
                    _ => {}
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Takes a node away, unless it has become something else.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove(&self, name: &Path, device: Device) -> Result<()> {
        let Ok((dir, last)) = self.parent(name, false) else {
            return Ok(());
        };
        if !self.holds(&dir, &last, device) {
            return Ok(());
        }
        match unlinkat(&dir, &last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).context("remove node", name.display()),
        }
    }

    fn holds(&self, dir: &OwnedFd, name: &Path, device: Device) -> bool {
        let found = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|stat| is_node(&stat, device))
    }

    /// The directory of a name, without following a link or leaving this file system: the guest may have put
    /// anything into it.
    fn parent(&self, name: &Path, make: bool) -> Result<(OwnedFd, PathBuf)> {
        let bad = || Error::invalid("make node", name.display(), "it is no name below /dev");
        let mut parts = name.components().map(|part| match part {
            Component::Normal(part) => Ok(PathBuf::from(part)),
            _ => Err(bad()),
        });
        let last = parts.next_back().ok_or_else(bad)??;
        let mut here = open_beneath(self.tree.as_fd(), Path::new("."), OFlags::DIRECTORY)?;
        for part in parts {
            let part = part?;
            if make {
                match mkdirat(&here, &part, Mode::from_raw_mode(0o755)) {
                    Ok(()) => self.give_directory(&here, &part)?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error).context("make directory", part.display()),
                }
            }
            here = open_beneath(here.as_fd(), &part, OFlags::DIRECTORY)?;
        }
        Ok((here, last))
    }

    /// Makes a directory the guest's own. By descriptor: with a name the owner of whatever the guest has mounted there
    /// meanwhile would change, and that may be a file of the kernel.
    fn give_directory(&self, dir: &OwnedFd, name: &Path) -> Result<()> {
        let owner = self.ids.map_or(0, |ids| ids.start);
        let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
        let made = open_beneath(dir, name, OFlags::DIRECTORY)?;
        chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .context("give away directory", name.display())
    }
}

fn is_node(stat: &Stat, expected: Device) -> bool {
    device(stat) == Some(expected)
}

/// What a node stands for.
fn device(stat: &Stat) -> Option<Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        _ => return None,
    };
    Some(Device {
        kind,
        major: major(stat.st_rdev),
        minor: minor(stat.st_rdev),
    })
}

/// Follows no link and crosses no mount.
fn open_beneath(dir: impl AsFd, name: &Path, flags: OFlags) -> Result<OwnedFd> {
    openat2(
        dir,
        name,
        flags | OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
    .context("open in /dev of the guest", name.display())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    fn null() -> Node {
        find(Path::new("/dev"), Path::new("null")).unwrap()
    }

    #[test]
    fn nodes_of_the_host_are_found_without_terminals_and_shared_memory() {
        let all = all(Path::new("/dev")).unwrap();
        assert!(all.contains(&null()));
        let names: Vec<_> = all.iter().map(|node| node.name.as_path()).collect();
        assert!(!names.iter().any(|name| name.starts_with("pts")));
        assert!(!names.contains(&Path::new("ptmx")));
    }

    #[test]
    fn a_guest_that_plants_links_moves_no_node_out_of_its_dev() {
        let ids = IdRange::of_slot(3).unwrap();
        let dev = Dev::new(Some(ids)).unwrap();
        let at = |name: &str| {
            crate::path::make_dir_in_root(dev.tree(), Path::new(name), Mode::from_raw_mode(0o755))
        };
        let outside = tempfile::tempdir().unwrap();
        at("/a").unwrap();
        rustix::fs::symlinkat(outside.path(), dev.tree(), "snd").unwrap();
        let node = |name: &str| Node {
            name: name.into(),
            ..null()
        };
        assert!(dev.add(&node("snd/x")).is_err());
        assert!(dev.add(&node("../x")).is_err());
        assert!(dev.add(&node("/x")).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        rustix::fs::symlinkat("/etc/passwd", dev.tree(), "link").unwrap();
        assert!(dev.add(&node("link")).is_err());
        dev.remove(Path::new("link"), null().device).unwrap();
        dev.add(&node("a/b/c")).unwrap();
        dev.add(&node("a/b/c")).unwrap();
        let stat = statat(dev.tree(), "a/b/c", AtFlags::empty()).unwrap();
        assert_eq!((stat.st_uid, stat.st_mode & 0o777), (ids.start, 0o666));
        dev.remove(Path::new("a/b/c"), null().device).unwrap();
        assert!(statat(dev.tree(), "a/b/c", AtFlags::empty()).is_err());
    }

    /// What the guest mounts over a name between two system calls of ours keeps its owner.
    #[test]
    fn nothing_that_is_mounted_over_a_name_changes_its_owner() {
        let test = || {
            // SAFETY: no file descriptor table is unshared; the thread ends with the test.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            mount::make_private().unwrap();
            let ids = IdRange::of_slot(3).unwrap();
            let dev = Dev::new(Some(ids)).unwrap();
            let (place, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let path = place.path();
            mount::attach(dev.tree(), fs::File::open(path).unwrap()).unwrap();
            let over = |from: &Path, name: &str| {
                mount::attach(
                    mount::copy_path(from).unwrap(),
                    fs::File::open(path.join(name)).unwrap(),
                )
            };
            fs::create_dir(path.join("bus")).unwrap();
            over(outside.path(), "bus").unwrap();
            dev.give_directory(dev.tree(), Path::new("bus"))
                .unwrap_err();
            let node = |name: &str| Node {
                name: name.into(),
                ..null()
            };
            dev.add(&node("bus/x")).unwrap_err();
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
            assert_eq!(fs::metadata(outside.path()).unwrap().uid(), 0);
        };
        std::thread::spawn(test).join().unwrap();
    }
}
