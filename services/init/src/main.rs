//! The program behind every container process: static, one thread, started by the daemon from a sealed
//! copy in memory. It becomes a container, or enters one, as the daemon says on its channel.
//!
//! It owns nothing on the host: it mounts only inside its own mount namespace, on paths that it opens
//! inside the new root, and reports every failure before it ends.

mod assemble;
mod devices;
mod emulate;
mod enter;
mod guest;
mod isolate;
mod kernelfs;
mod resolver;
mod shift;
mod socket;
mod supervise;
mod toolbox;
mod user;

use std::os::fd::{FromRawFd, OwnedFd};

use cml_sys::{
    channel::Channel,
    plan::{FromInit, ToInit},
    spawn::CHANNEL_FD,
};

/// A failure with the stage it happened in, for the daemon's answer.
#[derive(Debug)]
pub(crate) struct Failure {
    stage: String,
    reason: String,
}

/// Names the stage of a failure.
pub(crate) trait Stage<T> {
    fn stage(self, stage: &str) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> Stage<T> for Result<T, E> {
    fn stage(self, stage: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            stage: stage.to_owned(),
            reason: error.to_string(),
        })
    }
}

fn main() {
    // SAFETY: the daemon's contract (sys/spawn.rs) is that this descriptor is the channel, and nothing
    // else in this process has taken it.
    let channel = Channel::from(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) });
    // Whatever enters a container must not be traced from inside it while it holds daemon descriptors.
    let quiet =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let result = quiet.stage("hide").and_then(|()| obey(&channel));
    if let Err(Failure { stage, reason }) = result {
        // If the daemon is gone as well there is nobody left to tell.
        let _ = channel.send(&FromInit::Failed { stage, reason }, &[]);
        std::process::exit(1);
    }
}

fn obey(channel: &Channel) -> Result<(), Failure> {
    rustix::io::fcntl_setfd(channel, rustix::io::FdFlags::CLOEXEC).stage("keep the channel")?;
    let (order, fds) = channel.receive::<ToInit>(None).stage("receive the order")?;
    match order {
        ToInit::Launch => guest::become_container(channel, fds),
        ToInit::Enter => enter::run(channel, fds),
        ToInit::BindSocket {
            path,
            user_namespace,
        } => enter::bind_socket(channel, fds, &path, user_namespace),
        ToInit::Emulate => emulate::run(channel, fds),
        ToInit::Shift { ids } => shift::run(channel, fds, ids),
        ToInit::Go | ToInit::Attend | ToInit::Serve | ToInit::Allow | ToInit::Cry { .. } => {
            Err("no order before it").stage("receive the order")
        }
    }
}
