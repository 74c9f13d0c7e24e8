//! The audit service: security events in logs that tell when somebody has changed them (crypto.md 7).
//!
//! Services note what happens (`cml_bus::audit`); [`Audit`] writes it down, one log for each container and one for the
//! device. [`chain`] binds every record to all before it, [`anchor`] says how far each log goes, [`sink`] is one log,
//! [`journal`] all of them, [`check`] reads them and finds what was changed. What that proves, and against whom, stands
//! in docs/adr/0020-audit.md. The service calls nobody.
#![forbid(unsafe_code)]

mod actor;
pub mod anchor;
pub mod chain;
pub mod check;
pub mod journal;
pub mod pieces;
pub mod sink;
#[cfg(test)]
mod tests;

pub use actor::Audit;
pub use journal::Settings;
