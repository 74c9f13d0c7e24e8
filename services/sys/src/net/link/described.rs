//! What the kernel says about an interface.
//!
//! A guest has a say in it: names and descriptions are bytes, and not always text. So this is taken apart here, and
//! only what is needed of it: one odd attribute must not hide the interface.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};
use netlink_packet_route::link::LinkFlags;

use crate::net::mac::Mac;

/// `struct ifinfomsg` of linux/rtnetlink.h, in front of the attributes.
const HEADER: usize = 16;

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique in its namespace.
    pub index: u32,
    /// Its name; what is no text in it is replaced.
    pub name: String,
    /// Further names.
    pub alt_names: Vec<OsString>,
    /// A description for people.
    pub alias: Option<OsString>,
    /// Its hardware address, if it is an Ethernet interface.
    pub mac: Option<Mac>,
    /// That of the hardware, whatever was set since.
    pub permanent_mac: Option<Mac>,
    /// The broadcast address.
    pub broadcast: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// IFF_* of linux/if.h.
    pub flags: u32,
    /// Names of the flags as `ip link` prints them.
    pub flag_names: Vec<&'static str>,
    /// `UP`, `DOWN`, ... (RFC 2863).
    pub state: &'static str,
    /// `DEFAULT` or `DORMANT`.
    pub mode: &'static str,
    /// What software makes it, such as `veth`; `None` for hardware.
    pub kind: Option<String>,
    /// The group of interfaces it was put into, 0 unless somebody did.
    pub group: u32,
    /// The interface it stands on, or its peer.
    pub peer: Option<u32>,
    /// That one's namespace, by the number that ours has given it.
    pub peer_namespace: Option<i32>,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
    /// Its queueing discipline.
    pub qdisc: Option<String>,
    /// Packets its queue takes.
    pub queue: Option<u32>,
    /// `ether`, `loopback`, ...
    pub layer: &'static str,
}

impl Link {
    /// The flags that somebody sets, besides `UP`: NOARP, PROMISC, ALLMULTI and MULTICAST.
    pub const SETTINGS: u32 = LinkFlags::Noarp.bits()
        | LinkFlags::Promisc.bits()
        | LinkFlags::Allmulti.bits()
        | LinkFlags::Multicast.bits();

    /// It leads back to the machine itself.
    pub fn is_loopback(&self) -> bool {
        self.flags & LinkFlags::Loopback.bits() != 0
    }

    /// It was set up.
    pub fn is_up(&self) -> bool {
        self.flags & LinkFlags::Up.bits() != 0
    }

    /// Those of [`Link::SETTINGS`] that are set.
    pub fn settings(&self) -> u32 {
        self.flags & Self::SETTINGS
    }

    /// Whether this is one of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alt_names.iter().any(|known| known == name)
    }

    /// Whether this is its hardware address, now or from the beginning.
    pub fn has_mac(&self, mac: Mac) -> bool {
        [self.mac, self.permanent_mac].contains(&Some(mac))
    }

    /// What a message says; `None` if there is not even a head.
    pub(in crate::net) fn parse(message: &[u8]) -> Option<Self> {
        let (head, attributes) = message.split_at_checked(HEADER)?;
        let flags = LinkFlags::from_bits_retain(number(&head[8..12])?);
        let mut link = Self {
            index: number(&head[4..8])?,
            name: String::new(),
            alt_names: Vec::new(),
            alias: None,
            mac: None,
            permanent_mac: None,
            broadcast: None,
            mtu: 0,
            flags: flags.bits(),
            flag_names: flag_names(flags),
            state: "UNKNOWN",
            mode: "DEFAULT",
            kind: None,
            group: 0,
            peer: None,
            peer_namespace: None,
            controller: None,
            qdisc: None,
            queue: None,
            layer: match u16::from_ne_bytes([head[2], head[3]]) {
                libc::ARPHRD_ETHER => "ether",
                libc::ARPHRD_LOOPBACK => "loopback",
                libc::ARPHRD_NONE => "none",
                _ => "other",
            },
        };
        for (kind, value) in all(attributes) {
            link.take(kind, value);
        }
        Some(link)
    }

    fn take(&mut self, kind: u16, value: &[u8]) {
        let mac = |bytes: &[u8]| bytes.try_into().ok().map(Mac);
        match kind {
            libc::IFLA_IFNAME => self.name = text(value),
            libc::IFLA_IFALIAS => self.alias = Some(word(value)).filter(|alias| !alias.is_empty()),
            libc::IFLA_ADDRESS => self.mac = mac(value),
            libc::IFLA_PERM_ADDRESS => self.permanent_mac = mac(value),
            libc::IFLA_BROADCAST => self.broadcast = mac(value),
            libc::IFLA_MTU => self.mtu = number(value).unwrap_or_default(),
            libc::IFLA_GROUP => self.group = number(value).unwrap_or_default(),
            libc::IFLA_LINK => self.peer = number(value).filter(|index| *index != 0),
            libc::IFLA_LINK_NETNSID => {
                self.peer_namespace = number(value).map(u32::cast_signed);
            }
            libc::IFLA_MASTER => self.controller = number(value),
            libc::IFLA_QDISC => self.qdisc = Some(text(value)),
            libc::IFLA_TXQLEN => self.queue = number(value),
            libc::IFLA_OPERSTATE => self.state = state_name(value),
            // IF_LINK_MODE_DORMANT of linux/if.h.
            libc::IFLA_LINKMODE if value == [1] => self.mode = "DORMANT",
            libc::IFLA_PROP_LIST => {
                let names = all(value).filter(|(kind, _)| *kind == libc::IFLA_ALT_IFNAME);
                self.alt_names.extend(names.map(|(_, name)| word(name)));
            }
            libc::IFLA_LINKINFO => {
                let mut infos = all(value);
                let kind = infos.find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                self.kind = kind.map(|(_, kind)| text(kind));
            }
            _ => {}
        }
    }
}

/// Attributes, by their kinds.
fn all(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), attribute.length());
        let value = NLA_HEADER_SIZE..usize::from(length);
        Some((kind, attribute.into_inner().get(value)?))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// A word without the NUL that ends it.
fn word(value: &[u8]) -> OsString {
    let end = value.iter().position(|byte| *byte == 0);
    OsString::from_vec(value[..end.unwrap_or(value.len())].to_vec())
}

fn text(value: &[u8]) -> String {
    word(value).to_string_lossy().into_owned()
}

/// The numbers of linux/if.h (`IF_OPER_*`).
fn state_name(value: &[u8]) -> &'static str {
    match value {
        [1] => "NOTPRESENT",
        [2] => "DOWN",
        [3] => "LOWERLAYERDOWN",
        [4] => "TESTING",
        [5] => "DORMANT",
        [6] => "UP",
        _ => "UNKNOWN",
    }
}

/// In the order and the words of `ip link`.
fn flag_names(flags: LinkFlags) -> Vec<&'static str> {
    let no_carrier = flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Running);
    let known = [
        (LinkFlags::Loopback, "LOOPBACK"),
        (LinkFlags::Broadcast, "BROADCAST"),
        (LinkFlags::Pointopoint, "POINTOPOINT"),
        (LinkFlags::Multicast, "MULTICAST"),
        (LinkFlags::Noarp, "NOARP"),
        (LinkFlags::Allmulti, "ALLMULTI"),
        (LinkFlags::Promisc, "PROMISC"),
        (LinkFlags::Controller, "MASTER"),
        (LinkFlags::Port, "SLAVE"),
        (LinkFlags::Debug, "DEBUG"),
        (LinkFlags::Dynamic, "DYNAMIC"),
        (LinkFlags::Automedia, "AUTOMEDIA"),
        (LinkFlags::Portsel, "PORTSEL"),
        (LinkFlags::Notrailers, "NOTRAILERS"),
        (LinkFlags::Up, "UP"),
        (LinkFlags::LowerUp, "LOWER_UP"),
        (LinkFlags::Dormant, "DORMANT"),
        (LinkFlags::Echo, "ECHO"),
    ];
    let set = known.into_iter().filter(|(flag, _)| flags.contains(*flag));
    std::iter::once("NO-CARRIER")
        .filter(|_| no_carrier)
        .chain(set.map(|(_, name)| name))
        .collect()
}
