//! Requests to the kernel's routing tables, one at a time.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv,
    send, socket_with,
};

use super::link::Link;
use crate::error::{Context, Result, explained};

/// The kernel fills at most 32 KiB at a time (netlink(7), `NLMSG_GOODSIZE`).
pub(super) const BUFFER: usize = 64 << 10;
/// Bytes of `struct nlmsghdr` in front of every message, and of `struct nlattr` in front of every attribute.
pub(super) const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// linux/netlink.h: the attribute of an answer that explains an error.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// How often a list is asked for again that has changed while it was told.
const PATIENCE: usize = 50;

/// A netlink socket. It belongs to the network namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// What is done to what exists already, or not.
pub(super) mod mode {
    pub use netlink_packet_core::{NLM_F_CREATE as CREATE, NLM_F_EXCL as ONLY_NEW};
}

impl Netlink {
    /// A socket of the namespace that the calling thread is in.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open() -> Result<Self> {
        let socket = route_socket(0)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: the value is a live integer of the length given. An old kernel refuses the option, and then
            // errors come without an explanation.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                );
            }
        }
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Changes something.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.talk(message, NLM_F_ACK | flags).map(drop)
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn ask(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<Answer>> {
        self.talk(message, NLM_F_ACK).map(|reply| reply.answers)
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// What the kernel said; it changes without an end.
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<Answer>> {
        for _ in 0..PATIENCE {
            let reply = self.talk(message.clone(), NLM_F_DUMP)?;
            if !reply.is_torn {
                return Ok(reply.answers);
            }
        }
        Err(io::Error::other("it changes faster than it can be told"))
    }

    fn talk(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Reply> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        let mut reply = Reply {
            sequence: self.sequence,
            ..Reply::default()
        };
        loop {
            let (length, _) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if reply.take(&buffer[..length])? {
                return Ok(reply);
            }
        }
    }
}

/// What the kernel tells.
#[derive(Debug)]
pub(super) enum Answer {
    /// An interface.
    Link(Box<Link>),
    /// Anything else.
    Other(Box<RouteNetlinkMessage>),
    /// What the library cannot take apart: something exotic must not keep us from all the rest.
    Unreadable,
}

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(
        header: &NetlinkHeader,
        payload: &[u8],
    ) -> std::result::Result<Self, DecodeError> {
        let read = match header.message_type {
            libc::RTM_NEWLINK => Link::parse(payload).map(|link| Self::Link(link.into())),
            _ => RouteNetlinkMessage::deserialize(header, payload)
                .ok()
                .map(|message| Self::Other(message.into())),
        };
        Ok(read.unwrap_or(Self::Unreadable))
    }
}

/// Everything that answers one request.
#[derive(Debug, Default)]
struct Reply {
    sequence: u32,
    answers: Vec<Answer>,
    /// What it tells of has changed meanwhile: something may be missing.
    is_torn: bool,
}

impl Reply {
    /// Takes what came next; tells whether that was all.
    fn take(&mut self, packet: &[u8]) -> io::Result<bool> {
        for message in messages(packet) {
            // The rest of an answer that broke off.
            if message.header.sequence_number != self.sequence {
                continue;
            }
            self.is_torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => self.answers.push(answer),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => match error.code {
                    None => return Ok(true),
                    Some(code) => return Err(refused(code.get(), &error.header)),
                },
                _ => {}
            }
        }
        Ok(false)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket for routing that hears of these groups as well.
pub(super) fn route_socket(groups: u32) -> Result<OwnedFd> {
    // NETLINK_ROUTE is 0.
    socket(None, groups).context("open", "netlink socket")
}

/// A socket of the namespace that the calling thread is in, which hears of these groups as well.
pub(super) fn socket(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A message in a packet.
pub(super) struct Head<'a> {
    /// What it is.
    pub kind: u16,
    /// What it says.
    pub payload: &'a [u8],
    /// Both, as they came.
    whole: &'a [u8],
}

/// Takes what a socket has heard so far, without waiting: whether any packet is news. So is what may have been missed
/// (LIF-18).
pub(super) fn hear(socket: &OwnedFd, is_news: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let mut news = false;
    let mut buffer = vec![0; BUFFER];
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => news |= is_news(&buffer[..length]),
            Err(rustix::io::Errno::NOBUFS) => news = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(news),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The messages in a packet, as they came.
pub(super) fn heads(mut packet: &[u8]) -> impl Iterator<Item = Head<'_>> {
    std::iter::from_fn(move || {
        let length = packet.first_chunk::<4>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        let whole = packet.get(..length).filter(|_| length >= HEADER)?;
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Head {
            kind: u16::from_ne_bytes([whole[4], whole[5]]),
            payload: &whole[HEADER..],
            whole,
        })
    })
}

/// The messages in a packet, understood.
pub(super) fn messages(packet: &[u8]) -> impl Iterator<Item = NetlinkMessage<Answer>> {
    heads(packet).filter_map(|head| NetlinkMessage::deserialize(head.whole).ok())
}

/// The error with the kernel's own explanation, if it gave one. `rest` is what follows the code: the header of the
/// request, then attributes.
fn refused(code: i32, rest: &[u8]) -> io::Error {
    let mut attributes = rest.get(HEADER..).unwrap_or_default();
    while let Some((head, _)) = attributes.split_first_chunk::<ATTRIBUTE>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let Some(text) = attributes.get(ATTRIBUTE..length) else {
            break;
        };
        if kind == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(text);
            return explained(-code, text.trim_end_matches('\0'));
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    io::Error::from_raw_os_error(-code)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A message with this head, for request number 7.
    fn message(kind: i32, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(u16::try_from(kind).unwrap().to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn reply() -> Reply {
        Reply {
            sequence: u32::from_ne_bytes([7, 0, 0, 0]),
            ..Reply::default()
        }
    }

    #[test]
    fn a_list_that_was_disturbed_or_broke_off_is_not_taken_for_the_whole() {
        let done = |flags, code: i32| message(libc::NLMSG_DONE, flags, &code.to_ne_bytes());
        let mut whole = reply();
        assert!(whole.take(&done(0, 0)).unwrap() && !whole.is_torn);
        for disturbed in [
            [
                message(libc::RTM_NEWLINK.into(), NLM_F_DUMP_INTR, &[0; 16]),
                done(0, 0),
            ],
            [
                message(libc::RTM_NEWLINK.into(), 0, &[0; 16]),
                done(NLM_F_DUMP_INTR, 0),
            ],
        ] {
            let mut torn = reply();
            assert!(torn.take(&disturbed.concat()).unwrap());
            assert!(torn.is_torn && torn.answers.len() == 1);
        }
        let broken = reply().take(&done(0, -libc::EINTR)).unwrap_err();
        assert_eq!(broken.raw_os_error(), Some(libc::EINTR));
    }

    #[test]
    fn an_answer_that_cannot_be_understood_is_an_answer() {
        let mut odd = reply();
        odd.take(&message(libc::RTM_NEWLINK.into(), 0, &[0; 3]))
            .unwrap();
        assert!(matches!(odd.answers[..], [Answer::Unreadable]));
    }
}
