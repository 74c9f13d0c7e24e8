//! The socket gateway: the only translator between the control protocol and the bus.
//!
//! Bytes arrive at a `session`, are admitted by the `policy`, become a typed request
//! (`translate_in`), one port call, and a reply (`translate_out`). The gateway holds no state of its own
//! and decides nothing but who may send what.
#![forbid(unsafe_code)]

mod actor;
mod answer;
mod budget;
mod codec;
mod exec;
mod inbox;
mod inside;
mod logs;
mod outbox;
mod policy;
mod push;
mod session;
#[cfg(test)]
mod tests;
mod translate_in;
mod translate_out;

pub use actor::{Gateway, SESSIONS_MAX, SHUTDOWN_DEADLINE, Shutdown};
pub use policy::{Admission, Mode};
pub use session::Ports;
