//! Linux, in the words of this project.
//!
//! Everything here is a thin, safe, blocking function over kernel facilities: no policy, no actors, no
//! configuration files. Callers run the slow ones on a blocking pool. This crate and `cml-init` are the
//! only places where `unsafe` may stand.

pub mod atomic;
pub mod cgroup;
pub mod channel;
pub mod device;
pub mod dm;
pub mod emulator;
pub mod error;
pub mod exec;
pub mod file;
pub mod fscrypt;
pub mod host;
pub mod idmap;
pub mod image;
#[cfg(feature = "keypad")]
pub mod keypad;
pub mod loopdev;
pub mod memfd;
pub mod mkfs;
pub mod mount;
pub mod mounted;
#[cfg(feature = "net")]
pub mod net;
mod ordinary;
pub mod path;
pub mod pidfd;
pub mod plan;
pub mod power;
pub mod proc;
pub mod random;
#[cfg(feature = "async")]
pub mod ready;
pub mod seccomp;
mod session;
pub mod signal;
pub mod space;
pub mod spawn;
pub mod uevent;
pub mod usb;

pub use error::{Error, Result};
