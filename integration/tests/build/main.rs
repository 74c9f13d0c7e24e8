//! What is true of the tree and of the programs themselves.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod ignored;
mod install;
mod programs;
mod walls;
