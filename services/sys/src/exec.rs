//! The daemon's side of running something in a container that runs already.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::{
    cgroup::Group,
    channel::Channel,
    error::{Context, Error, Result},
    pidfd,
    plan::{self, EnterPlan, FromInit, ToInit},
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
}

impl Waiter {
    fn of(helper: Spawned) -> Self {
        Self {
            helper: helper.pidfd,
            channel: helper.channel,
        }
    }

    /// Readable when [`Waiter::status`] has something to say.
    pub fn status_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Kills the command, which dies with its helper. What it has started itself goes on, as below any shell
    /// whose terminal is gone.
    pub fn kill(&self) {
        // It may have ended on its own in this moment.
        let _ = pidfd::signal(&self.helper, libc::SIGKILL);
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
    group: Option<&Group>,
    order: &ToInit,
    fds: &[BorrowedFd<'_>],
) -> Result<(Spawned, FromInit, Vec<OwnedFd>)> {
    let unified = group.map(Group::open_unified).transpose()?.flatten();
    let spawned = spawn(program, c"cml-enter", None, unified.as_ref())?;
    let answer = group
        .map_or(Ok(()), |group| group.add_to_v1(spawned.pid))
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

/// Runs a command in the container whose init is `init`.
///
/// # Errors
/// The container is gone, or the command cannot be executed in it.
pub fn run(
    program: &OwnedFd,
    init: &OwnedFd,
    group: &Group,
    enter_plan: &EnterPlan,
) -> Result<Running> {
    let order = ToInit::Enter;
    let plan = plan::seal(enter_plan)?;
    if enter_plan.terminal.is_some() {
        let fds = [plan.as_fd(), init.as_fd()];
        let (spawned, message, mut fds) = enter(program, Some(group), &order, &fds)?;
        return match (message, fds.pop()) {
            (FromInit::Started, Some(master)) => Ok(Running {
                stdio: Stdio::Terminal(non_blocking(master)?),
                waiter: Waiter::of(spawned),
            }),
            (other, _) => Err(unexpected(&other)),
        };
    }
    let (in_read, in_write) = pipe()?;
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let fds = [
        plan.as_fd(),
        init.as_fd(),
        in_read.as_fd(),
        out_write.as_fd(),
        err_write.as_fd(),
    ];
    let (spawned, message, _) = enter(program, Some(group), &order, &fds)?;
    match message {
        FromInit::Started => Ok(Running {
            stdio: Stdio::Pipes {
                stdin: non_blocking(in_write)?,
                stdout: non_blocking(out_read)?,
                stderr: non_blocking(err_read)?,
            },
            waiter: Waiter::of(spawned),
        }),
        other => Err(unexpected(&other)),
    }
}

/// Binds the service socket of a running container anew, after a restart of the daemon. The helper stays
/// out of the container's groups: it runs nothing of the guest's, and in a frozen group it would not run.
///
/// # Errors
/// The container is gone, or its file system refuses.
pub fn bind_service(
    program: &OwnedFd,
    init: &OwnedFd,
    path: &Path,
    user_namespace: bool,
) -> Result<OwnedFd> {
    let order = ToInit::BindService {
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
