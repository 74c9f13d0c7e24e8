//! What a service manager gives a daemon, so that it comes first and is killed last, and what a daemon gives itself:
//! not meant for the guests that it starts (SEC-02). From outside, as a process in a user namespace cannot raise its own
//! limits.

use std::{fs, io, mem};

use rustix::{
    io::Errno,
    process::{Pid, Resource, Rlimit, getrlimit, prlimit, setpriority_process},
};

use crate::error::{Context, Result};

/// Processors in the widest mask: more than kernels are built for.
const PROCESSORS: usize = 8192;
/// As systemd gives to its services: many files for those that ask, and few for those that close all they could have.
const OPEN_FILES: Rlimit = Rlimit {
    current: Some(1024),
    maximum: Some(512 * 1024),
};
/// Cores for those that ask.
const CORES: Rlimit = Rlimit {
    current: Some(0),
    maximum: None,
};

/// Gives a process, which has not run yet, the attributes that the first process of a machine has.
///
/// # Errors
/// It is gone.
pub(crate) fn make(pid: i32) -> Result<()> {
    let process = Pid::from_raw(pid);
    let path = format!("/proc/{pid}/oom_score_adj");
    let protection = fs::write(&path, "0");
    allowed(protection.context("write", path))?;
    for (resource, limit) in [(Resource::Core, CORES), (Resource::Nofile, OPEN_FILES)] {
        set_limit(process, resource, limit).context("set limits of process", pid)?;
    }
    // SAFETY: all-zero is the only priority that the ordinary policy knows.
    let normal: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: a live structure.
    let set = unsafe { libc::sched_setscheduler(pid, libc::SCHED_OTHER, &raw const normal) };
    allowed(check(set).context("schedule process", pid))?;
    let set = setpriority_process(process, 0);
    allowed(set.context("set priority of process", pid))?;
    // The kernel leaves those out that there are not, and a cpuset those that are not the container's.
    let all = [u8::MAX; PROCESSORS / 8];
    // SAFETY: live bytes, as many as said.
    let set = unsafe { libc::sched_setaffinity(pid, all.len(), all.as_ptr().cast()) };
    allowed(check(set).context("free the processors of process", pid))
}

/// Sets a limit, no higher than a daemon in a container may.
fn set_limit(process: Option<Pid>, resource: Resource, limit: Rlimit) -> rustix::io::Result<()> {
    match prlimit(process, resource, limit) {
        Ok(_) => Ok(()),
        Err(Errno::PERM) => {
            // Its own is what the process has inherited.
            let maximum = getrlimit(resource).maximum;
            let current = match (limit.current, maximum) {
                (Some(current), Some(maximum)) => Some(current.min(maximum)),
                (current, maximum) => current.or(maximum),
            };
            prlimit(process, resource, Rlimit { current, maximum }).map(drop)
        }
        Err(error) => Err(error),
    }
}

/// A daemon that may not, in a container itself, has its guests share what it has.
fn allowed(outcome: Result<()>) -> Result<()> {
    let forbidden = [Errno::PERM, Errno::ACCESS].map(Errno::raw_os_error);
    match outcome {
        Err(error)
            if error
                .errno()
                .is_some_and(|errno| forbidden.contains(&errno)) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn check(done: libc::c_int) -> io::Result<()> {
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
