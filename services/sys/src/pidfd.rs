//! Processes by pidfd: no reuse of numbers, no `waitpid(-1)` (LIF-02).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::error::{Context, Error, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It returned this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It is not our child, so the kernel does not tell.
    Unknown,
}

/// A descriptor for a running process, checked to be the one that started at `start_time`.
///
/// # Errors
/// The process is gone, or the number belongs to another process now.
pub fn open(pid: i32, start_time: u64) -> Result<OwnedFd> {
    let number = Pid::from_raw(pid).ok_or_else(|| Error::invalid("open", pid, "not a pid"))?;
    let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK).context("open process", pid)?;
    // Read after opening: if the times agree now, the descriptor is for that very process.
    if crate::proc::start_time(pid)? != start_time {
        return Err(Error::invalid(
            "open process",
            pid,
            "the number belongs to another process now",
        ));
    }
    Ok(pidfd)
}

/// Sends a signal by number.
///
/// # Errors
/// The process is gone, or the number is no signal.
pub fn signal(pidfd: impl AsFd, number: i32) -> Result<()> {
    let signal = if (1..=64).contains(&number) {
        // SAFETY: the kernel refuses numbers that are no signals; `from_raw_unchecked` itself only wraps
        // the number, and real-time signals have no named constant.
        unsafe { Signal::from_raw_unchecked(number) }
    } else {
        return Err(Error::invalid("send", number, "not a signal"));
    };
    pidfd_send_signal(pidfd, signal).context("send signal", number)
}

/// Collects a process that has ended. Of one that is not our child the kernel tells how it ended since
/// Linux 6.15, and only when its parent has collected it; who was killed is told by nobody then.
///
/// # Errors
/// What the kernel said.
pub fn reap(pidfd: impl AsFd) -> Result<Ended> {
    match waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    ) {
        Ok(Some(status)) => Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, Some(signal)) => Ended::Signalled(signal),
            (None, None) => Ended::Unknown,
        }),
        Ok(None) => Ok(Ended::Unknown),
        Err(rustix::io::Errno::CHILD) => Ok(told(pidfd).unwrap_or(Ended::Unknown)),
        Err(error) => Err(error).context("wait for", "process"),
    }
}

/// `struct pidfd_info` of linux/pidfd.h in its first version, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    group: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// _IOWR(0xFF, 11, struct pidfd_info)
const PIDFD_GET_INFO: libc::Ioctl = 0xC040_FF0B_u32 as libc::Ioctl;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// What the kernel tells about the end of any process.
fn told(pidfd: impl AsFd) -> Option<Ended> {
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        ..Info::default()
    };
    // SAFETY: the request takes a live structure of exactly this size.
    let done = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if done != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    match Ended::of_wait_status(info.exit_code) {
        // What has ended its last thread. The first process of a PID namespace ends by it as well when that is
        // switched off or restarted, which wait(2) tells and this does not.
        Ended::Signalled(libc::SIGKILL) => None,
        ended => Some(ended),
    }
}

impl Ended {
    /// From a status as wait(2) has it.
    pub fn of_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited((status >> 8) & 0xff),
            signal => Self::Signalled(signal),
        }
    }
}

/// Waits until a process has ended, at most this long, and collects it.
///
/// # Errors
/// `TimedOut`, or what the kernel said.
pub fn wait(pidfd: impl AsFd, patience: std::time::Duration) -> Result<Ended> {
    let timeout = rustix::time::Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let fd = pidfd.as_fd();
    let mut fds = [rustix::event::PollFd::new(
        &fd,
        rustix::event::PollFlags::IN,
    )];
    loop {
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                return Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
                    .context("wait for", "process");
            }
            Ok(_) => return reap(fd),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for", "process"),
        }
    }
}
