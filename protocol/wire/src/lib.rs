//! Bytes to messages and back.
//!
//! [`proto`] holds the messages of the control socket, of the configuration files and of the socket inside
//! containers, compiled from `protocol/proto`; [`frame`] cuts a byte stream into them; [`text`] is the
//! protobuf text form that configuration files and the command line use; [`rules`] says what the values in such
//! a file must keep to. No policy, no actors, no choice
//! of I/O: whoever links this crate decides how the bytes come and go.

#![forbid(unsafe_code)]

pub mod frame;
pub mod paths;
mod redact;
pub mod rules;
pub mod text;

/// The messages, one flat module as the definitions have no package. Documented in `protocol/proto/*.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}
