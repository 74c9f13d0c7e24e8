//! What clients and files of the existing system rely on (protocol.md, wire-samples.md).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod acceptance;
mod frames;
mod old_client;
mod text;
