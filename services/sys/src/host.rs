//! The daemon's side of bringing a container up.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use crate::{
    cgroup::Group,
    channel::Channel,
    device::node::Dev,
    error::{Context, Error, Result},
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
    channel: Channel,
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
    let unified = group.open_unified()?;
    let namespaces = Namespaces {
        user: plan.ids.is_some(),
        net: plan.own_network,
    };
    let spawned = spawn(program, c"cml-init", Some(namespaces), unified.as_ref())?;
    match hand_over(&spawned, plan, dev, trees, group) {
        Ok((init, service, start_time)) => Ok(Prepared {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            start_time,
            init,
            service,
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

fn hand_over(
    spawned: &Spawned,
    launch: &LaunchPlan,
    dev: &Dev,
    trees: &[Tree<'_>],
    group: &Group,
) -> Result<(ChosenInit, Option<OwnedFd>, u64)> {
    let start_time = crate::proc::start_time(spawned.pid)?;
    group.add_to_v1(spawned.pid)?;
    let userns = launch
        .ids
        .map(|ids| map_ids(spawned.pid, ids))
        .transpose()?;
    let trees: Vec<OwnedFd> = trees
        .iter()
        .map(|tree| copy_for_guest(tree, userns.as_ref()))
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
        (FromInit::Prepared(init), fds) => Ok((init, fds.into_iter().next(), start_time)),
        (FromInit::Failed { stage, reason }, _) => Err(Error::failed(stage, &reason)),
        (other, _) => Err(Error::invalid(
            "launch",
            format_args!("{other:?}"),
            "unexpected answer",
        )),
    }
}

fn map_ids(pid: i32, ids: IdRange) -> Result<OwnedFd> {
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{map}");
        fs::write(&path, ids.map_line()).context("write", path)?;
    }
    let path = format!("/proc/{pid}/ns/user");
    Ok(File::open(&path).context("open", path)?.into())
}

fn copy_for_guest(tree: &Tree<'_>, userns: Option<&OwnedFd>) -> Result<OwnedFd> {
    let copy = mount::copy_tree(tree.source)?;
    let restrict = Restrict {
        read_only: tree.read_only,
        no_suid: tree.no_suid,
        no_dev: true,
        ..Restrict::default()
    };
    let userns = userns.filter(|_| !tree.unmapped);
    mount::set_attributes(&copy, restrict, userns.map(AsFd::as_fd))?;
    Ok(copy)
}

impl Prepared {
    /// Runs the guest's init and waits until it does.
    ///
    /// # Errors
    /// The program could not be executed; nothing is left of the process then.
    pub fn go(&self) -> Result<()> {
        self.execute().inspect_err(|_| put_away(&self.pidfd))
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
