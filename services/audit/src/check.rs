//! Whether a log is what the daemon has written, and what stands in it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, Read},
};

use cml_bus::id::ContainerId;
use cml_wire::proto::{AuditEntry, AuditSink};

use crate::{
    anchor::Head,
    chain::{ChainKey, Piece},
    pieces::{self, Raw},
    sink::is_delivered,
};

/// A log at one moment. It is read without holding up whoever writes: what is added later lies behind its end, and a
/// file that is replaced stays open.
#[derive(Debug)]
pub struct Snapshot {
    /// Whose.
    pub id: ContainerId,
    /// How far it goes.
    pub head: Head,
    /// The file, if there is one.
    pub file: Option<File>,
    /// How long the file was.
    pub length: u64,
}

impl Snapshot {
    /// Calls the function with every piece that was not delivered, in order.
    fn each(self, mut look: impl FnMut(&Raw)) -> io::Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let mut log = BufReader::new(file.take(self.length));
        let mut begun = false;
        while let Some(raw) = pieces::next(&mut log)? {
            begun |= !is_delivered(self.head.base, &raw);
            if begun {
                look(&raw);
            }
        }
        Ok(())
    }

    /// Checks every record against the one before it, and the last one against the anchor.
    pub fn check(self, key: &ChainKey) -> AuditSink {
        let (id, head, length) = (self.id, self.head, self.length);
        let mut report = AuditSink {
            sink: id.to_string(),
            dropped: head.dropped,
            delivered: head.base.number,
            bytes: length,
            ..AuditSink::default()
        };
        let mut mark = head.base;
        let mut broken = None;
        let read = self.each(|raw| {
            if let Some(piece) = raw.record().and_then(Piece::parse) {
                report.records += 1;
                report.first.get_or_insert(piece.record.timestamp);
                report.last = Some(piece.record.timestamp);
            }
            if broken.is_some() {
                return;
            }
            let follows = raw.record().map(|body| key.follows(id, mark, body));
            match follows {
                Some(Ok(next)) => mark = next,
                Some(Err(what)) => broken = Some(format!("record {}: {what}", mark.number + 1)),
                None => broken = Some(format!("behind record {}: no whole record", mark.number)),
            }
        });
        if let Err(error) = read {
            broken.get_or_insert(format!("it cannot be read: {error}"));
        }
        report.broken = broken.or_else(|| {
            ends(mark.number, head, length).or_else(|| {
                (mark != head.last).then(|| format!("record {} is another one", mark.number))
            })
        });
        report
    }

    /// The newest records, oldest first. What is no record is left out; [`Snapshot::check`] tells of it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn newest(self, limit: usize) -> io::Result<Vec<AuditEntry>> {
        let sink = self.id.to_string();
        let mut newest = VecDeque::new();
        self.each(|raw| {
            let Some(piece) = raw.record().and_then(Piece::parse) else {
                return;
            };
            if newest.len() == limit {
                newest.pop_front();
            }
            newest.push_back(AuditEntry {
                sink: sink.clone(),
                record: piece.record,
            });
        })?;
        // A limit of none: the one that was put in before it was looked at.
        newest.truncate(limit);
        Ok(newest.into())
    }
}

/// What is wrong with the end of a log whose last genuine record has this number.
fn ends(last: u64, head: Head, length: u64) -> Option<String> {
    if last < head.last.number {
        let (from, to) = (last + 1, head.last.number);
        return Some(match from == to {
            true => format!("record {to} is missing at the end"),
            false => format!("records {from} to {to} are missing at the end"),
        });
    }
    (length != head.length).then(|| {
        let (is, should) = (length, head.length);
        format!("it has {is} bytes and should have {should}")
    })
}
