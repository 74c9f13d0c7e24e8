//! The gateway over real sockets with fake services behind it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod audit;
mod commands;
mod device;
mod exec;
mod hostile;
mod inside;
mod lifecycle;
pub mod rig;
