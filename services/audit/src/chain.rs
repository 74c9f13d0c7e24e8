//! The chain: every record is bound to all before it by a keyed hash (docs/adr/0020-audit.md).
//!
//! A record stands in the log as the existing system writes it, text and a line `-----` (crypto.md 7.2). Number and
//! hash are two further `meta` entries, so whoever reads the text form reads these records too. The hash stands last
//! and covers every byte before it, as written.

use cml_bus::id::ContainerId;
use cml_wire::{
    proto::{AuditRecord, audit_record::Meta},
    text,
};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The line after every record.
pub const END: &[u8] = b"-----\n";
/// The meta entry with the number of a record, from 1 in every log.
pub const NUMBER: &str = "seq";
/// Around the hash.
const BEFORE_HASH: &[u8] = b"meta {\n  key: \"chain\"\n  value: \"";
const AFTER_HASH: &[u8] = b"\"\n}\n";
/// Letters of a hash.
const HASH: usize = 64;

/// What a record is bound to: the hash of the one before it. Zeros before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Link([u8; 32]);

impl From<Link> for String {
    fn from(link: Link) -> Self {
        hex::encode(link.0)
    }
}

impl TryFrom<String> for Link {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut link = Self::default();
        hex::decode_to_slice(text, &mut link.0)?;
        Ok(link)
    }
}

/// A place in the chain: a record, or what is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The number of the record, 0 before the first.
    pub number: u64,
    /// Its hash.
    pub link: Link,
}

/// The key of the chains of a device.
#[derive(Clone)]
pub struct ChainKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChainKey(..)")
    }
}

impl ChainKey {
    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The keyed hash of these pieces.
    pub fn mac(&self, pieces: &[&[u8]]) -> Link {
        #[allow(clippy::expect_used)]
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("a key");
        for piece in pieces {
            mac.update(piece);
        }
        Link(mac.finalize().into_bytes().into())
    }

    /// A record of one log is none of another: the name of the log is hashed as well.
    fn link(&self, sink: ContainerId, before: Link, body: &[u8]) -> Link {
        self.mac(&[sink.to_string().as_bytes(), &before.0, body])
    }

    /// The record that follows `before` as it is written, and the mark that it is.
    pub fn seal(&self, sink: ContainerId, before: Mark, mut record: AuditRecord) -> (String, Mark) {
        let number = before.number + 1;
        record.meta.push(Meta {
            key: NUMBER.to_owned(),
            value: number.to_string(),
        });
        let mut written = text::print_file(&record);
        let link = self.link(sink, before.link, written.as_bytes());
        for part in [BEFORE_HASH, String::from(link).as_bytes(), AFTER_HASH, END] {
            written.push_str(&String::from_utf8_lossy(part));
        }
        (written, Mark { number, link })
    }

    /// The mark that a record is if it follows `before`, unaltered. `body` is the record without [`END`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn follows(&self, sink: ContainerId, before: Mark, body: &[u8]) -> Result<Mark, Break> {
        let found = Piece::parse(body).ok_or(Break::NoRecord)?;
        let number = found.number.ok_or(Break::NoRecord)?;
        let (hashed, link) = found.split.ok_or(Break::Altered)?;
        if number != before.number + 1 {
            return Err(Break::Number {
                found: number,
                expected: before.number + 1,
            });
        }
        match self.link(sink, before.link, &body[..hashed]) == link {
            true => Ok(Mark { number, link }),
            false => Err(Break::Altered),
        }
    }
}

/// What is wrong with a record in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// It cannot be read.
    #[error("what stands there is no record")]
    NoRecord,
    /// Another one should be here.
    #[error("record {expected} is missing; {found} stands there")]
    Number {
        /// What is here.
        found: u64,
        /// What should be here.
        expected: u64,
    },
    /// The hash is not that of the record and those before it.
    #[error("it was altered, or one before it")]
    Altered,
}

/// A record that was read, whether it is genuine or not.
#[derive(Debug, PartialEq)]
pub struct Piece {
    /// As it goes to the guest and to the operator: with its number, without the hash, which only the key can check.
    pub record: AuditRecord,
    /// Its number; absent in records of the existing system.
    pub number: Option<u64>,
    /// How many bytes the hash covers, and the hash.
    split: Option<(usize, Link)>,
}

impl Piece {
    /// Reads a record without [`END`].
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut record: AuditRecord = text::parse(body).ok()?;
        let split = split(body);
        if split.is_some() {
            record.meta.pop();
        }
        let mut numbers = record.meta.iter().filter(|meta| meta.key == NUMBER);
        Some(Self {
            number: numbers.next_back().and_then(|meta| meta.value.parse().ok()),
            split,
            record,
        })
    }

    /// The hash that it claims.
    pub fn link(&self) -> Option<Link> {
        self.split.map(|(_, link)| link)
    }
}

/// Exactly the form that [`ChainKey::seal`] writes: what reads the same but is written otherwise was altered.
fn split(body: &[u8]) -> Option<(usize, Link)> {
    let rest = body.strip_suffix(AFTER_HASH)?;
    let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HASH)?)?;
    let hashed = rest.strip_suffix(BEFORE_HASH)?.len();
    let hash = std::str::from_utf8(hash).ok()?;
    let link = Link::try_from(hash.to_owned()).ok()?;
    (String::from(link) == hash).then_some((hashed, link))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_bus::audit::Did;

    use super::*;

    fn key() -> ChainKey {
        ChainKey::new(Zeroizing::new([7; 32]))
    }

    #[test]
    fn a_sealed_record_reads_as_one_of_the_existing_system() {
        let id = ContainerId::CORE0;
        let record = Did::Create.to(id).meta("name", "w\"e\nb\u{e4}").record();
        let (written, mark) = key().seal(id, Mark::default(), record.clone());
        let body = written.strip_suffix("-----\n").unwrap();
        let read: AuditRecord = text::parse(body.as_bytes()).unwrap();
        assert_eq!(
            (read.r#type, read.timestamp),
            (record.r#type, record.timestamp)
        );
        assert_eq!(read.meta[0].value, "w\"e\nb\u{e4}");
        assert_eq!(read.meta[1].value, "1");
        assert_eq!(read.meta[2].key, "chain");
        assert_eq!(
            key().follows(id, Mark::default(), body.as_bytes()),
            Ok(mark)
        );
        let delivered = Piece::parse(body.as_bytes()).unwrap().record;
        assert_eq!(delivered.meta.len(), 2);
    }

    #[test]
    fn a_record_belongs_to_one_log_one_place_and_one_key() {
        let (a, b) = (ContainerId::random(), ContainerId::random());
        let (first, mark) = key().seal(a, Mark::default(), Did::Start.to(a).record());
        let (second, _) = key().seal(a, mark, Did::Stop.to(a).record());
        let body = |text: &str| text.strip_suffix("-----\n").unwrap().as_bytes().to_vec();
        let (first, second) = (body(&first), body(&second));
        assert!(key().follows(a, mark, &second).is_ok());
        assert_eq!(
            key().follows(b, Mark::default(), &first),
            Err(Break::Altered)
        );
        let missing = Break::Number {
            found: 2,
            expected: 1,
        };
        assert_eq!(key().follows(a, Mark::default(), &second), Err(missing));
        let other = ChainKey::new(Zeroizing::new([8; 32]));
        assert_eq!(
            other.follows(a, Mark::default(), &first),
            Err(Break::Altered)
        );
    }
}
