//! One log: a file of records, from which a guest takes the oldest and to which the daemon adds.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use cml_bus::{
    api::audit::{PieceId, Stored},
    audit::{Did, Note},
    id::ContainerId,
};
use cml_sys::{atomic, file};
use cml_wire::proto::{AuditRecord, audit_record::Meta};
use sha2::{Digest, Sha256};

use crate::{
    anchor::Head,
    chain::{ChainKey, END, Mark, Piece},
    pieces::{self, Raw},
};

/// What was delivered stays in the file until it is this much and half of the file: taking the oldest record out costs
/// next to nothing most of the time.
const WORTH_COMPACTING: u64 = 64 * 1024;

/// Of a full log at least this part is taken out at once: a guest that fetches one record after the other must not
/// have the whole of it written anew for each.
const WORTH_MAKING_ROOM: u64 = 16;

/// Bytes of something that is no record, as they are told.
const RAW_TEXT: usize = 256;

/// What all logs have in common.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The key of the chains.
    pub key: ChainKey,
    /// The most bytes of one log; 0 keeps nothing.
    pub limit: u64,
}

/// A log.
#[derive(Debug)]
pub struct Sink {
    /// Whose.
    pub id: ContainerId,
    path: PathBuf,
    /// How far it goes.
    pub head: Head,
    /// Where the oldest record that was not delivered begins, once that was looked for.
    start: Option<u64>,
    /// Not on the disk for sure.
    pub unsynced: bool,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is in the log.
    Written,
    /// There is no room; it is counted.
    Dropped,
    /// There would be room if what was delivered were taken out of the file.
    NeedsCompacting,
}

/// The oldest piece.
struct Front {
    stored: Stored,
    mark: Option<Mark>,
    length: u64,
}

/// Words for whoever reads the log.
fn raw_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(RAW_TEXT)]).into_owned()
}

fn sys(error: cml_sys::Error) -> io::Error {
    error.source
}

impl Sink {
    /// The log of a container in this directory, which goes as far as `head` says.
    pub fn new(dir: &Path, id: ContainerId, head: Head) -> Self {
        Self {
            path: dir.join(format!("{id}.log")),
            id,
            head,
            start: None,
            unsynced: false,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for reading; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(&self) -> io::Result<Option<File>> {
        match file::open(&self.path) {
            Err(error) if error.is_absence() => Ok(None),
            other => other.map(Some).map_err(sys),
        }
    }

    /// Bytes that are left.
    pub fn room(&self, rules: &Rules) -> u64 {
        let used = self.head.length - self.start.unwrap_or(0).min(self.head.length);
        rules.limit.saturating_sub(used)
    }

    /// Adds a record: its number is the next one, and it tells how many before it found no room.
    ///
    /// # Errors
    /// What the kernel said; the record is not there, and whoever gives it up counts it.
    pub fn append(&mut self, rules: &Rules, note: &Note) -> io::Result<Added> {
        if rules.limit == 0 {
            return Ok(Added::Dropped);
        }
        let mut record = note.record();
        let untold = self.head.untold;
        if untold > 0 {
            record.meta.push(Meta {
                key: "dropped".to_owned(),
                value: untold.to_string(),
            });
        }
        let (written, mark) = rules.key.seal(self.id, self.head.last, record);
        let length = written.len() as u64;
        let limit = match note.is_cheap() {
            true => rules.limit / 4 * 3,
            false => rules.limit,
        };
        let mut file = self.writable(rules)?;
        // Something was found wrong and is told first, so that this record is not the next one any more.
        if self.head.last.number + 1 != mark.number {
            return self.append(rules, note);
        }
        if self.head.length + length > limit {
            let delivered = self.start()?;
            if delivered >= length && delivered >= rules.limit / WORTH_MAKING_ROOM {
                return Ok(Added::NeedsCompacting);
            }
            self.drop_one();
            return Ok(Added::Dropped);
        }
        if let Err(error) = file.write_all(written.as_bytes()) {
            // Half a record must not stand before the next one.
            let _ = file.set_len(self.head.length);
            return Err(error);
        }
        self.head.last = mark;
        self.head.length += length;
        self.head.untold = 0;
        self.unsynced = true;
        Ok(Added::Written)
    }

    /// Counts a record that is not kept.
    pub fn drop_one(&mut self) {
        self.head.dropped += 1;
        self.head.untold += 1;
    }

    /// The file, ready for the next record. A file that is not as this daemon left it is told of in the log itself.
    fn writable(&mut self, rules: &Rules) -> io::Result<File> {
        let file = file::touch(&self.path, 0o600).map_err(sys)?;
        let length = file.metadata()?.len();
        if length != self.head.length {
            self.found_altered(file, rules)?;
            return file::touch(&self.path, 0o600).map_err(sys);
        }
        Ok(file)
    }

    /// Goes on behind whatever is in the file now. It is not repaired: that would destroy what it proves.
    fn found_altered(&mut self, mut file: File, rules: &Rules) -> io::Result<()> {
        tracing::error!(path = %self.path.display(), "an audit log is not as it was left");
        if rules.limit == 0 {
            return Ok(());
        }
        let mut length = file.metadata()?.len();
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(1 + END.len() as u64)))?;
        file.read_to_end(&mut tail)?;
        // What follows must be a piece of its own.
        if length > 0 && !tail.ends_with(b"\n-----\n") {
            file.write_all(b"\n-----\n")?;
            length += 7;
        }
        self.head.length = length;
        self.start = None;
        let told = Did::FindAltered.to(self.id).failed();
        self.append(rules, &told).map(drop)
    }

    /// Compares the file with the head after a start of the daemon, and takes in what a daemon that was killed has
    /// written last. A record that was torn is cut off and told of; anything else that is wrong stays as it is.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn recover(&mut self, rules: &Rules) -> io::Result<()> {
        let file = self.open()?;
        let length = match &file {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        if length == self.head.length {
            return Ok(());
        }
        // Shorter: what was delivered was taken out, and the anchor does not know it yet. Or somebody cut it.
        let (from, mut mark) = match length > self.head.length {
            true => (self.head.length, self.head.last),
            false => (0, self.head.base),
        };
        let (base, mut end) = (mark, from);
        let mut broken = None;
        if let Some(mut file) = file {
            file.seek(SeekFrom::Start(from))?;
            let mut log = BufReader::new(file);
            while let Some(raw) = pieces::next(&mut log)? {
                let delivered = from == 0 && mark == base && self.is_delivered(&raw);
                match genuine(rules, self.id, mark, &raw) {
                    _ if delivered => {}
                    Some(next) => mark = next,
                    None => {
                        broken = Some(raw);
                        break;
                    }
                }
                end += raw.length;
            }
        }
        // Whatever the anchor vouches for must have been met.
        if mark.number < self.head.last.number {
            let file = file::touch(&self.path, 0o600).map_err(sys)?;
            return self.found_altered(file, rules);
        }
        self.head.last = mark;
        self.head.length = length;
        self.unsynced = true;
        let Some(torn) = broken else { return Ok(()) };
        tracing::warn!(path = %self.path.display(), "an audit record was torn");
        file::open_writable(&self.path).map_err(sys)?.set_len(end)?;
        self.head.length = end;
        let told = Did::CorruptRecord.to(self.id).failed();
        let told = told
            .meta("raw_text", raw_text(&torn.body))
            .meta("bytes", length - end);
        self.append(rules, &told).map(drop)
    }

    /// Whether the piece is left of what was delivered.
    fn is_delivered(&self, raw: &Raw) -> bool {
        is_delivered(self.head.base, raw)
    }

    /// Where the oldest record begins that was not delivered.
    fn start(&mut self) -> io::Result<u64> {
        if let Some(start) = self.start {
            return Ok(start);
        }
        let mut start = 0;
        if self.head.base.number > 0
            && let Some(file) = self.open()?
        {
            let mut log = BufReader::new(file.take(self.head.length));
            while let Some(raw) = pieces::next(&mut log)? {
                if !self.is_delivered(&raw) {
                    break;
                }
                start += raw.length;
            }
        }
        self.start = Some(start);
        Ok(start)
    }

    fn front(&mut self) -> io::Result<Option<Front>> {
        let start = self.start()?;
        let Some(mut file) = self.open()? else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(start))?;
        let left = self.head.length.saturating_sub(start);
        let mut log = BufReader::new(file.take(left));
        let Some(raw) = pieces::next(&mut log)? else {
            return Ok(None);
        };
        let piece = raw.record().and_then(Piece::parse);
        let mark = piece.as_ref().and_then(|piece| {
            let (number, link) = (piece.number?, piece.link()?);
            // A number that was never given would have all others taken for delivered.
            let given = self.head.base.number < number && number <= self.head.last.number;
            given.then_some(Mark { number, link })
        });
        let record = piece.map_or_else(|| corrupt(self.id, &raw), |piece| piece.record);
        Ok(Some(Front {
            stored: Stored {
                record,
                id: piece_id(&raw),
            },
            mark,
            length: raw.length,
        }))
    }

    /// The oldest record, after forgetting it if it is this one.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn next(&mut self, acknowledged: Option<PieceId>) -> io::Result<Option<Stored>> {
        if let Some(id) = acknowledged
            && let Some(front) = self.front()?
            && front.stored.id == id
        {
            self.start = Some(self.start()? + front.length);
            self.head.base = front.mark.unwrap_or(self.head.base);
            self.unsynced = true;
        }
        Ok(self.front()?.map(|front| front.stored))
    }

    /// Whether taking out what was delivered is worth it.
    pub fn is_worth_compacting(&self) -> bool {
        let delivered = self.start.unwrap_or(0);
        delivered >= WORTH_COMPACTING && delivered >= self.head.length / 2
    }

    /// Takes what was delivered out of the file. The anchor must be on the disk and know what was: a file that lacks
    /// more than the anchor says was cut.
    ///
    /// # Errors
    /// What the kernel said; the file is whole.
    pub fn compact(&mut self) -> io::Result<()> {
        let start = self.start()?;
        let Some(mut file) = self.open()?.filter(|_| start > 0) else {
            return Ok(());
        };
        file.seek(SeekFrom::Start(start))?;
        let left = self.head.length.saturating_sub(start);
        let mut rest = file.take(left);
        let copied =
            atomic::write_with(&self.path, 0o600, |new| io::copy(&mut rest, new).map(drop));
        copied.map_err(sys)?;
        self.head.length = left;
        self.start = Some(0);
        Ok(())
    }

    /// Has everything on the disk.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = self.open()? {
            file.sync_data()?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Takes over a log of the existing system, whose records have neither number nor hash.
    ///
    /// # Errors
    /// What the kernel said; the file is as it was.
    pub fn import(&mut self, rules: &Rules) -> io::Result<()> {
        let Some(file) = self.open()? else {
            return Ok(());
        };
        let (mut log, mut head) = (BufReader::new(file), Head::default());
        let id = self.id;
        let write = |new: &mut File| {
            let mut new = io::BufWriter::new(new);
            while let Some(raw) = pieces::next(&mut log)? {
                let piece = raw.record().and_then(Piece::parse);
                let record = piece.map_or_else(|| corrupt(id, &raw), |piece| piece.record);
                let (written, mark) = rules.key.seal(id, head.last, record);
                new.write_all(written.as_bytes())?;
                head.last = mark;
                head.length += written.len() as u64;
            }
            new.flush()
        };
        atomic::write_with(&self.path, 0o600, write).map_err(sys)?;
        self.head = head;
        Ok(())
    }
}

/// Whether the piece is left of what was delivered up to `base`.
pub fn is_delivered(base: Mark, raw: &Raw) -> bool {
    let piece = raw.record().and_then(Piece::parse);
    let number = piece.and_then(|piece| piece.number);
    number.is_some_and(|number| number <= base.number)
}

fn genuine(rules: &Rules, id: ContainerId, before: Mark, raw: &Raw) -> Option<Mark> {
    rules.key.follows(id, before, raw.record()?).ok()
}

/// What stands for a piece that is no record (crypto.md 7.2).
fn corrupt(id: ContainerId, raw: &Raw) -> AuditRecord {
    let note = Did::CorruptRecord.to(id).failed();
    note.meta("raw_text", raw_text(&raw.body)).record()
}

fn piece_id(raw: &Raw) -> PieceId {
    let mut hash = Sha256::new();
    hash.update(raw.length.to_be_bytes());
    hash.update(&raw.body);
    hash.finalize().into()
}
