//! The container service: every container of the device and its life cycle.
//!
//! [`Manager`] is the service on the bus; behind it there is one actor per container (`actor`). What a
//! container does next is decided by a pure state machine ([`fsm`]), how it is put together by a pure
//! planner ([`plan`]), what it stores is in `volumes`; the rest of the crate carries out what these two say.
#![forbid(unsafe_code)]

mod actor;
mod autostart;
mod control_socket;
mod core0;
mod damaged;
mod devices;
mod ending;
mod entry;
mod env;
mod exec;
mod fifos;
pub mod fsm;
mod guest_audit;
mod guest_service;
mod guestos;
mod hotplug;
mod ids;
mod interfaces;
mod launch;
mod load;
mod manager;
mod network;
mod noted;
mod one;
mod plan;
mod record;
mod remarks;
mod resources;
mod stats;
mod store;
#[cfg(test)]
mod tests;
mod unlock;
mod view;
mod volumes;

pub use env::{Env, Settings};
pub use manager::Manager;
pub use resources::Defaults;
pub use volumes::Policy;
