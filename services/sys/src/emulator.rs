//! The process that does system calls for a container (runtime.md 2.6, docs/adr/0041-system-calls.md).
//!
//! One per container, outside of it and outside of the daemon: a guest that keeps it busy keeps only its own
//! waiting, and a daemon that is started again finds it at work.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
    time::Duration,
};

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::{Deserialize, Serialize};

use crate::{
    channel::Channel,
    device::Rules,
    error::{Context, Error, Result},
    host::Calls,
    pidfd,
    plan::{self, FromInit, ToInit},
    proc,
    spawn::spawn,
};

/// What may be done for the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulatorPlan {
    /// What it may do with which device: who may make one's node.
    pub devices: Rules,
    /// Kernel modules that it may load, without what they need.
    pub modules: Vec<String>,
    /// It may set the clock of the machine.
    pub set_time: bool,
    /// The kernel tells it nothing of devices, which it does only where the network belongs to the first user
    /// namespace: news that matter to it are passed on.
    pub news: bool,
    /// Directories of its control groups, for what it is told of the machine.
    pub groups: Vec<PathBuf>,
}

/// The descriptor under which the process keeps the daemon's end of its channel, for the next daemon.
/// Far above what a process opens in its first moments.
pub const PORT_FD: RawFd = 100;

/// How long the process may take to begin: milliseconds, a minute is for a machine that swaps.
const BEGIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end when its container has.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is written down about the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number on the host.
    pub pid: i32,
    /// When it was started, in clock ticks after boot.
    pub start_time: u64,
}

/// The process, as the daemon knows it.
#[derive(Debug)]
pub struct Emulator {
    /// For the record.
    pub identity: Identity,
    process: OwnedFd,
    port: Channel,
}

impl Emulator {
    /// Starts the process for a container that is about to be made: it settles while that is put together.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn start(program: &OwnedFd, plan: &EmulatorPlan) -> Result<Self> {
        let plan = plan::seal(plan)?;
        let spawned = spawn(program, c"cml-emulate", None, None)?;
        let emulator = Self {
            identity: Identity {
                pid: spawned.pid,
                start_time: proc::start_time(spawned.pid)?,
            },
            process: spawned.pidfd,
            port: spawned.channel,
        };
        let told = rustix::net::send(&emulator.port, &[1], rustix::net::SendFlags::NOSIGNAL)
            .context("release", "emulator")
            .and_then(|_| emulator.port.send(&ToInit::Emulate, &[plan.as_fd()]));
        match told {
            Ok(()) => Ok(emulator),
            Err(error) => {
                emulator.dismiss();
                Err(error)
            }
        }
    }

    /// Hands the container's calls over, if it makes any that somebody else does; else nobody is needed. Calls that
    /// come before it is ready wait; whether it gets there, [`Emulator::ready`] tells.
    ///
    /// # Errors
    /// It is gone.
    pub fn attend(self, calls: Option<&Calls>) -> Result<Option<Self>> {
        let attended = calls.map(|calls| {
            let fds = [
                calls.listener.as_fd(),
                calls.user_namespace.as_fd(),
                calls.network.as_fd(),
                self.port.as_fd(),
            ];
            self.port.send(&ToInit::Attend, &fds)
        });
        match attended {
            Some(Ok(())) => Ok(Some(self)),
            Some(Err(error)) => {
                // It may know more about it.
                let reason = self.last_words();
                self.dismiss();
                Err(reason.map_or(error, |reason| {
                    Error::failed("start emulator".to_owned(), &reason)
                }))
            }
            None => {
                self.dismiss();
                Ok(None)
            }
        }
    }

    /// Ends it: there is no container for it.
    pub fn dismiss(&self) {
        let _ = pidfd::signal(&self.process, libc::SIGKILL);
        let _ = pidfd::wait(&self.process, PATIENCE);
    }

    /// Waits until it is at work.
    ///
    /// # Errors
    /// What kept it from it.
    pub fn ready(&self) -> Result<()> {
        match self.port.receive(Some(BEGIN_PATIENCE)) {
            Ok((FromInit::Serving, _)) => Ok(()),
            Ok((FromInit::Failed { stage, reason }, _)) => Err(Error::failed(stage, &reason)),
            Ok((other, _)) => Err(Error::invalid(
                "start emulator",
                format_args!("{other:?}"),
                "unexpected answer",
            )),
            Err(error) => Err(error),
        }
    }

    /// Readable when it has ended.
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Why it ended, if it knew.
    pub fn last_words(&self) -> Option<String> {
        match self.port.receive(Some(Duration::ZERO)) {
            Ok((FromInit::Failed { stage, reason }, _)) => Some(format!("{stage}: {reason}")),
            _ => None,
        }
    }

    /// Finds the process that an earlier daemon has started.
    ///
    /// # Errors
    /// It is gone.
    pub fn find(identity: Identity) -> Result<Self> {
        let process = pidfd::open(identity.pid, identity.start_time)?;
        let port = pidfd_getfd(&process, PORT_FD, PidfdGetfdFlags::empty())
            .context("reach", "emulator")?;
        Ok(Self {
            identity,
            process,
            port: port.into(),
        })
    }

    /// Has it do the calls of a command as well.
    ///
    /// # Errors
    /// It is gone.
    pub fn serve(&self, listener: &OwnedFd) -> Result<()> {
        self.port.send(&ToInit::Serve, &[listener.as_fd()])
    }

    /// Tells it what has become of the container's devices.
    ///
    /// # Errors
    /// It is gone.
    pub fn allow(&self, devices: &Rules) -> Result<()> {
        let rules = plan::seal(devices)?;
        self.port.send(&ToInit::Allow, &[rules.as_fd()])
    }

    /// Has it pass on news of a device. News that come too fast for it are lost, as they are for any listener.
    ///
    /// # Errors
    /// It is gone, or busy.
    pub fn cry(&self, text: &str) -> Result<()> {
        self.port.offer(&ToInit::Cry {
            text: text.to_owned(),
        })
    }

    /// Collects it when its container is gone, which ends it.
    pub fn end(&self) {
        if pidfd::wait(&self.process, PATIENCE).is_err() {
            self.dismiss();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;

    use super::*;

    #[test]
    fn a_process_that_does_not_get_to_work_is_no_emulator() {
        let plan = EmulatorPlan {
            devices: Rules::default(),
            modules: Vec::new(),
            set_time: false,
            news: false,
            groups: Vec::new(),
        };
        let file = |path| File::open(path).unwrap().into();
        let calls = Calls {
            listener: file("/dev/null"),
            user_namespace: file("/proc/self/ns/user"),
            network: file("/proc/self/ns/net"),
        };
        // Neither of them says anything, and they may be gone before they were told anything.
        for program in ["/bin/true", "/bin/false"] {
            let emulator = Emulator::start(&file(program), &plan);
            let attended = emulator.and_then(|emulator| emulator.attend(Some(&calls)));
            let Ok(Some(emulator)) = attended else {
                continue;
            };
            assert!(emulator.ready().is_err());
            assert_eq!(emulator.last_words(), None);
            emulator.end();
        }
    }
}
