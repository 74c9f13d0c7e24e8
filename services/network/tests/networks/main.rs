//! The networks of containers in real namespaces: one plays the host, others play containers and the world outside.
//!
//! `CML_CYCLES` makes the tests that repeat something repeat it so often (`make test-long`); the default keeps them short.
#![allow(clippy::unwrap_used)]

mod cards;
mod core0;
mod homecoming;
mod rig;
mod rules;
mod virtual_ends;
mod waiting;
