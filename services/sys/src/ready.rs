//! Descriptors in the event loop of the daemon (feature `async`; `cml-init` has no event loop).

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

pub use tokio::io::{Interest, unix::AsyncFd};

/// Registers a file that does not block.
///
/// # Errors
/// The kernel takes no more descriptors, or cannot wait for this kind.
pub fn watch(file: File, interest: Interest) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` names the same open descriptor from its making to its drop, and the registration
    // owns it.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(io::Error::from)
}

/// Registers a second descriptor of something that is read elsewhere, to learn when there is something to
/// read.
///
/// # Errors
/// As [`watch`].
pub fn watch_readable(of: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = of.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` names the same open descriptor from its making to its drop, and the
    // registration owns it.
    unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }.map_err(io::Error::from)
}
