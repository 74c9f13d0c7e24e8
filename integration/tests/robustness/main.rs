//! Hostile clients, hostile guests, crashes and crowds.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod crashes;
mod crowds;
mod damage;
mod garbage;
mod hogs;
mod hostile_guests;
mod networks;
mod power_cuts;
