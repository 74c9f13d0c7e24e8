//! The protobuf text form of configuration files and of the command line's output (protocol.md 1.6).
//!
//! [`print_file`] writes only what the oldest reader understands, [`print`] what the command line shows; [`parse`] reads that and, beyond it, comments,
//! DOS line ends, hexadecimal numbers, numeric enums, lists and single quotes.

mod examine;
mod lexer;
mod printer;
mod reader;
mod similar;
mod survey;

use std::sync::OnceLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

pub use examine::{Examined, examine};
use printer::Beyond;
pub use reader::MAX_DEPTH;

/// Where and why a text is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct TextError {
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// What is wrong.
    pub what: What,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum What {
    /// A byte that begins nothing.
    #[error("unexpected byte {0:?}")]
    Byte(char),
    /// A quote that is never closed.
    #[error("the string is not closed")]
    OpenString,
    /// An escape sequence that does not exist.
    #[error("unknown escape sequence \\{0}")]
    Escape(char),
    /// Something else should stand here.
    #[error("expected {wanted}, found {found}")]
    Expected {
        /// What should stand here.
        wanted: &'static str,
        /// What stands here.
        found: String,
    },
    /// The message has no such field.
    #[error("{message} has no field `{field}`{}", meant(like.as_deref()))]
    UnknownField {
        /// The message's name.
        message: String,
        /// The field's name.
        field: String,
        /// The name of a field that looks like it.
        like: Option<String>,
    },
    /// The value does not fit the field's type.
    #[error("{value} is no {kind} for `{field}`")]
    Value {
        /// The field's name.
        field: String,
        /// The field's type.
        kind: String,
        /// The value as written.
        value: String,
    },
    /// A field that stands at most once stands again.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// A field that must stand is not there.
    #[error("{message} lacks the required field `{field}`")]
    Missing {
        /// The message's name.
        message: String,
        /// The field's name.
        field: String,
    },
    /// Messages inside messages inside messages.
    #[error("messages are nested deeper than {MAX_DEPTH}")]
    Depth,
}

fn meant(like: Option<&str>) -> String {
    like.map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The form the command line shows: every byte beyond printable ASCII as an octal escape.
#[must_use]
pub fn print<M: Message + Name>(message: &M) -> String {
    printer::print(&descriptor::<M>(), &message.encode_to_vec(), Beyond::Octal)
}

/// The form of files: like [`print`], but letters beyond ASCII stand as they are, because the old reader
/// takes them so and does not take their escapes.
#[must_use]
pub fn print_file<M: Message + Name>(message: &M) -> String {
    printer::print(&descriptor::<M>(), &message.encode_to_vec(), Beyond::Raw)
}

/// Reads a message; see the module for what is accepted.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse<M: Message + Name + Default>(text: &[u8]) -> Result<M, TextError> {
    reader::parse(&descriptor::<M>(), text).map(|dynamic| typed(&dynamic))
}

#[allow(clippy::expect_used)]
fn typed<M: Message + Default>(dynamic: &DynamicMessage) -> M {
    // Built after the same descriptor field by field, so the bytes fit the message.
    dynamic
        .transcode_to()
        .expect("a message of this descriptor")
}

#[allow(clippy::expect_used)]
fn descriptor<M: Name>() -> MessageDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        // Made by build.rs from the same files as the messages.
        DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))[..])
            .expect("the descriptors of this build")
    })
    .get_message_by_name(&M::full_name())
    // Every message with a name of ours was compiled from those files.
    .expect("a message of this crate")
}

#[cfg(test)]
mod tests;
