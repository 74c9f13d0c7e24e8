//! The old reader's grammar, as narrow as protocol.md 1.6 describes it: what it takes, every device in the
//! field takes.

use prost::Name;
use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

pub fn accepts<M: Name>(text: &[u8]) -> bool {
    let mut rest = text;
    fields(&mut rest, &super::descriptor::<M>(), false).is_some() && rest.is_empty()
}

fn blank(rest: &mut &[u8]) {
    while let [b' ' | b'\t' | b'\n', more @ ..] = *rest {
        *rest = more;
    }
}

fn eat(rest: &mut &[u8], byte: u8) -> Option<()> {
    blank(rest);
    *rest = rest.strip_prefix(&[byte])?;
    Some(())
}

fn word<'t>(rest: &mut &'t [u8]) -> Option<&'t str> {
    blank(rest);
    let end = rest
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-'))
        .unwrap_or(rest.len());
    let (word, more) = rest.split_at(end);
    *rest = more;
    std::str::from_utf8(word)
        .ok()
        .filter(|word| !word.is_empty())
}

fn fields(rest: &mut &[u8], message: &MessageDescriptor, nested: bool) -> Option<()> {
    let mut seen = Vec::new();
    loop {
        blank(rest);
        if rest.is_empty() || (nested && rest[0] == b'}') {
            break;
        }
        let field = message.get_field_by_name(word(rest)?)?;
        let scalar = !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
        let twice = seen.contains(&field.number());
        if twice && !field.is_list() && !(scalar && field.cardinality() == Cardinality::Required) {
            return None;
        }
        seen.push(field.number());
        if let Kind::Message(inner) = field.kind() {
            eat(rest, b'{')?;
            fields(rest, &inner, true)?;
            eat(rest, b'}')?;
        } else {
            eat(rest, b':')?;
            value(rest, &field)?;
        }
    }
    let complete = message.fields().all(|field| {
        field.cardinality() != Cardinality::Required
            || seen.contains(&field.number())
            || !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_))
    });
    complete.then_some(())
}

fn value(rest: &mut &[u8], field: &FieldDescriptor) -> Option<()> {
    match field.kind() {
        Kind::String | Kind::Bytes => quoted(rest),
        Kind::Bool => matches!(word(rest)?, "true" | "false").then_some(()),
        Kind::Enum(names) => names.get_value_by_name(word(rest)?).map(drop),
        Kind::Uint32 | Kind::Fixed32 => word(rest)?.parse::<u32>().ok().map(drop),
        Kind::Uint64 => word(rest)?.parse::<u64>().ok().map(drop),
        _ => None,
    }
}

fn quoted(rest: &mut &[u8]) -> Option<()> {
    eat(rest, b'"')?;
    loop {
        let (&byte, more) = rest.split_first()?;
        *rest = more;
        match byte {
            b'"' => return Some(()),
            b'\\' => match *rest {
                [b'n' | b'r' | b't' | b'"' | b'\'' | b'\\', more @ ..] => *rest = more,
                [b'0', b'0'..=b'7', b'0'..=b'7', more @ ..] => *rest = more,
                _ => return None,
            },
            _ => {}
        }
    }
}
