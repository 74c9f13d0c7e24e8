//! The liberal reader. Values are checked against the field's type where they stand.

use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage, Value, bytes::Bytes,
};

use super::{
    TextError, What,
    lexer::{Lexer, Place, Token},
    similar::similar,
    survey::Survey,
};

/// Messages inside messages; ours reach 3. The bound keeps hostile text off the stack.
pub const MAX_DEPTH: usize = 32;

pub fn parse(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, TextError> {
    Reader::new(text, None).message(descriptor, None, 0)
}

/// Goes on after mistakes, and notes them with the places of all fields. What cannot be read is left out.
pub fn survey(descriptor: &MessageDescriptor, text: &[u8]) -> (DynamicMessage, Survey) {
    let mut reader = Reader::new(text, Some(Survey::default()));
    let read = reader.message(descriptor, None, 0);
    let mut survey = reader.survey.unwrap_or_default();
    survey.end = reader.lexer.place();
    // An error here is one mistake too many, and noted like the others.
    let message = read.unwrap_or_else(|_| DynamicMessage::new(descriptor.clone()));
    (message, survey)
}

struct Reader<'t> {
    lexer: Lexer<'t>,
    ahead: Option<(Token, Place)>,
    /// The line of the last name of a field.
    line: usize,
    /// There if all mistakes are wanted and not only the first one.
    survey: Option<Survey>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t [u8], survey: Option<Survey>) -> Self {
        Self {
            lexer: Lexer::new(text),
            ahead: None,
            line: 1,
            survey,
        }
    }

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

    /// Goes on after a mistake where all of them are wanted.
    fn forgive(&mut self, error: TextError) -> Result<(), TextError> {
        let Some(survey) = &mut self.survey else {
            return Err(error);
        };
        // Inside a broken word nobody knows what the next byte means; a new line most often is a new field.
        if matches!(
            error.what,
            What::Byte(_) | What::OpenString | What::Escape(_)
        ) {
            self.ahead = None;
            self.lexer.skip_line();
        }
        survey.note(error)
    }

    /// The error for a token that should be something else. It is read again where it may begin what follows.
    fn unexpected(&mut self, wanted: &'static str, token: Token, at: Place) -> TextError {
        let error = at.error(What::Expected {
            wanted,
            found: token.describe(),
        });
        let closes = matches!(token, Token::Mark('}' | '>') | Token::End);
        if closes || at.line > self.line {
            self.ahead = Some((token, at));
        }
        error
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
            match self.item(&mut message, close, depth) {
                Ok(true) => {}
                Ok(false) => return Ok(message),
                Err(error) => self.forgive(error)?,
            }
        }
    }

    /// One field, or the end of the message: false.
    fn item(
        &mut self,
        message: &mut DynamicMessage,
        close: Option<char>,
        depth: usize,
    ) -> Result<bool, TextError> {
        let (token, at) = self.next()?;
        match token {
            Token::Word(name) => self.field(message, &name, at, depth)?,
            Token::End if close.is_none() => return self.complete(message, at),
            Token::Mark(mark) if Some(mark) == close => return self.complete(message, at),
            Token::End => {
                self.forgive(expected("`}`", &Token::End, at))?;
                // Whatever is missing is missing for want of the rest.
                self.ahead = Some((Token::End, at));
                return Ok(false);
            }
            other => return Err(expected("a field name", &other, at)),
        }
        self.mark(&[',', ';'])?;
        Ok(true)
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        name: &str,
        at: Place,
        depth: usize,
    ) -> Result<(), TextError> {
        self.line = at.line;
        let descriptor = message.descriptor();
        let Some(field) = descriptor.get_field_by_name(name) else {
            if self.survey.is_some() {
                self.skip_value()?;
            }
            let known = descriptor.fields();
            let known: Vec<_> = known.map(|field| field.name().to_owned()).collect();
            return Err(at.error(What::UnknownField {
                message: descriptor.name().into(),
                field: name.into(),
                like: similar(name, &known),
            }));
        };
        let colon = self.mark(&[':'])?.is_some();
        if field.is_list() {
            // In its place: a copy of the list for every value would make long lists slow.
            return match message.get_field_mut(&field) {
                Value::List(list) => self.values(&field, list, colon, depth),
                _ => Ok(()),
            };
        }
        // The old reader takes a repeated required scalar, the last one wins (protocol.md 1.6).
        let twice = message.has_field(&field);
        let value = self.value(&field, None, colon, depth)?;
        if twice && !may_default(&field) {
            return Err(at.error(What::Twice(name.into())));
        }
        if twice && let Some(survey) = &mut self.survey {
            survey.overrule(name, at);
        }
        message.set_field(&field, value);
        Ok(())
    }

    /// The values of a list: one, or several between brackets.
    fn values(
        &mut self,
        field: &FieldDescriptor,
        list: &mut Vec<Value>,
        colon: bool,
        depth: usize,
    ) -> Result<(), TextError> {
        if self.mark(&['['])?.is_none() {
            list.push(self.value(field, Some(list.len()), colon, depth)?);
            return Ok(());
        }
        while self.mark(&[']'])?.is_none() {
            match self.value(field, Some(list.len()), true, depth) {
                Ok(value) => list.push(value),
                Err(error) if matches!(error.what, What::Value { .. }) => self.forgive(error)?,
                Err(error) => return Err(error),
            }
            self.mark(&[','])?;
        }
        Ok(())
    }

    /// A value; `index`: of the list that it belongs to.
    fn value(
        &mut self,
        field: &FieldDescriptor,
        index: Option<usize>,
        colon: bool,
        depth: usize,
    ) -> Result<Value, TextError> {
        let (token, at) = self.next()?;
        if let Some(survey) = &mut self.survey {
            survey.enter(field.name(), index, at);
        }
        let value = self.value_at(field, token, at, colon, depth);
        if let Some(survey) = &mut self.survey {
            survey.leave(value.is_ok());
        }
        value
    }

    fn value_at(
        &mut self,
        field: &FieldDescriptor,
        token: Token,
        at: Place,
        colon: bool,
        depth: usize,
    ) -> Result<Value, TextError> {
        if let Kind::Message(inner) = field.kind() {
            let close = match token {
                Token::Mark('{') => '}',
                Token::Mark('<') => '>',
                other => return Err(self.unexpected("`{`", other, at)),
            };
            if depth + 1 >= MAX_DEPTH {
                return Err(at.error(What::Depth));
            }
            let inner = self.message(&inner, Some(close), depth + 1)?;
            return Ok(Value::Message(inner));
        }
        if !colon {
            return Err(self.unexpected("`:`", token, at));
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
            (kind, Token::Word(word)) => match scalar(&kind, &word) {
                Some(value) => Ok(value),
                // More likely the next field than a value on a line of its own.
                None if at.line > self.line => {
                    Err(self.unexpected("a value", Token::Word(word), at))
                }
                None => Err(no_value(format!("`{word}`"))),
            },
            (_, Token::Quoted(_)) => Err(no_value("a string".into())),
            (_, other) => Err(self.unexpected("a value", other, at)),
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

    /// Leaves out the value of a field that nobody knows.
    fn skip_value(&mut self) -> Result<(), TextError> {
        let colon = self.mark(&[':'])?.is_some();
        let mut open = 0_usize;
        loop {
            let (token, at) = self.next()?;
            match token {
                Token::Mark('{' | '<' | '[') => open += 1,
                Token::Mark('}' | '>' | ']') if open > 0 => open -= 1,
                Token::Word(_) | Token::Quoted(_) | Token::Mark(':' | ',' | ';') if open > 0 => {}
                Token::Quoted(bytes) if colon => return self.adjacent(bytes).map(drop),
                Token::Word(_) if colon => return Ok(()),
                other => {
                    self.ahead = Some((other, at));
                    return Ok(());
                }
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Checks that nothing required is missing that may not be. What may be left out becomes the declared
    /// default or an enum's first value when the message is decoded. Always false: here the message ends.
    fn complete(&mut self, message: &DynamicMessage, at: Place) -> Result<bool, TextError> {
        let descriptor = message.descriptor();
        for field in descriptor.fields() {
            let required = field.cardinality() == Cardinality::Required && !may_default(&field);
            let survey = self.survey.as_ref();
            let broken = survey.is_some_and(|survey| survey.is_broken(field.name()));
            if required && !broken && !message.has_field(&field) {
                self.forgive(at.error(What::Missing {
                    message: descriptor.name().into(),
                    field: field.name().into(),
                }))?;
            }
        }
        Ok(false)
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

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Enum(names) => {
            let values: Vec<_> = names.values().map(|one| one.name().to_owned()).collect();
            format!("{} ({})", names.name(), values.join(", "))
        }
        Kind::String => "string".into(),
        Kind::Bytes => "byte string".into(),
        Kind::Bool => "bool (true or false)".into(),
        Kind::Uint32 | Kind::Fixed32 => "32-bit unsigned number".into(),
        Kind::Uint64 | Kind::Fixed64 => "64-bit unsigned number".into(),
        Kind::Int32 => "32-bit number".into(),
        _ => "number".into(),
    }
}
