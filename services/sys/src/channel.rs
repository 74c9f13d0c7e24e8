//! The channel between the daemon and `cml-init`: one typed message per packet, with file descriptors.
//!
//! A `SOCK_SEQPACKET` pair keeps message borders and tells at once when the other side is gone.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Context, Error, Result};

/// The most file descriptors that one packet carries: kernel limit SCM_MAX_FD is 253.
pub const MAX_FDS: usize = 128;
/// Larger messages travel as a sealed memfd; a packet is for the handshake only.
const MAX_PACKET: usize = 16 * 1024;

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends of a new channel, close-on-exec.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn pair() -> Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("make", "socketpair")?;
        Ok((Self(ours), Self(theirs)))
    }

    /// Sends one message with file descriptors.
    ///
    /// # Errors
    /// The peer is gone, or what the kernel said.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_with(message, fds, SendFlags::NOSIGNAL)
    }

    /// As [`Channel::send`], but fails where that would wait for the peer to listen.
    ///
    /// # Errors
    /// `WouldBlock`, the peer is gone, or what the kernel said.
    pub fn offer<M: Serialize>(&self, message: &M) -> Result<()> {
        self.send_with(message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with<M: Serialize>(
        &self,
        message: &M,
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(message).context("encode", "message")?;
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::invalid(
                "send",
                fds.len(),
                "too many file descriptors",
            ));
        }
        sendmsg(&self.0, &[io::IoSlice::new(&bytes)], &mut ancillary, flags)
            .context("send to", "the other side")?;
        Ok(())
    }

    /// Waits for one message, at most this long.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer is gone, `TimedOut`, or what the kernel said.
    pub fn receive<M: DeserializeOwned>(
        &self,
        patience: Option<Duration>,
    ) -> Result<(M, Vec<OwnedFd>)> {
        self.wait_readable(patience)?;
        let mut bytes = vec![0; MAX_PACKET];
        // Room for MAX_FDS descriptors: 4 bytes each and the header.
        let mut space = vec![MaybeUninit::uninit(); MAX_FDS * 4 + 64];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [io::IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .context("receive from", "the other side")?;
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(Error {
                action: "receive from",
                subject: "the other side".into(),
                source: io::Error::new(io::ErrorKind::UnexpectedEof, "it ended"),
            });
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])
            .context("decode", "message of the other side")?;
        Ok((message, fds))
    }

    fn wait_readable(&self, patience: Option<Duration>) -> Result<()> {
        let Some(patience) = patience else {
            return Ok(());
        };
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => {
                    return Err(Error {
                        action: "receive from",
                        subject: "the other side".into(),
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("poll", "channel"),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn descriptors_travel_with_a_message() {
        let (a, b) = Channel::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(&"hello", &[file.as_fd(), file.as_fd()]).unwrap();
        let (text, fds): (String, _) = b.receive(Some(Duration::from_secs(5))).unwrap();
        assert_eq!((text.as_str(), fds.len()), ("hello", 2));
    }

    #[test]
    fn the_end_of_the_peer_is_an_error_and_not_a_hang() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        let error = b.receive::<String>(None).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn silence_of_the_peer_ends_at_the_deadline() {
        let (_a, b) = Channel::pair().unwrap();
        let error = b
            .receive::<String>(Some(Duration::from_millis(10)))
            .unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::TimedOut);
    }
}
