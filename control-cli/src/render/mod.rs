//! Replies as people and programs want to see them. Pure: text in, text out.

mod audit;
mod json;
pub mod stats;
mod table;
mod text;

use std::fmt::Write;

use cml_wire::proto::{ContainerState, DaemonToController, daemon_to_controller::Code};

use crate::exit;

pub use json::no_reply;

/// Form of the results, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Protobuf text, as the old client printed it.
    Text,
    /// One JSON document.
    Json,
    /// Tables and sentences.
    Table {
        /// Of the terminal, in characters, if it is one.
        width: Option<usize>,
    },
}

/// What a command is called in sentences.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// The command.
    pub action: &'a str,
    /// What is said when it succeeded and the reply carries nothing else.
    pub done: &'a str,
}

/// A reply, ready to be printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// For standard output.
    pub out: String,
    /// For standard error, one line; may be empty.
    pub err: String,
    /// For standard error, a line each: what was done, but not in every respect as one would expect.
    pub warnings: Vec<String>,
    /// The exit status.
    pub status: u8,
}

/// Shows the reply to a command that expects this code.
pub fn reply(
    format: Format,
    reply: &DaemonToController,
    expected: Code,
    words: Words<'_>,
) -> Shown {
    let good = exit::succeeded(reply, expected);
    let failed = || {
        let reason = printable(&exit::reason(reply));
        format!("{} failed: {reason}", words.action)
    };
    let (out, err) = match (format, good) {
        (Format::Text, true) => (text::reply(reply), String::new()),
        (Format::Text, false) => (text::reply(reply), failed()),
        (Format::Json, good) => (json::reply(reply, good), String::new()),
        (Format::Table { width }, true) => (table::reply(reply, words, width), String::new()),
        // What is broken is told among what is not.
        (Format::Table { width }, false) if reply.code == i32::from(Code::AuditVerdict) => {
            (audit::verdict(reply, width), failed())
        }
        (Format::Table { .. }, false) => (String::new(), failed()),
    };
    let status = if good { exit::OK } else { exit::REFUSED };
    let warnings = match format {
        // In the document.
        Format::Json => Vec::new(),
        _ => reply.warnings.iter().map(|one| printable(one)).collect(),
    };
    Shown {
        out,
        err,
        warnings,
        status,
    }
}

/// Text from elsewhere, without what could command a terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            // Writing to a `String` does not fail.
            let _ = write!(out, "{}", char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// Names of states in tables and JSON (design.md 1: state 8).
pub fn state_name(state: i32) -> &'static str {
    match ContainerState::try_from(state) {
        Ok(ContainerState::Shutdown) => "SHUTTING_DOWN",
        Ok(state) => state.as_str_name(),
        Err(_) => "unknown",
    }
}

/// Whether nothing of a container runs.
pub fn is_at_rest(state: i32) -> bool {
    matches!(
        ContainerState::try_from(state),
        Ok(ContainerState::Stopped | ContainerState::Zombie)
    )
}

/// The name of a value of this enum; `unknown` as in protobuf text (protocol.md 1.6).
macro_rules! name {
    ($kind:ty, $value:expr) => {
        <$kind>::try_from($value).map_or("unknown", |value| value.as_str_name())
    };
}
use name;

#[cfg(test)]
mod tests;
