//! The network service: what connects containers, and brings physical interfaces home again.
//!
//! [`Network`] is the actor; it hands every request to [`Networks`], which does one thing at a time on a blocking
//! pool. What a container was given is written down (`record`) before it is done, so that a daemon that was killed at
//! any moment finds it and takes it back; its namespace has a name of its own (`/run/netns/<uuid>`) and outlives guest
//! and daemon until then. Where what belongs is decided without touching anything: subnets in `lease`, the rules of the
//! filter in `rules`, what an operator means in `claim`. See docs/adr/0030-network.md.
#![forbid(unsafe_code)]

mod actor;
mod bridge;
mod claim;
mod home;
mod lease;
mod listen;
mod names;
mod networks;
mod nic;
mod record;
mod router;
mod rules;
mod show;
mod state;
mod veth;

pub use actor::Network;
pub use networks::{Networks, Settings};
