//! Devices: rules about who may use which, and how the kernel is made to keep them.

pub mod bpf;
pub mod node;
mod rules;

pub use rules::{Access, BadRule, Device, Inexpressible, Kind, Rule, Rules, Verdict};
