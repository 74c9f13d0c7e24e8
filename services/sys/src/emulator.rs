//! The process that does system calls for a container (runtime.md 2.6, docs/adr/0041-system-calls.md).
//!
//! One per container, outside of it and outside of the daemon: a guest that keeps it busy keeps only its own
//! waiting, and a daemon that is started again finds it at work.

use std::{
    os::fd::{AsFd, OwnedFd, RawFd},
    path::PathBuf,
    time::Duration,
};

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::{Deserialize, Serialize};

use crate::{
    channel::Channel,
    error::{Context, Result},
    host::Calls,
    pidfd,
    plan::{self, ToInit},
    proc,
    spawn::spawn,
};

/// What may be done for the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulatorPlan {
    /// Device nodes that it may make.
    pub devices: Vec<Device>,
    /// Kernel modules that it may load, without what they need.
    pub modules: Vec<String>,
    /// It may set the clock of the machine.
    pub set_time: bool,
    /// Directories of its control groups, for what it is told of the machine.
    pub groups: Vec<PathBuf>,
}

/// A device by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// It is a block device.
    pub block: bool,
    /// Its driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

/// The descriptor under which the process keeps the daemon's end of its channel, for the next daemon.
/// Far above what a process opens in its first moments.
pub const PORT_FD: RawFd = 100;

/// How long the process may take to end when its container has.
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
    /// Starts the process for a container. Nobody waits for it: calls that come before it is ready wait.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn start(program: &OwnedFd, plan: &EmulatorPlan, calls: &Calls) -> Result<Self> {
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
        let fds = [
            plan.as_fd(),
            calls.listener.as_fd(),
            calls.user_namespace.as_fd(),
            emulator.port.as_fd(),
        ];
        let told = rustix::net::send(&emulator.port, &[1], rustix::net::SendFlags::NOSIGNAL)
            .context("release", "emulator")
            .and_then(|_| emulator.port.send(&ToInit::Emulate, &fds));
        match told {
            Ok(()) => Ok(emulator),
            Err(error) => {
                emulator.end();
                Err(error)
            }
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

    /// Collects it when its container is gone, which ends it.
    pub fn end(&self) {
        if pidfd::wait(&self.process, PATIENCE).is_err() {
            let _ = pidfd::signal(&self.process, libc::SIGKILL);
            let _ = pidfd::wait(&self.process, PATIENCE);
        }
    }
}
