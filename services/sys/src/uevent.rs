//! News of devices from the kernel, by its own netlink socket (LIF-18).

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recvfrom,
        sendto, socket_with, sockopt,
    },
};

use crate::{
    device::{Device, Kind},
    error::{Context, Result},
};

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is there.
    Add,
    /// It is gone.
    Remove,
    /// Something else, such as `change` or `bind`.
    Other,
}

/// News of a device that has a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// What happened.
    pub action: Action,
    /// Its directory below the root of sysfs.
    pub path: PathBuf,
    /// `usb`, `sound`, `block`, …
    pub subsystem: String,
    /// `usb_device`, `disk`, …, if it has one.
    pub devtype: Option<String>,
    /// Its node.
    pub device: Device,
    /// The name of the node below `/dev`.
    pub node: PathBuf,
    /// The kernel's own words, less the number that it gives to every message.
    pub text: String,
}

/// What a look at the socket brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Something happened to a device.
    Device(Uevent),
    /// Too much happened at once, and some of it was lost: look at everything again.
    Lost,
    /// Nothing that matters here.
    Other,
}

/// Room for a burst of events, in bytes; the kernel drops what does not fit.
const BUFFER: usize = 1 << 20;
/// The multicast group of the kernel itself; group 2 is udev's.
const KERNEL: u32 = 1;
/// The kernel's own bound is 2 KiB for the variables and the name before them.
const MESSAGE_MAX: usize = 16 * 1024;

/// A socket that hears of every device. It does not block.
///
/// # Errors
/// What the kernel said.
pub fn socket() -> Result<File> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::KOBJECT_UEVENT),
    )
    .context("open", "uevent socket")?;
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
    bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL)).context("bind", "uevent socket")?;
    Ok(socket.into())
}

/// The next news; `None` when there is none now.
///
/// # Errors
/// The socket is broken.
pub fn receive(socket: &File) -> Result<Option<News>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    match recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
        Ok((_, length, from)) => {
            let kernel = from
                .and_then(|from| netlink::SocketAddrNetlink::try_from(from).ok())
                // Anybody in the network namespace who may administer it can send; only the kernel has number 0.
                .is_some_and(|from| from.pid() == 0);
            let event = kernel.then(|| parse(&buffer[..length])).flatten();
            Ok(Some(event.map_or(News::Other, News::Device)))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(Errno::NOBUFS) => Ok(Some(News::Lost)),
        Err(error) => Err(io::Error::from(error)).context("read", "uevent socket"),
    }
}

/// Takes a message apart: `action@path`, then `NAME=value`, each ended by a zero byte.
fn parse(message: &[u8]) -> Option<Uevent> {
    let mut parts = message.split(|byte| *byte == 0);
    let head = std::str::from_utf8(parts.next()?).ok()?;
    let (action, path) = head.split_once('@')?;
    let action = match action {
        "add" => Action::Add,
        "remove" => Action::Remove,
        _ => Action::Other,
    };
    let text = std::str::from_utf8(message).ok()?;
    let text = text.split_inclusive('\0');
    let text = text.filter(|part| !part.starts_with("SEQNUM=")).collect();
    let fields: Vec<_> = parts
        .filter_map(|part| std::str::from_utf8(part).ok()?.split_once('='))
        .collect();
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    };
    let subsystem = field("SUBSYSTEM")?.to_owned();
    let kind = match subsystem.as_str() {
        "block" => Kind::Block,
        _ => Kind::Char,
    };
    Some(Uevent {
        action,
        path: Path::new(path).strip_prefix("/").ok()?.to_owned(),
        devtype: field("DEVTYPE").map(ToOwned::to_owned),
        device: Device {
            kind,
            major: field("MAJOR")?.parse().ok()?,
            minor: field("MINOR")?.parse().ok()?,
        },
        node: field("DEVNAME")?.into(),
        subsystem,
        text,
    })
}

/// The kernel's side of the news in a network namespace: what is said here, all who listen there hear from the kernel.
#[derive(Debug)]
pub struct Crier(OwnedFd);

// linux/netlink.h: the first number that is no message of netlink itself, and NLM_F_REQUEST.
const ANY_TYPE: u16 = 0x10;
const REQUEST: u16 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

impl Crier {
    /// Of the network namespace that this thread is in.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = Some(netlink::KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, kind);
        socket.map(Self).context("open", "uevent socket")
    }

    /// Passes news on. It takes SYS_ADMIN over the namespace; the kernel adds a number of its own.
    ///
    /// # Errors
    /// What the kernel said. Whether anybody hears it is not known.
    pub fn cry(&self, text: &str) -> Result<()> {
        let length = u32::try_from(HEADER + text.len()).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(HEADER + text.len());
        message.extend(length.to_ne_bytes());
        message.extend(ANY_TYPE.to_ne_bytes());
        message.extend(REQUEST.to_ne_bytes());
        // Number of the message and of its sender, which nobody asks for.
        message.extend([0; 8]);
        message.extend(text.as_bytes());
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        let sent = sendto(&self.0, &message, SendFlags::empty(), &kernel);
        sent.map(|_| ()).context("pass on", "news of a device")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PLUGGED: &[u8] =
        b"add@/devices/pci0/usb1/1-1\0ACTION=add\0DEVPATH=/devices/pci0/usb1/1-1\0\
        SUBSYSTEM=usb\0MAJOR=189\0MINOR=1\0DEVNAME=bus/usb/001/002\0DEVTYPE=usb_device\0SEQNUM=7\0";

    #[test]
    fn a_device_with_a_node_is_understood_and_everything_else_is_not() {
        let event = parse(PLUGGED).unwrap();
        assert_eq!(event.action, Action::Add);
        assert_eq!(event.path, Path::new("devices/pci0/usb1/1-1"));
        assert_eq!(event.device.to_string(), "c 189:1");
        assert_eq!(event.node, Path::new("bus/usb/001/002"));
        assert_eq!(event.devtype.as_deref(), Some("usb_device"));
        assert!(event.text.starts_with("add@/") && event.text.ends_with("usb_device\0"));
        assert!(!event.text.contains("SEQNUM"), "the kernel counts anew");
        let disk = b"remove@/devices/vda\0SUBSYSTEM=block\0MAJOR=254\0MINOR=0\0DEVNAME=vda\0";
        assert_eq!(parse(disk).unwrap().device.to_string(), "b 254:0");
        let eject = b"change@/devices/vda\0SUBSYSTEM=block\0MAJOR=254\0MINOR=0\0DEVNAME=vda\0";
        assert_eq!(parse(eject).unwrap().action, Action::Other);
        assert_eq!(
            parse(b"add@/devices/x\0SUBSYSTEM=net\0INTERFACE=eth0\0"),
            None
        );
        assert_eq!(parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
