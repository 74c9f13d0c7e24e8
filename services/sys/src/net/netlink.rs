//! Requests to the kernel's routing tables, one at a time.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
};

use crate::error::{Context, Result, explained};

/// The kernel fills at most 32 KiB at a time (netlink(7), `NLMSG_GOODSIZE`).
pub(super) const BUFFER: usize = 64 << 10;
/// Bytes of `struct nlmsghdr` in front of every message, and of `struct nlattr` in front of every attribute.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// linux/netlink.h: the attribute of an answer that explains an error.
const NLMSGERR_ATTR_MSG: u16 = 1;

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
    pub(super) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.talk(message, NLM_F_ACK)
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.talk(message, NLM_F_DUMP)
    }

    fn talk(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        let mut answers = Vec::new();
        loop {
            let (length, _) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for message in messages(&buffer[..length]) {
                // The rest of an answer that broke off.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(code) => return Err(refused(code.get(), &error.header)),
                    },
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket that hears of these groups as well.
pub(super) fn route_socket(groups: u32) -> Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is 0.
        None,
    )
    .context("open", "netlink socket")?;
    let address = netlink::SocketAddrNetlink::new(0, groups);
    bind(&socket, &address).context("bind", "netlink socket")?;
    Ok(socket)
}

/// The messages in a packet. One that the library cannot take apart is as if it had not come: an exotic interface
/// must not keep us from all others.
pub(super) fn messages(
    mut packet: &[u8],
) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    std::iter::from_fn(move || {
        loop {
            let length = packet.first_chunk::<4>()?;
            let length = u32::from_ne_bytes(*length) as usize;
            let message = packet.get(..length).filter(|_| length >= HEADER)?;
            packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message);
            }
        }
    })
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
