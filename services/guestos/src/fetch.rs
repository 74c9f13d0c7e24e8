//! One file on its way into the store: streamed and hashed in one pass, never more than was promised,
//! resumed where it was cut (protocol.md 6.6; crypto.md 9.2, number 33).

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cml_bus::{api::guestos::GuestOsError, blocking::Pool, error::BusError};
use tokio::time::sleep;

use crate::{
    digest::{Hasher, Promise},
    http,
    meter::Meter,
    source::{CallersRoot, Source},
};

/// How often a file is asked for that does not come (protocol.md 6.6).
const ATTEMPTS: u32 = 3;
/// The pause after the first attempt that failed; twice as long after the next one.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that make an attempt worth another one, however often.
const PROGRESS: u64 = 64 << 10;
/// Bytes between two looks at the wish to stop.
const PIECE: usize = 256 << 10;

/// Why an attempt failed.
#[derive(Debug)]
pub enum Fault {
    /// It may go on from here later.
    Passing(String),
    /// It may work from the beginning.
    Restart(String),
    /// It cannot work.
    Final(String),
}

/// How much may come, and what it must be.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// An image of the signed configuration.
    Image(Promise),
    /// A file that something else vouches for, of at most this many bytes.
    UpTo(u64),
}

impl Wanted {
    fn limit(&self) -> u64 {
        match self {
            Self::Image(promise) => promise.size,
            Self::UpTo(limit) => *limit,
        }
    }

    fn hasher(&self) -> Option<Hasher> {
        match self {
            Self::Image(promise) => Some(promise.hasher()),
            Self::UpTo(_) => None,
        }
    }
}

/// A file that is being fetched.
#[derive(Debug)]
pub struct Download {
    /// Where it comes from.
    pub source: Source,
    /// Where relative paths begin.
    pub root: CallersRoot,
    /// What it must be.
    pub wanted: Wanted,
    /// Where it goes: exists, empty or with room for it.
    pub into: PathBuf,
    /// Told of every byte.
    pub meter: Arc<Meter>,
    /// Nobody wants it any more.
    pub stop: Arc<AtomicBool>,
}

/// What there is of it.
struct State {
    download: Download,
    file: File,
    done: u64,
    hasher: Option<Hasher>,
}

impl Download {
    /// Fetches the file, in jobs of the pool: pauses take no place in it.
    ///
    /// # Errors
    /// `Fetch` with the last reason.
    pub async fn run(self, pool: &Pool) -> Result<(), GuestOsError> {
        let url = self.source.to_string();
        let fail = |reason: String| GuestOsError::Fetch {
            url: url.clone(),
            reason,
        };
        let open = move || State::new(self);
        let mut state = pool
            .run(open)
            .await
            .map_err(BusError::from)?
            .map_err(|error| fail(error.to_string()))?;
        let mut pause = PAUSE;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = state.done;
            let job = move || {
                let outcome = state.attempt();
                (state, outcome)
            };
            let (back, outcome) = pool.run(job).await.map_err(BusError::from)?;
            state = back;
            let (reason, again) = match outcome {
                Ok(()) => return Ok(()),
                Err(Fault::Passing(reason)) => (reason, true),
                Err(Fault::Restart(reason)) => {
                    state.restart();
                    (reason, true)
                }
                Err(Fault::Final(reason)) => (reason, false),
            };
            if !again {
                return Err(fail(reason));
            }
            // A line that is poor brings it in the end.
            if state.done >= before + PROGRESS {
                (attempt, pause) = (0, PAUSE);
            }
            if attempt == ATTEMPTS {
                return Err(fail(format!(
                    "{reason}; given up after {ATTEMPTS} attempts"
                )));
            }
            tracing::warn!(
                url,
                reason,
                attempt,
                done = state.done,
                "fetching goes on soon"
            );
            sleep(pause).await;
            pause *= 2;
        }
    }
}

impl State {
    fn new(download: Download) -> io::Result<Self> {
        let file = File::options().write(true).open(&download.into)?;
        Ok(Self {
            hasher: download.wanted.hasher(),
            download,
            file,
            done: 0,
        })
    }

    /// Forgets what came so far.
    fn restart(&mut self) {
        self.download.meter.back(self.done);
        self.done = 0;
        self.hasher = self.download.wanted.hasher();
    }

    fn attempt(&mut self) -> Result<(), Fault> {
        let from = self.done;
        if let Source::Url(url) = &self.download.source {
            let answer = http::get(url, from, self.download.wanted.limit())?;
            if answer.from != from {
                self.restart();
            }
            self.check_announced(answer.size)?;
            self.take(answer.body)?;
        } else if let Some(opened) = self.download.source.open(&self.download.root) {
            let file = opened.map_err(|error| Fault::Final(error.to_string()))?;
            self.restart();
            self.check_announced(file.metadata().ok().map(|found| found.len()))?;
            self.take(Box::new(file))?;
        }
        self.finish(from > 0)
    }

    /// What the other side says of its size spares both sides the bytes.
    fn check_announced(&self, size: Option<u64>) -> Result<(), Fault> {
        let limit = self.download.wanted.limit();
        let fits = |size| match self.download.wanted {
            Wanted::Image(_) => size == limit,
            Wanted::UpTo(_) => size <= limit,
        };
        match size {
            Some(size) if !fits(size) => Err(Fault::Final(format!(
                "it has {size} bytes instead of {limit}"
            ))),
            _ => Ok(()),
        }
    }

    fn take(&mut self, mut from: Box<dyn Read + Send>) -> Result<(), Fault> {
        let limit = self.download.wanted.limit();
        let mut buffer = vec![0; PIECE];
        loop {
            if self.download.stop.load(Ordering::Relaxed) {
                return Err(Fault::Final("the installation has ended".into()));
            }
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::Passing(error.to_string())),
            };
            let piece = &buffer[..count];
            if self.done + piece.len() as u64 > limit {
                return Err(Fault::Final(format!("it has more than {limit} bytes")));
            }
            self.file
                .write_all_at(piece, self.done)
                .map_err(|error| Fault::Final(format!("cannot be stored: {error}")))?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(piece);
            }
            self.done += piece.len() as u64;
            self.download.meter.forward(piece.len() as u64);
        }
    }

    /// Whether what came is what was wanted. `resumed`: two parts of different files may have met.
    fn finish(&mut self, resumed: bool) -> Result<(), Fault> {
        let stored = |error: io::Error| Fault::Final(format!("cannot be stored: {error}"));
        if let Wanted::Image(promise) = &self.download.wanted {
            if self.done < promise.size {
                let (done, size) = (self.done, promise.size);
                return Err(Fault::Passing(format!(
                    "it ended after {done} of {size} bytes"
                )));
            }
            if let Some(Err(reason)) = self.hasher.take().map(|hasher| promise.kept(hasher)) {
                return Err(match resumed {
                    true => Fault::Restart(reason.into()),
                    false => Fault::Final(reason.into()),
                });
            }
        } else if self.done == 0 {
            return Err(Fault::Final("it is empty".into()));
        }
        self.file.set_len(self.done).map_err(stored)?;
        self.file.sync_all().map_err(stored)
    }
}
