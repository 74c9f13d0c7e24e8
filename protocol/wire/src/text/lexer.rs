//! Words, strings and marks of the text form, each with its place.

use super::{TextError, What};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A name or a number: they only differ by where they stand.
    Word(String),
    /// Between quotes, escapes resolved.
    Quoted(Vec<u8>),
    /// One of `{}<>[]:;,`.
    Mark(char),
    End,
}

impl Token {
    /// As an error message shows it.
    pub fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Quoted(_) => "a string".into(),
            Self::Mark(mark) => format!("`{mark}`"),
            Self::End => "the end of the text".into(),
        }
    }
}

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { line: 1, column: 1 }
    }
}

impl Place {
    pub fn error(self, what: What) -> TextError {
        TextError {
            line: self.line,
            column: self.column,
            what,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Lexer<'t> {
    rest: &'t [u8],
    at: Place,
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t [u8]) -> Self {
        Self {
            rest: text,
            at: Place::default(),
        }
    }

    /// The next token and where it begins.
    pub fn next(&mut self) -> Result<(Token, Place), TextError> {
        self.skip_blank();
        let at = self.at;
        let token = match self.rest.first() {
            None => Token::End,
            Some(&mark @ (b'{' | b'}' | b'<' | b'>' | b'[' | b']' | b':' | b';' | b',')) => {
                self.bump();
                Token::Mark(mark as char)
            }
            Some(&quote @ (b'"' | b'\'')) => {
                self.bump();
                Token::Quoted(self.quoted(quote, at)?)
            }
            Some(&first) if is_word(first) => Token::Word(self.word()),
            Some(&other) => return Err(at.error(What::Byte(other as char))),
        };
        Ok((token, at))
    }

    /// Leaves out the rest of the line.
    pub fn skip_line(&mut self) {
        while !matches!(self.bump(), None | Some(b'\n')) {}
    }

    /// Where the next token begins.
    pub fn place(&mut self) -> Place {
        self.skip_blank();
        self.at
    }

    fn bump(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        if byte == b'\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(byte)
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.rest.first() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => drop(self.bump()),
                b'#' => self.skip_line(),
                _ => break,
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&byte) = self.rest.first().filter(|&&byte| is_word(byte)) {
            word.push(byte as char);
            self.bump();
        }
        word
    }

    fn quoted(&mut self, quote: u8, from: Place) -> Result<Vec<u8>, TextError> {
        let mut bytes = Vec::new();
        loop {
            let at = self.at;
            // Raw line ends and raw bytes inside quotes are the old reader's, too.
            match self.bump().ok_or_else(|| from.error(What::OpenString))? {
                b'\\' => bytes.push(self.escape(at)?),
                byte if byte == quote => return Ok(bytes),
                byte => bytes.push(byte),
            }
        }
    }

    fn escape(&mut self, at: Place) -> Result<u8, TextError> {
        let Some(kind) = self.bump() else {
            return Err(at.error(What::OpenString));
        };
        Ok(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'\\' | b'\'' | b'"' | b'?' => kind,
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'0'..=b'7' => self.digits(u32::from(kind - b'0'), 8, 2, at)?,
            b'x' | b'X' => match self.digit(16) {
                Some(first) => self.digits(first, 16, 1, at)?,
                None => return Err(at.error(What::Escape(kind as char))),
            },
            other => return Err(at.error(What::Escape(other as char))),
        })
    }

    /// Up to `more` further digits.
    fn digits(&mut self, first: u32, radix: u32, more: usize, at: Place) -> Result<u8, TextError> {
        let mut value = first;
        for _ in 0..more {
            let Some(digit) = self.digit(radix) else {
                break;
            };
            value = value * radix + digit;
        }
        // Three octal digits reach to 511.
        u8::try_from(value).map_err(|_| at.error(What::Escape('0')))
    }

    fn digit(&mut self, radix: u32) -> Option<u32> {
        let digit = (*self.rest.first()? as char).to_digit(radix)?;
        self.bump();
        Some(digit)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.')
}
