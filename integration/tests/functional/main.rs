//! What the system does for its users, end to end.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod adoption;
mod audit;
mod autostart;
mod command_line;
mod configuration;
mod core0;
mod core0_fallback;
mod debian;
mod devices;
mod encryption;
mod exec;
mod freezer;
mod groups;
mod guestos_elsewhere;
mod guestos_install;
mod guestos_trust;
mod guests;
mod hotplug;
mod lifecycle;
mod network;
mod network_changes;
mod operators;
mod owners;
mod pin;
mod provisioning;
mod resources;
mod service_unit;
mod verity;
mod volumes;
mod wipe;
