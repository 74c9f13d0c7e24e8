//! The liberal reader. Values are checked against the field's type where they stand.

use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage, Value, bytes::Bytes,
};

use super::{
    TextError, What,
    lexer::{Lexer, Place, Token},
};

/// Messages inside messages; ours reach 3. The bound keeps hostile text off the stack.
pub const MAX_DEPTH: usize = 32;

pub fn parse(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, TextError> {
    let mut reader = Reader {
        lexer: Lexer::new(text),
        ahead: None,
    };
    reader.message(descriptor, None, 0)
}

struct Reader<'t> {
    lexer: Lexer<'t>,
    ahead: Option<(Token, Place)>,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<(Token, Place), TextError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    /// Takes the next token if it is one of these marks.
    fn mark(&mut self, wanted: &[char]) -> Result<Option<char>, TextError> {
        let (token, at) = self.next()?;
        match token {
            Token::Mark(mark) if wanted.contains(&mark) => Ok(Some(mark)),
            other => {
                self.ahead = Some((other, at));
                Ok(None)
            }
        }
    }

    /// Fields up to `close`, or to the end of the text.
    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        close: Option<char>,
        depth: usize,
    ) -> Result<DynamicMessage, TextError> {
        let mut message = DynamicMessage::new(descriptor.clone());
        loop {
            let (token, at) = self.next()?;
            match token {
                Token::Word(name) => self.field(&mut message, &name, at, depth)?,
                Token::End if close.is_none() => {
                    complete(&message, descriptor, at)?;
                    return Ok(message);
                }
                Token::Mark(mark) if Some(mark) == close => {
                    complete(&message, descriptor, at)?;
                    return Ok(message);
                }
                other => return Err(expected("a field name", &other, at)),
            }
            self.mark(&[',', ';'])?;
        }
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        name: &str,
        at: Place,
        depth: usize,
    ) -> Result<(), TextError> {
        let descriptor = message.descriptor();
        let field = descriptor.get_field_by_name(name).ok_or_else(|| {
            at.error(What::UnknownField {
                message: descriptor.name().into(),
                field: name.into(),
            })
        })?;
        let colon = self.mark(&[':'])?.is_some();
        if field.is_list() {
            let mut values = message.get_field(&field).into_owned();
            if let Value::List(list) = &mut values {
                if self.mark(&['['])?.is_some() {
                    while self.mark(&[']'])?.is_none() {
                        list.push(self.value(&field, true, depth)?);
                        self.mark(&[','])?;
                    }
                } else {
                    list.push(self.value(&field, colon, depth)?);
                }
            }
            message.set_field(&field, values);
            return Ok(());
        }
        // The old reader takes a repeated required scalar, the last one wins (protocol.md 1.6).
        if message.has_field(&field) && !may_default(&field) {
            return Err(at.error(What::Twice(name.into())));
        }
        let value = self.value(&field, colon, depth)?;
        message.set_field(&field, value);
        Ok(())
    }

    fn value(
        &mut self,
        field: &FieldDescriptor,
        colon: bool,
        depth: usize,
    ) -> Result<Value, TextError> {
        let (token, at) = self.next()?;
        if let Kind::Message(inner) = field.kind() {
            let close = match token {
                Token::Mark('{') => '}',
                Token::Mark('<') => '>',
                other => return Err(expected("`{`", &other, at)),
            };
            if depth + 1 >= MAX_DEPTH {
                return Err(at.error(What::Depth));
            }
            let inner = self.message(&inner, Some(close), depth + 1)?;
            return Ok(Value::Message(inner));
        }
        if !colon {
            return Err(expected("`:`", &token, at));
        }
        let no_value = |written: String| {
            at.error(What::Value {
                field: field.name().into(),
                kind: kind_name(&field.kind()),
                value: written,
            })
        };
        match (field.kind(), token) {
            (Kind::String, Token::Quoted(bytes)) => {
                let all = self.adjacent(bytes)?;
                String::from_utf8(all)
                    .map(Value::String)
                    .map_err(|_| no_value("a string that is not UTF-8".into()))
            }
            (Kind::Bytes, Token::Quoted(bytes)) => {
                Ok(Value::Bytes(Bytes::from(self.adjacent(bytes)?)))
            }
            (kind, Token::Word(word)) => {
                scalar(&kind, &word).ok_or_else(|| no_value(format!("`{word}`")))
            }
            (_, Token::Quoted(_)) => Err(no_value("a string".into())),
            (_, other) => Err(expected("a value", &other, at)),
        }
    }

    /// Strings that follow each other are one string.
    fn adjacent(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, TextError> {
        loop {
            match self.next()? {
                (Token::Quoted(more), _) => bytes.extend(more),
                other => {
                    self.ahead = Some(other);
                    return Ok(bytes);
                }
            }
        }
    }
}

fn expected(wanted: &'static str, found: &Token, at: Place) -> TextError {
    at.error(What::Expected {
        wanted,
        found: found.describe(),
    })
}

fn scalar(kind: &Kind, word: &str) -> Option<Value> {
    Some(match kind {
        Kind::Bool => Value::Bool(match word {
            "true" | "True" | "t" | "1" => true,
            "false" | "False" | "f" | "0" => false,
            _ => return None,
        }),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(word)?.try_into().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(word)?.try_into().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(word)?.try_into().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(word)?.try_into().ok()?),
        Kind::Enum(names) => Value::EnumNumber(enum_number(names, word)?),
        // Strings are quoted, and no message of ours has floating-point fields.
        _ => return None,
    })
}

fn enum_number(names: &EnumDescriptor, word: &str) -> Option<i32> {
    if let Some(value) = names.get_value_by_name(word) {
        return Some(value.number());
    }
    let number = i32::try_from(integer(word)?).ok()?;
    names.get_value(number).map(|value| value.number())
}

/// Decimal, or hexadecimal with `0x`; wide enough for every integer type.
fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        // The old reader is plain decimal, so a leading zero is not octal here either.
        _ => (10, digits),
    };
    // from_str_radix takes a sign of its own.
    if digits.is_empty() || !digits.bytes().all(|digit| (digit as char).is_digit(radix)) {
        return None;
    }
    Some(sign * i128::from_str_radix(digits, radix).ok()?)
}

/// Required scalars may be left out; required strings and messages may not (protocol.md 1.6).
fn may_default(field: &FieldDescriptor) -> bool {
    field.cardinality() == Cardinality::Required
        && !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_))
}

/// Checks that nothing required is missing that may not be. What may be left out becomes the declared
/// default or an enum's first value when the message is decoded.
fn complete(
    message: &DynamicMessage,
    descriptor: &MessageDescriptor,
    at: Place,
) -> Result<(), TextError> {
    let missing = descriptor.fields().find(|field| {
        field.cardinality() == Cardinality::Required
            && !message.has_field(field)
            && !may_default(field)
    });
    match missing {
        Some(field) => Err(at.error(What::Missing {
            message: descriptor.name().into(),
            field: field.name().into(),
        })),
        None => Ok(()),
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Enum(names) => names.name().to_owned(),
        Kind::String => "string".into(),
        Kind::Bytes => "byte string".into(),
        Kind::Bool => "bool (true or false)".into(),
        Kind::Uint32 | Kind::Fixed32 => "32-bit unsigned number".into(),
        Kind::Uint64 | Kind::Fixed64 => "64-bit unsigned number".into(),
        Kind::Int32 => "32-bit number".into(),
        _ => "number".into(),
    }
}
