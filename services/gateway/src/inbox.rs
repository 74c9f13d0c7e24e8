//! The receiving half of a connection: bytes become requests in bounded memory and time (SEC-15).
//!
//! The header is looked at here as well as in the decoder, because the memory for a long frame must be
//! granted before its body is read.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use cml_wire::proto::ControllerToDaemon;
use tokio::{
    io::{AsyncReadExt, Interest},
    net::unix::OwnedReadHalf,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout_at},
};
use zeroize::Zeroize;

use crate::{
    budget::{Budget, FREE},
    codec::{HEADER, Splitter},
    session::End,
};

/// How long a frame may take from its first to its last byte.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);

/// Room for one read of a connection that sends small requests; 1,000 idle ones cost 4 MiB.
const SMALL_READ: usize = 4 * 1024;

/// Pause between two looks at a connection whose bytes are not wanted now.
const HANG_UP_POLL: Duration = Duration::from_millis(250);

/// A received message and the memory it was granted.
#[derive(Debug)]
pub struct Frame {
    /// What was asked.
    pub message: ControllerToDaemon,
    /// Present for frames longer than [`FREE`]; to be kept as long as the message's contents.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// Where the frame stands that is arriving now.
#[derive(Debug, Default)]
struct Progress {
    header: [u8; HEADER],
    seen: usize,
    /// Body bytes still to come, once the header is complete.
    missing: usize,
}

impl Progress {
    /// How many of the `available` bytes belong to the header, or, after it, to the body.
    fn wanted(&self, available: usize) -> usize {
        if self.seen < HEADER {
            available.min(HEADER - self.seen)
        } else {
            available.min(self.missing)
        }
    }

    /// Notes that these bytes, as many as were wanted, are with the decoder. Returns the length of the
    /// body when they complete the header.
    fn advance(&mut self, bytes: &[u8]) -> Option<u32> {
        if self.seen == HEADER {
            self.missing -= bytes.len();
            return None;
        }
        self.header[self.seen..self.seen + bytes.len()].copy_from_slice(bytes);
        self.seen += bytes.len();
        if self.seen < HEADER {
            return None;
        }
        let length = u32::from_be_bytes(self.header);
        self.missing = length as usize;
        Some(length)
    }
}

/// Requests arrive here.
#[derive(Debug)]
pub struct Inbox {
    read: OwnedReadHalf,
    budget: Budget,
    splitter: Splitter,
    /// Received, but not with the decoder yet.
    raw: BytesMut,
    progress: Progress,
    /// When the first byte of the present frame was looked at.
    since: Option<Instant>,
    /// The present frame needs this much from the budget.
    needs: Option<u32>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Inbox {
    /// Reads from this half, with memory for long frames from `budget`.
    pub fn new(read: OwnedReadHalf, budget: Budget) -> Self {
        Self {
            read,
            budget,
            splitter: Splitter::default(),
            raw: BytesMut::new(),
            progress: Progress::default(),
            since: None,
            needs: None,
            permit: None,
        }
    }

    /// The next request. Cancel-safe: nothing that was read is lost.
    ///
    /// # Errors
    /// [`End`] when the peer is gone, breaks the protocol or is too slow.
    pub async fn next(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(bytes) = self.needs {
                let deadline = self.deadline();
                let permit = timeout_at(deadline, self.budget.take(bytes)).await;
                self.permit = Some(permit.map_err(|_| End::NoBudget(bytes))?);
                self.needs = None;
            }
            if !self.raw.is_empty() {
                if let Some(message) = self.digest()? {
                    return Ok(Frame {
                        message,
                        permit: self.permit.take(),
                    });
                }
                continue;
            }
            self.fill().await?;
        }
    }

    /// Hands the decoder what belongs to the header or body that is arriving.
    fn digest(&mut self) -> Result<Option<ControllerToDaemon>, End> {
        self.since.get_or_insert_with(Instant::now);
        let count = self.progress.wanted(self.raw.len());
        self.splitter.feed(&self.raw[..count]);
        let announced = self.progress.advance(&self.raw[..count]);
        // There may be a PIN among them.
        self.raw[..count].zeroize();
        self.raw.advance(count);
        if let Some(length) = announced
            && length as usize + HEADER > FREE
        {
            self.needs = Some(length);
        }
        let message = self.splitter.request()?;
        if message.is_some() {
            self.since = None;
            self.progress = Progress::default();
        }
        Ok(message)
    }

    async fn fill(&mut self) -> Result<(), End> {
        let room = if self.progress.missing > SMALL_READ {
            FREE
        } else {
            SMALL_READ
        };
        // A buffer that a long frame has enlarged is not kept.
        if self.raw.capacity() > room {
            self.raw = BytesMut::new();
        }
        self.raw.reserve(room);
        let deadline = self.since.map(|since| since + FRAME_DEADLINE);
        let read = self.read.read_buf(&mut self.raw);
        let count = match deadline {
            None => read.await?,
            Some(deadline) => timeout_at(deadline, read)
                .await
                .map_err(|_| End::Stalled(FRAME_DEADLINE))??,
        };
        if count == 0 {
            return Err(End::Gone);
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        self.since.unwrap_or_else(Instant::now) + FRAME_DEADLINE
    }

    /// Returns when the peer has closed its end, without reading on. To be used while nothing is read:
    /// unread bytes hide the end from `read`, and readiness cannot be awaited for it alone.
    pub async fn hung_up(&self) {
        loop {
            match self.read.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => sleep(HANG_UP_POLL).await,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use cml_bus::actor::System;
    use cml_wire::proto::controller_to_daemon::Command;
    use tokio::{io::AsyncWriteExt, net::UnixStream, time::pause};

    use super::*;
    use crate::tests::rig::{bare, framed};

    fn large() -> Vec<u8> {
        let mut message = bare(Command::CreateContainer);
        message.container_config_file = Some(vec![7; 100_000]);
        framed(&message)
    }

    /// An inbox, and the other end of its connection.
    fn connection(budget: &Budget) -> (Inbox, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Inbox::new(ours.into_split().0, budget.clone()), theirs)
    }

    /// Like [`connection`]; the peer sends these bytes and stays.
    fn sent(budget: &Budget, bytes: Vec<u8>) -> Inbox {
        let (inbox, mut theirs) = connection(budget);
        cml_bus::actor::spawn(async move {
            let _ = theirs.write_all(&bytes).await;
            std::future::pending::<()>().await;
        });
        inbox
    }

    #[test]
    fn a_long_frame_holds_its_memory_until_the_request_is_done() {
        System::new().block_on(async {
            let budget = Budget::private(150_000);
            let mut first = sent(&budget, large());
            let mut second = sent(&budget, large());
            let frame = first.next().await.unwrap();
            assert!(frame.permit.is_some());
            let waiting = tokio::time::timeout(Duration::from_millis(50), second.next()).await;
            assert!(waiting.is_err());
            drop(frame);
            let frame = second.next().await.unwrap();
            assert_eq!(frame.message.container_config_file().len(), 100_000);
        });
    }

    #[test]
    fn a_frame_that_gets_no_memory_in_time_ends_its_connection() {
        System::new().block_on(async {
            pause();
            let budget = Budget::private(50_000);
            let end = sent(&budget, large()).next().await.unwrap_err();
            assert!(matches!(end, End::NoBudget(bytes) if bytes > 100_000));
        });
    }

    #[test]
    fn short_frames_need_no_budget() {
        System::new().block_on(async {
            let budget = Budget::private(0);
            let mut inbox = sent(&budget, framed(&bare(Command::GetProvisioned)));
            assert!(inbox.next().await.unwrap().permit.is_none());
        });
    }

    #[test]
    fn a_cancelled_wait_loses_nothing() {
        System::new().block_on(async {
            let (mut inbox, mut peer) = connection(&Budget::private(200_000));
            for chunk in large().chunks(30_000) {
                peer.write_all(chunk).await.unwrap();
                let _ = tokio::time::timeout(Duration::from_millis(20), async {
                    // Shorter than the frame: only the last one can come to an end.
                    inbox.next().await.map(drop)
                })
                .await
                .map(|done| done.unwrap());
            }
            peer.write_all(&framed(&bare(Command::GetProvisioned)))
                .await
                .unwrap();
            let frame = inbox.next().await.unwrap();
            assert_eq!(frame.message.command(), Command::GetProvisioned);
        });
    }

    #[test]
    fn a_hang_up_is_noticed_behind_unread_bytes() {
        System::new().block_on(async {
            let (inbox, mut peer) = connection(&Budget::private(0));
            peer.write_all(b"unread").await.unwrap();
            drop(peer);
            inbox.hung_up().await;
        });
    }
}
