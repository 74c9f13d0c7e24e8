//! The daemon's side of running something in a container that runs already.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{Gid, Uid, fchown},
    pipe::{PipeFlags, pipe_with},
};

use crate::{
    cgroup::Group,
    channel::Channel,
    emulator::Emulator,
    error::{Context, Error, Result},
    idmap::IdRange,
    pidfd,
    plan::{self, EnterPlan, FromInit, ToInit},
    session,
    spawn::{Spawned, spawn},
};

/// How long entering a container may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The descriptors through which a command talks.
#[derive(Debug)]
pub enum Stdio {
    /// One terminal, both ways.
    Terminal(File),
    /// Three pipes.
    Pipes {
        /// What the command reads.
        stdin: File,
        /// What it writes.
        stdout: File,
        /// What it complains.
        stderr: File,
    },
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The container has no such program.
    #[error("there is no `{0}`")]
    NoProgram(String),
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What a command enters.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The container's init.
    pub init: &'a OwnedFd,
    /// Its groups.
    pub group: &'a Group,
    /// Its ids, `None` without a user namespace.
    pub ids: Option<IdRange>,
    /// Who does system calls for it.
    pub emulator: Option<&'a Emulator>,
}

/// A command that runs in a container.
#[derive(Debug)]
pub struct Running {
    /// Where it talks; non-blocking.
    pub stdio: Stdio,
    /// How its end is learnt, or brought about.
    pub waiter: Waiter,
}

/// The helper that waits for a command inside.
#[derive(Debug)]
pub struct Waiter {
    helper: OwnedFd,
    channel: Channel,
    session: i32,
    group: Group,
}

impl Waiter {
    /// Readable when [`Waiter::status`] has something to say.
    pub fn status_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Kills the command, which dies with its helper, and what it has started. What has founded a session of its own
    /// goes on, as below any shell whose terminal is gone.
    pub fn kill(&self) {
        // It may have ended on its own in this moment.
        let _ = pidfd::signal(&self.helper, libc::SIGKILL);
        session::kill(self.session, || self.group.processes());
    }

    /// The end of the command, which must be near: it has been reported, or the command was killed. Its
    /// status, 128 + n for signal n; 137 when it was killed together with its helper.
    pub fn status(self) -> i32 {
        let status = match self.channel.receive(Some(PATIENCE)) {
            Ok((FromInit::Ended { status }, _)) => status,
            _ => 128 + libc::SIGKILL,
        };
        let _ = pidfd::wait(&self.helper, PATIENCE);
        status
    }
}

fn enter(
    program: &OwnedFd,
    target: Option<Target<'_>>,
    order: &ToInit,
    fds: &[BorrowedFd<'_>],
) -> Result<(Spawned, FromInit, Vec<OwnedFd>)> {
    let unified = target.map(|target| target.group.open_commands(target.ids));
    let unified = unified.transpose()?.flatten();
    let spawned = spawn(program, c"cml-enter", None, unified.as_ref())?;
    let answer = target
        .map_or(Ok(()), |target| target.group.add_to_v1(spawned.pid))
        .and_then(|()| spawned.release())
        .and_then(|()| spawned.channel.send(order, fds))
        .and_then(|()| spawned.channel.receive::<FromInit>(Some(PATIENCE)));
    match answer {
        Ok((FromInit::Failed { stage, reason }, _)) => {
            let _ = pidfd::wait(&spawned.pidfd, PATIENCE);
            Err(Error::failed(stage, &reason))
        }
        Ok((message, fds)) => Ok((spawned, message, fds)),
        Err(error) => {
            let _ = pidfd::signal(&spawned.pidfd, libc::SIGKILL);
            let _ = pidfd::wait(&spawned.pidfd, PATIENCE);
            Err(error)
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")
}

fn non_blocking(fd: OwnedFd) -> Result<File> {
    rustix::io::ioctl_fionbio(&fd, true).context("set non-blocking", "descriptor")?;
    Ok(fd.into())
}

/// Runs a command in a container.
///
/// # Errors
/// The container is gone, or the command cannot be executed in it.
pub fn run(
    program: &OwnedFd,
    target: Target<'_>,
    enter_plan: &EnterPlan,
) -> std::result::Result<Running, RunError> {
    let plan = plan::seal(enter_plan)?;
    let plan = [plan.as_fd(), target.init.as_fd()];
    if enter_plan.terminal.is_some() {
        let (waiter, master) = start(program, target, &plan)?;
        let master = master.ok_or_else(|| Error::invalid("enter", "terminal", "there is none"))?;
        return Ok(Running {
            stdio: Stdio::Terminal(non_blocking(master)?),
            waiter,
        });
    }
    let (in_read, in_write) = pipe()?;
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let ends = [&in_read, &out_write, &err_write].map(AsFd::as_fd);
    if let Some(ids) = target.ids {
        // Whoever opens `/dev/stderr` opens the pipe anew, and the host's root is nobody in there.
        let root = (Uid::from_raw(ids.start), Gid::from_raw(ids.start));
        for end in ends {
            fchown(end, Some(root.0), Some(root.1)).context("give away", "pipe")?;
        }
    }
    let (waiter, _) = start(program, target, &[&plan[..], &ends].concat())?;
    Ok(Running {
        stdio: Stdio::Pipes {
            stdin: non_blocking(in_write)?,
            stdout: non_blocking(out_read)?,
            stderr: non_blocking(err_read)?,
        },
        waiter,
    })
}

/// Has a helper enter the container and start the command. Returns the terminal's master, if there is one.
fn start(
    program: &OwnedFd,
    target: Target<'_>,
    fds: &[BorrowedFd<'_>],
) -> std::result::Result<(Waiter, Option<OwnedFd>), RunError> {
    let (spawned, message, mut fds) = enter(program, Some(target), &ToInit::Enter, fds)?;
    match message {
        FromInit::Started { listener, session } => {
            let listener = listener.then(|| fds.pop()).flatten();
            if let (Some(listener), Some(emulator)) = (listener, target.emulator) {
                // Without it the command finds what init finds then: those calls do not exist.
                let _ = emulator.serve(&listener);
            }
            let waiter = Waiter {
                helper: spawned.pidfd,
                channel: spawned.channel,
                session,
                group: target.group.clone(),
            };
            Ok((waiter, fds.pop()))
        }
        FromInit::NoProgram { name } => {
            let _ = pidfd::wait(&spawned.pidfd, PATIENCE);
            Err(RunError::NoProgram(name))
        }
        other => Err(unexpected(&other).into()),
    }
}

/// Binds a socket of a running container anew, after a restart of the daemon. The helper stays
/// out of the container's groups: it runs nothing of the guest's, and in a frozen group it would not run.
///
/// # Errors
/// The container is gone, or its file system refuses.
pub fn bind_socket(
    program: &OwnedFd,
    init: &OwnedFd,
    path: &Path,
    user_namespace: bool,
) -> Result<OwnedFd> {
    let order = ToInit::BindSocket {
        path: path.to_owned(),
        user_namespace,
    };
    let (spawned, message, mut fds) = enter(program, None, &order, &[init.as_fd()])?;
    let _ = pidfd::wait(&spawned.pidfd, PATIENCE);
    match (message, fds.pop()) {
        (FromInit::Bound, Some(socket)) => Ok(socket),
        (other, _) => Err(unexpected(&other)),
    }
}

fn unexpected(message: &FromInit) -> Error {
    Error::invalid("enter", format_args!("{message:?}"), "unexpected answer")
}

/// Tells a terminal its size.
///
/// # Errors
/// The terminal is gone.
pub fn resize(terminal: &File, cols: u16, rows: u16) -> Result<()> {
    let size = rustix::termios::Winsize {
        ws_col: cols,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).context("resize", "terminal")
}
