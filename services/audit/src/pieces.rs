//! A log as a sequence of pieces: what stands between two lines `-----`.

use std::io::{self, BufRead};

use crate::chain::END;

/// More than any record has; what is longer is none, and is not kept in memory whole.
pub const PIECE_MAX: usize = 64 * 1024;

/// What stands before a line `-----`, or at the end of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Raw {
    /// The bytes without the line: all of them, or the first [`PIECE_MAX`].
    pub body: Vec<u8>,
    /// How long it is on the disk, with its line.
    pub length: u64,
    /// The line is there; absent only at the end of the log.
    pub ended: bool,
}

impl Raw {
    /// The bytes if this can be a record.
    pub fn record(&self) -> Option<&[u8]> {
        let whole = self.ended && self.length == (self.body.len() + END.len()) as u64;
        whole.then_some(&self.body)
    }
}

/// The next piece; `None` at the end.
///
/// # Errors
/// What the kernel said.
pub fn next(log: &mut impl BufRead) -> io::Result<Option<Raw>> {
    let mut raw = Raw {
        body: Vec::new(),
        length: 0,
        ended: false,
    };
    // Lines may be longer than a buffer, so it is remembered what a line has begun with.
    let mut line: Option<Vec<u8>> = Some(Vec::new());
    loop {
        let buffer = log.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let taken = newline.map_or(buffer.len(), |at| at + 1);
        let part = &buffer[..taken];
        if let Some(start) = &mut line {
            match start.len() + part.len() <= END.len() {
                true => start.extend(part),
                false => line = None,
            }
        }
        let room = PIECE_MAX.saturating_sub(raw.body.len()).min(part.len());
        raw.body.extend(&part[..room]);
        raw.length += taken as u64;
        log.consume(taken);
        if newline.is_some() {
            if line.as_deref() == Some(END) {
                raw.ended = true;
                // Where all of the piece was kept the line was kept with it.
                if raw.length == raw.body.len() as u64 {
                    raw.body.truncate(raw.body.len() - END.len());
                }
                break;
            }
            line = Some(Vec::new());
        }
    }
    Ok((raw.length > 0).then_some(raw))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::BufReader;

    use super::*;

    fn pieces(bytes: &[u8]) -> Vec<(Vec<u8>, u64, bool)> {
        // A tiny buffer, so that every border is met.
        let mut log = BufReader::with_capacity(3, bytes);
        let mut all = Vec::new();
        while let Some(raw) = next(&mut log).unwrap() {
            all.push((raw.body, raw.length, raw.ended));
        }
        all
    }

    #[test]
    fn only_a_whole_line_ends_a_piece() {
        let found = pieces(b"a: 1\n-----\nb------\n ----\n-----\n-----\nrest\n----");
        let expected = [
            (b"a: 1\n".to_vec(), 11, true),
            (b"b------\n ----\n".to_vec(), 20, true),
            (b"".to_vec(), 6, true),
            (b"rest\n----".to_vec(), 9, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_piece_that_is_too_long_is_measured_and_not_kept() {
        let mut bytes = vec![b'x'; PIECE_MAX + 10];
        bytes.extend(b"\n-----\nok\n-----\n");
        let mut log = BufReader::new(&bytes[..]);
        let long = next(&mut log).unwrap().unwrap();
        assert_eq!((long.body.len(), long.ended), (PIECE_MAX, true));
        assert_eq!(long.record(), None);
        let next = next(&mut log).unwrap().unwrap();
        assert_eq!(next.record(), Some(&b"ok\n"[..]));
    }
}
