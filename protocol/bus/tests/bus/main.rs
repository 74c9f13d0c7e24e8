//! What the bus promises to every service and every caller (anchors.md part C, ACT-01 to ACT-05).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod crash_loop;
mod death;
mod events;
mod fakes;
mod flood;
mod order;
mod pools;
mod ports;
mod rig;
