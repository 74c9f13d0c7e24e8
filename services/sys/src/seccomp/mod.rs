//! Which system calls a guest may make, which are refused, and which somebody else does for it
//! (runtime.md 2.6, SEC-12, SEC-13; docs/adr/0041-system-calls.md).
//!
//! [`policy`] is the list, as data; [`bpf`] makes the kernel's program of it; [`notify`] is the other end of
//! the calls that are done for the guest.

pub mod bpf;
pub mod notify;
pub mod policy;

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use crate::error::{Context, Result};

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The kernel decides, as without a filter.
    Allow,
    /// It fails with this error number.
    Refuse(i32),
    /// The caller waits until the holder of the listener has answered.
    Notify,
}

/// A test of one argument. Only its lower 32 bits are looked at: nothing of the list takes more, and what is
/// above them the kernel ignores as well. Never a pointer, as the guest can change what is behind it (SEC-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Which argument, from 0.
    pub argument: u8,
    /// The bits that count.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

/// What happens to one system call, if all tests hold. The first rule that fits counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub call: u32,
    /// All of these must hold; always if there are none.
    pub tests: Vec<Test>,
    /// What happens then.
    pub action: Action,
}

/// Installs a filter for this process and its children, for good. With rules that notify it returns the
/// listener; where the kernel or a filter around us leaves no room for one, those calls go to the kernel,
/// which refuses what the guest has no right to.
///
/// # Errors
/// The kernel has no filters, or this process may not install one.
pub fn install(rules: &[Rule]) -> Result<Option<OwnedFd>> {
    if !rules.iter().any(|rule| rule.action == Action::Notify) {
        return load(rules, 0).map(|_| None);
    }
    // WAIT_KILLABLE_RECV (Linux 5.19): a signal for the caller does not break off what is being done for it.
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    for flags in [
        listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        listener,
    ] {
        match load(rules, flags) {
            // SAFETY: with this flag a success is a new descriptor, and it is ours.
            Ok(fd) => return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
    }
    let silent: Vec<_> = rules
        .iter()
        .filter(|rule| rule.action != Action::Notify)
        .cloned()
        .collect();
    load(&silent, 0).map(|_| None)
}

fn load(rules: &[Rule], flags: libc::c_ulong) -> Result<RawFd> {
    let mut program = bpf::compile(rules);
    let program = libc::sock_fprog {
        // The list is ours and short: the kernel's limit is 4096.
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is live for the call, which copies it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match RawFd::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()).context("install", "system call filter"),
    }
}
