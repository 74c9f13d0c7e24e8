//! The daemon's side of bringing a container up.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::fs::FileType;

use crate::{
    cgroup::Group,
    channel::Channel,
    device::node::Dev,
    error::{Context, Error, Result, explained},
    idmap::IdRange,
    memfd,
    mount::{self, Restrict},
    pidfd,
    plan::{self, ChosenInit, FromInit, LaunchPlan, ToInit},
    spawn::{Namespaces, Spawned, spawn},
};

/// How long `cml-init` may take to put a container together. Mounting takes milliseconds; a minute is
/// for a machine that swaps.
const PREPARE_PATIENCE: Duration = Duration::from_secs(60);

/// A tree for the container, before it is copied and restricted for it.
#[derive(Debug)]
pub struct Tree<'a> {
    /// The mounted image, or the file to be bound.
    pub source: BorrowedFd<'a>,
    /// The container may not write to it.
    pub read_only: bool,
    /// Set-uid bits mean nothing.
    pub no_suid: bool,
    /// Its owners are those of the host, whom the container does not know.
    pub unmapped: bool,
}

/// A container that is put together and waits for [`Prepared::go`].
#[derive(Debug)]
pub struct Prepared {
    /// Its init on the host.
    pub pid: i32,
    /// The handle of its init.
    pub pidfd: OwnedFd,
    /// When it started, to tell it from a later process of the same number.
    pub start_time: u64,
    /// What will run as init.
    pub init: ChosenInit,
    /// The listening service socket.
    pub service: Option<OwnedFd>,
    /// The system calls that are to be done for it.
    pub calls: Option<Calls>,
    /// The listening control socket.
    pub control: Option<OwnedFd>,
    channel: Channel,
}

/// System calls of a container that wait for somebody who does them.
#[derive(Debug)]
pub struct Calls {
    /// Where they arrive.
    pub listener: OwnedFd,
    /// The user namespace of the container.
    pub user_namespace: OwnedFd,
    /// Its network namespace.
    pub network: OwnedFd,
}

/// Brings a container to the point where its init is about to run. On an error nothing is left of the
/// process; the group is the caller's.
///
/// # Errors
/// What `cml-init` or the kernel said.
pub fn prepare(
    program: &OwnedFd,
    plan: &LaunchPlan,
    dev: &Dev,
    trees: &[Tree<'_>],
    group: &Group,
) -> Result<Prepared> {
    group.delegate(plan.ids)?;
    let unified = group.open_child()?;
    let namespaces = Namespaces {
        user: plan.ids.is_some(),
        net: plan.own_network,
    };
    let spawned = spawn(program, c"cml-init", Some(namespaces), unified.as_ref())?;
    match hand_over(program, &spawned, plan, dev, trees, group) {
        Ok(put_together) => Ok(Prepared {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            start_time: put_together.start_time,
            init: put_together.init,
            service: put_together.sockets.service,
            control: put_together.sockets.control,
            calls: put_together.calls,
            channel: spawned.channel,
        }),
        Err(error) => {
            put_away(&spawned.pidfd);
            Err(error)
        }
    }
}

/// Ends and collects a process that did not become a container.
fn put_away(process: &OwnedFd) {
    let _ = pidfd::signal(process, libc::SIGKILL);
    let _ = pidfd::wait(process, PREPARE_PATIENCE);
}

/// What is known of a container when it is put together.
struct PutTogether {
    start_time: u64,
    init: ChosenInit,
    sockets: Sockets,
    calls: Option<Calls>,
}

/// The sockets that were bound inside.
struct Sockets {
    service: Option<OwnedFd>,
    control: Option<OwnedFd>,
}

impl Sockets {
    /// From the descriptors in the order of [`FromInit::Prepared`].
    fn of(launch: &LaunchPlan, fds: Vec<OwnedFd>) -> Self {
        let mut fds = fds.into_iter();
        Self {
            service: launch.service_socket.as_ref().and_then(|_| fds.next()),
            control: launch.control_socket.as_ref().and_then(|_| fds.next()),
        }
    }
}

fn hand_over(
    program: &OwnedFd,
    spawned: &Spawned,
    launch: &LaunchPlan,
    dev: &Dev,
    trees: &[Tree<'_>],
    group: &Group,
) -> Result<PutTogether> {
    let start_time = crate::proc::start_time(spawned.pid)?;
    group.add_to_v1(spawned.pid)?;
    launch.ids.map_or(Ok(()), |ids| map_ids(spawned.pid, ids))?;
    let user_namespace = namespace(spawned.pid, "user")?;
    let network = namespace(spawned.pid, "net")?;
    let owners = launch.ids.map(|ids| Owners {
        program,
        ids,
        user_namespace: user_namespace.as_fd(),
    });
    let trees: Vec<OwnedFd> = trees
        .iter()
        .map(|tree| copy_for_guest(tree, owners))
        .collect::<Result<_>>()?;
    let text = plan::seal(launch)?;
    spawned.release()?;
    let fds: Vec<BorrowedFd<'_>> = [&text, dev.tree()]
        .into_iter()
        .chain(&trees)
        .map(AsFd::as_fd)
        .collect();
    spawned.channel.send(&ToInit::Launch, &fds)?;
    match spawned.channel.receive(Some(PREPARE_PATIENCE))? {
        (FromInit::Prepared { init, listener }, mut fds) => {
            let listener = listener.then(|| fds.pop()).flatten();
            Ok(PutTogether {
                start_time,
                init,
                sockets: Sockets::of(launch, fds),
                calls: listener.map(|listener| Calls {
                    listener,
                    user_namespace,
                    network,
                }),
            })
        }
        (FromInit::Failed { stage, reason }, _) => Err(Error::failed(stage, &reason)),
        (other, _) => Err(Error::invalid(
            "launch",
            format_args!("{other:?}"),
            "unexpected answer",
        )),
    }
}

fn map_ids(pid: i32, ids: IdRange) -> Result<()> {
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{map}");
        fs::write(&path, ids.map_line()).context("write", path)?;
    }
    Ok(())
}

fn namespace(pid: i32, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{kind}");
    Ok(File::open(&path).context("open", path)?.into())
}

/// Whom the files of a tree are to belong to.
#[derive(Debug, Clone, Copy)]
struct Owners<'a> {
    program: &'a OwnedFd,
    ids: IdRange,
    user_namespace: BorrowedFd<'a>,
}

fn copy_for_guest(tree: &Tree<'_>, owners: Option<Owners<'_>>) -> Result<OwnedFd> {
    let copy = mount::copy_tree(tree.source)?;
    let restrict = Restrict {
        read_only: tree.read_only,
        no_suid: tree.no_suid,
        no_dev: true,
        ..Restrict::default()
    };
    let Some(owners) = owners.filter(|_| !tree.unmapped) else {
        return mount::set_attributes(&copy, restrict, None).map(|()| copy);
    };
    match mount::set_attributes(&copy, restrict, Some(owners.user_namespace)) {
        Err(error) if cannot_map(&error) => otherwise(tree, copy, restrict, owners, &error),
        other => other.map(|()| copy),
    }
}

/// What is done about a tree whose file system the kernel cannot show with other owners
/// (docs/adr/0070-owners.md).
fn otherwise(
    tree: &Tree<'_>,
    copy: OwnedFd,
    restrict: Restrict,
    owners: Owners<'_>,
    refusal: &Error,
) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(tree.source).context("inspect", "file")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if tree.read_only && kind == FileType::Directory {
        let shifted = shift(owners.program, &copy, owners.ids)?;
        return mount::set_attributes(&shifted, restrict, None).map(|()| shifted);
    }
    // Who may only read a file needs no owner that it knows; everybody may read it or not.
    if tree.read_only && kind == FileType::RegularFile && stat.st_mode & 0o004 != 0 {
        return mount::set_attributes(&copy, restrict, None).map(|()| copy);
    }
    let advice = "this kernel cannot give the files of such a file system other owners, and what is written to \
                  cannot be shown with others: keep it on ext4, xfs or btrfs, or use `userns: false`";
    Err(explained(refusal.errno().unwrap_or(libc::EINVAL), advice)).context(refusal.action, "image")
}

/// How long it may take to go through all files of an image.
const SHIFT_PATIENCE: Duration = Duration::from_secs(120);

/// The same tree with other owners, in an overlay that only the container holds.
fn shift(program: &OwnedFd, tree: &OwnedFd, ids: IdRange) -> Result<OwnedFd> {
    let helper = spawn(program, c"cml-shift", None, None)?;
    let answer = helper
        .release()
        .and_then(|()| helper.channel.send(&ToInit::Shift { ids }, &[tree.as_fd()]))
        .and_then(|()| helper.channel.receive::<FromInit>(Some(SHIFT_PATIENCE)));
    put_away(&helper.pidfd);
    match answer? {
        (FromInit::Shifted, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
        (FromInit::Failed { stage, reason }, _) => Err(Error::failed(stage, &reason)),
        (other, _) => Err(Error::invalid(
            "change owners",
            format_args!("{other:?}"),
            "unexpected answer",
        )),
    }
}

/// The kernel's answers about file systems that it cannot show with other owners.
fn cannot_map(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM)
    )
}

impl Prepared {
    /// Runs the guest's init and waits until it does.
    ///
    /// # Errors
    /// The program could not be executed; nothing is left of the process then.
    pub fn go(&self) -> Result<()> {
        self.execute().inspect_err(|_| put_away(&self.pidfd))
    }

    /// Ends the process: the container is not wanted any more.
    pub fn put_away(&self) {
        put_away(&self.pidfd);
    }

    fn execute(&self) -> Result<()> {
        self.channel.send(&ToInit::Go, &[])?;
        match self.channel.receive::<FromInit>(Some(PREPARE_PATIENCE)) {
            // The channel closes itself when the program is executed: that is the sign of success.
            Err(error) if error.source.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
            Ok((FromInit::Failed { stage, reason }, _)) => Err(Error::failed(stage, &reason)),
            Ok((other, _)) => Err(Error::invalid(
                "launch",
                format_args!("{other:?}"),
                "unexpected answer",
            )),
        }
    }
}

/// The program that every container process starts as, copied from a file and sealed (SEC-01).
///
/// # Errors
/// The file cannot be read.
pub fn load_init(path: &Path) -> Result<OwnedFd> {
    let mut file = File::open(path).context("open", path.display())?;
    memfd::sealed("cml-init", &mut file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Overlays are what this kernel cannot show with other owners.
    #[test]
    fn a_file_that_cannot_get_other_owners_is_shown_if_everybody_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let file = below.join("file");
        fs::write(&file, "content").unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let layers = format!("{}:{}", below.display(), empty.display());
        let options = [("lowerdir", layers.as_str())];
        let overlay = mount::create("overlay", &options, Restrict::default()).unwrap();
        let namespaces = Namespaces {
            user: true,
            net: false,
        };
        let program = File::open("/bin/true").unwrap().into();
        let spawned = spawn(&program, c"holder", Some(namespaces), None).unwrap();
        map_ids(spawned.pid, IdRange::of_slot(0).unwrap()).unwrap();
        let userns = namespace(spawned.pid, "user").unwrap();
        let owners = Owners {
            program: &program,
            ids: IdRange::of_slot(0).unwrap(),
            user_namespace: userns.as_fd(),
        };
        let copy = |name: &str, read_only| {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            let open = rustix::fs::openat(&overlay, name, flags, rustix::fs::Mode::empty());
            let open = open.unwrap();
            let tree = Tree {
                source: open.as_fd(),
                read_only,
                no_suid: true,
                unmapped: false,
            };
            copy_for_guest(&tree, Some(owners))
        };
        assert!(copy("file", true).is_ok());
        for name in ["file", "."] {
            let refused = copy(name, false).unwrap_err().to_string();
            assert!(refused.contains("userns: false"), "{refused}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(copy("file", true).is_err());
        put_away(&spawned.pidfd);
    }
}
