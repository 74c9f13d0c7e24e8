//! The provisioning service: the device as a whole.
//!
//! It decides when the device gets its identity and until when that may be changed, and holds the flag of
//! provisioned mode; keys and certificates themselves are the token service's. [`dmi`] names the machine, [`stats`]
//! measures it, [`logs`] reads and deletes log files. [`Provisioning`] is the actor. It calls the token and the
//! container service.
#![forbid(unsafe_code)]

mod actor;
pub mod dmi;
pub mod logs;
mod machine;
pub mod stats;
#[cfg(test)]
mod tests;

pub use actor::{Ports, Provisioning, Settings};
pub use machine::{EndMachine, Machine};
