//! The strict writer: ascending field numbers, two spaces a level, octal escapes (protocol.md 1.6).

use std::fmt::Write;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

/// What becomes of bytes beyond printable ASCII inside quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// Octal escapes, as the old command line prints. The old reader takes those only below `\100`.
    Octal,
    /// As they are where the old reader does not take the escape.
    Raw,
}

pub fn print(descriptor: &MessageDescriptor, bytes: &[u8], beyond: Beyond) -> String {
    let mut out = String::new();
    #[allow(clippy::expect_used)]
    // The bytes were encoded from the message this descriptor describes.
    let message = DynamicMessage::decode(descriptor.clone(), bytes).expect("bytes of this message");
    fields(&mut out, &message, 0, beyond);
    out
}

fn fields(out: &mut String, message: &DynamicMessage, depth: usize, beyond: Beyond) {
    // The descriptor lists fields as the file does; readers of diffs expect numbers.
    let mut known: Vec<_> = message.descriptor().fields().collect();
    known.sort_by_key(FieldDescriptor::number);
    for field in known.iter().filter(|field| message.has_field(field)) {
        match &*message.get_field(field) {
            Value::List(values) => values
                .iter()
                .for_each(|v| one(out, field, v, depth, beyond)),
            value => one(out, field, value, depth, beyond),
        }
    }
}

fn one(out: &mut String, field: &FieldDescriptor, value: &Value, depth: usize, beyond: Beyond) {
    let name = field.name();
    let indent = 2 * depth;
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Message(inner) => {
            let _ = writeln!(out, "{:indent$}{name} {{", "");
            fields(out, inner, depth + 1, beyond);
            writeln!(out, "{:indent$}}}", "")
        }
        value => writeln!(
            out,
            "{:indent$}{name}: {}",
            "",
            scalar(field, value, beyond)
        ),
    };
}

fn scalar(field: &FieldDescriptor, value: &Value, beyond: Beyond) -> String {
    match (value, field.kind()) {
        (Value::String(text), _) => quote(text, beyond),
        (Value::Bytes(bytes), _) => quote_bytes(bytes),
        (Value::EnumNumber(number), Kind::Enum(names)) => names
            .get_value(*number)
            .map_or_else(|| "unknown".into(), |value| value.name().to_owned()),
        // Numbers and booleans; no message of ours has floating-point fields or maps.
        (value, _) => value.to_string(),
    }
}

fn quote(text: &str, beyond: Beyond) -> String {
    if beyond == Beyond::Octal {
        return quote_bytes(text.as_bytes());
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match u8::try_from(letter) {
            // Above, an escape would be `\100` or more.
            Ok(byte) if byte < 0o100 || byte.is_ascii_graphic() => escape(&mut out, byte),
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    bytes.iter().for_each(|&byte| escape(&mut out, byte));
    out.push('"');
    out
}

fn escape(out: &mut String, byte: u8) {
    match byte {
        b'"' => out.push_str("\\\""),
        b'\'' => out.push_str("\\'"),
        b'\\' => out.push_str("\\\\"),
        b'\n' => out.push_str("\\n"),
        b'\r' => out.push_str("\\r"),
        b'\t' => out.push_str("\\t"),
        b' '..=b'~' => out.push(byte as char),
        // Writing to a String cannot fail.
        _ => drop(write!(out, "\\{byte:03o}")),
    }
}
