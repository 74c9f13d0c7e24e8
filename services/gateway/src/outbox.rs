//! The sending half of a connection: one reply, one frame, one write (protocol.md 1.3).

use std::time::Duration;

use cml_wire::proto::{DaemonToController, daemon_to_controller::Response};
use tokio::{io::AsyncWriteExt, net::unix::OwnedWriteHalf, time::timeout};

use crate::{codec, session::End, translate_out};

/// How long a peer may leave one reply unread.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// Replies leave here.
#[derive(Debug)]
pub struct Outbox {
    write: OwnedWriteHalf,
}

impl Outbox {
    /// Writes to this half.
    pub fn new(write: OwnedWriteHalf) -> Self {
        Self { write }
    }

    /// Sends the reply, waiting for a slow peer. One that is too large for a frame is replaced by
    /// `CMD_FAILED`.
    ///
    /// Not cancel-safe: after a cancelled call half a frame may be on its way, so the connection must be
    /// given up.
    ///
    /// # Errors
    /// [`End::NotReading`] after 60 s, [`End::Io`] when the peer is gone.
    pub async fn send(&mut self, reply: &DaemonToController) -> Result<(), End> {
        let bytes = match codec::reply(reply) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = format!("the reply cannot be sent: {error}");
                codec::reply(&translate_out::failure(Response::CmdFailed, reason))?
            }
        };
        timeout(WRITE_DEADLINE, self.write.write_all(&bytes))
            .await
            .map_err(|_| End::NotReading)?
            .map_err(End::Io)
    }
}
