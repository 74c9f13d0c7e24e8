//! The other end of system calls that are done for a guest (seccomp_unotify(2)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use crate::error::{Context, Result};

/// A call that waits for an answer. Its arguments are numbers that the guest can no longer change; what is behind
/// a pointer among them it can change at any time, so that must be read once, and only the copy be used (SEC-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Names it in the answer.
    pub id: u64,
    /// The process that made it. After its end the number may be another's: ask [`Listener::waits`] after
    /// everything was opened that is found by it.
    pub pid: i32,
    /// The number of the system call.
    pub number: libc::c_long,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Where calls arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

// linux/seccomp.h: _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp),
// _IOW('!', 2, __u64).
const RECEIVE: libc::Ioctl = 0xC050_2100_u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xC018_2101_u32 as libc::Ioctl;
const ID_VALID: libc::Ioctl = 0x4008_2102_u32 as libc::Ioctl;

impl Listener {
    /// Takes the next call; `None` if its maker has gone before it was taken.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn receive(&self) -> Result<Option<Call>> {
        // SAFETY: all-zero is what the kernel demands of the structure, and its size is that in the request.
        let (done, call) = unsafe {
            let mut call: libc::seccomp_notif = std::mem::zeroed();
            let done = libc::ioctl(self.0.as_raw_fd(), RECEIVE, &raw mut call);
            (done, call)
        };
        if done == 0 {
            return Ok(Some(Call {
                id: call.id,
                pid: call.pid.cast_signed(),
                number: call.data.nr.into(),
                args: call.data.args,
            }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The caller was killed, or we were interrupted: normal (LIF-17).
            Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(None),
            _ => Err(error).context("receive", "system call"),
        }
    }

    /// Whether the call still waits, and so its process number is still its maker's.
    pub fn waits(&self, call: &Call) -> bool {
        // SAFETY: the request takes a pointer to a live number of 8 bytes.
        unsafe { libc::ioctl(self.0.as_raw_fd(), ID_VALID, &raw const call.id) == 0 }
    }

    /// Answers a call: what it returns, or an error number. One that waits no longer needs no answer.
    pub fn answer(&self, call: &Call, outcome: std::result::Result<i64, i32>) {
        let answer = libc::seccomp_notif_resp {
            id: call.id,
            val: outcome.unwrap_or(0),
            error: outcome.err().map_or(0, |errno| -errno),
            flags: 0,
        };
        // SAFETY: the request takes a live structure of this size.
        unsafe { libc::ioctl(self.0.as_raw_fd(), SEND, &raw const answer) };
    }
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
