//! The container service: every container of the device and its life cycle.
//!
//! [`Manager`] is the service on the bus; behind it there is one actor per container (`actor`). What a
//! container does next is decided by a pure state machine ([`fsm`]), how it is put together by a pure
//! planner ([`plan`]), what it stores is in `volumes`; the rest of the crate carries out what these two say.
#![forbid(unsafe_code)]

mod actor;
mod ending;
mod entry;
mod env;
mod exec;
pub mod fsm;
mod guest_audit;
mod guest_service;
mod guestos;
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
mod store;
#[cfg(test)]
mod tests;
mod unlock;
mod view;
mod volumes;

pub use env::{Env, Settings};
pub use manager::Manager;
pub use volumes::Policy;
