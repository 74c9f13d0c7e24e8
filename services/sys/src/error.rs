//! The error of every function here: what was attempted, on what, and what the kernel said.

use std::{fmt, io};

/// A system call failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {subject}: {source}")]
pub struct Error {
    /// What was attempted, in words: `mount`, `open`.
    pub action: &'static str,
    /// The path, id or device it was attempted on.
    pub subject: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// The result of every function here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of our own finding, in the clothes of an I/O error.
    pub fn invalid(action: &'static str, subject: impl fmt::Display, why: &str) -> Self {
        Self {
            action,
            subject: subject.to_string(),
            source: io::Error::new(io::ErrorKind::InvalidData, why.to_owned()),
        }
    }

    /// An error that another process of ours has found: what it was doing, and why it could not.
    pub fn failed(stage: String, reason: &str) -> Self {
        Self {
            action: "cannot",
            subject: stage,
            source: io::Error::other(reason.to_owned()),
        }
    }

    /// The kernel's error number, if it came from the kernel.
    pub fn errno(&self) -> Option<i32> {
        let explained = || self.source.get_ref()?.downcast_ref::<Explained>();
        self.source
            .raw_os_error()
            .or_else(|| explained().map(|explained| explained.errno))
    }
}

/// A kernel error number with the kernel's own explanation.
#[derive(Debug, thiserror::Error)]
#[error("{} ({explanation})", io::Error::from_raw_os_error(*errno))]
struct Explained {
    errno: i32,
    explanation: String,
}

/// A kernel error with the kernel's own explanation.
pub(crate) fn explained(errno: i32, explanation: &str) -> io::Error {
    let kind = io::Error::from_raw_os_error(errno).kind();
    let explanation = explanation.to_owned();
    io::Error::new(kind, Explained { errno, explanation })
}

/// Adds what was attempted, and on what, to a kernel error.
pub trait Context<T> {
    /// Names the action and its subject.
    ///
    /// # Errors
    /// The error of `self`, with the context.
    fn context(self, action: &'static str, subject: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: &'static str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error {
            action,
            subject: subject.to_string(),
            source: error.into(),
        })
    }
}
