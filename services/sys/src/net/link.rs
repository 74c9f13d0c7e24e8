//! Interfaces: found, made, changed, moved between namespaces.

use std::{
    fmt::Display,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, LinkMode, Prop, State,
    },
};

use super::{
    mac::Mac,
    namespace::Namespace,
    netlink::{Netlink, mode},
};
use crate::error::{Context, Result};

/// Longest name, in bytes: IFNAMSIZ without its NUL.
pub const NAME_MAX: usize = 15;

/// Whether the kernel takes this as the name of one interface. It would take `%` as well, as a place for a number.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|char| char.is_whitespace() || char.is_control() || "/:%".contains(char))
}

/// An interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Further names.
    pub alt_names: Vec<String>,
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
    /// It leads back to the machine itself.
    pub fn is_loopback(&self) -> bool {
        self.flags & LinkFlags::Loopback.bits() != 0
    }

    /// It was set up.
    pub fn is_up(&self) -> bool {
        self.flags & LinkFlags::Up.bits() != 0
    }

    /// Whether this is one of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alt_names.iter().any(|known| known == name)
    }

    /// Whether this is its hardware address, now or from the beginning.
    pub fn has_mac(&self, mac: Mac) -> bool {
        [self.mac, self.permanent_mac].contains(&Some(mac))
    }

    fn from_message(message: LinkMessage) -> Self {
        let header = message.header;
        let mut link = Self {
            index: header.index,
            name: String::new(),
            alt_names: Vec::new(),
            mac: None,
            permanent_mac: None,
            broadcast: None,
            mtu: 0,
            flags: header.flags.bits(),
            flag_names: flag_names(header.flags),
            state: "UNKNOWN",
            mode: "DEFAULT",
            kind: None,
            group: 0,
            peer: None,
            peer_namespace: None,
            controller: None,
            qdisc: None,
            queue: None,
            layer: match header.link_layer_type {
                LinkLayerType::Ether => "ether",
                LinkLayerType::Loopback => "loopback",
                LinkLayerType::None => "none",
                _ => "other",
            },
        };
        let mac = |bytes: Vec<u8>| bytes.try_into().ok().map(Mac);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = mac(bytes),
                LinkAttribute::PermAddress(bytes) => link.permanent_mac = mac(bytes),
                LinkAttribute::Broadcast(bytes) => link.broadcast = mac(bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Link(index) => link.peer = Some(index).filter(|index| *index != 0),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(id),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Qdisc(name) => link.qdisc = Some(name),
                LinkAttribute::TxQueueLen(length) => link.queue = Some(length),
                LinkAttribute::OperState(state) => link.state = state_name(state),
                LinkAttribute::Mode(LinkMode::Dormant) => link.mode = "DORMANT",
                LinkAttribute::PropList(props) => {
                    link.alt_names
                        .extend(props.into_iter().filter_map(|prop| match prop {
                            Prop::AltIfName(name) => Some(name),
                            _ => None,
                        }));
                }
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Up => "UP",
        State::Down => "DOWN",
        State::LowerLayerDown => "LOWERLAYERDOWN",
        State::NotPresent => "NOTPRESENT",
        State::Testing => "TESTING",
        State::Dormant => "DORMANT",
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

/// One end of a pair that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address; the kernel makes one up if there is none.
    pub mac: Option<Mac>,
    /// The group of interfaces that it belongs to.
    pub group: u32,
}

impl End<'_> {
    fn attributes(&self) -> Vec<LinkAttribute> {
        let mut all = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Group(self.group),
        ];
        all.extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        all
    }
}

/// How an interface arrives in another namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The name it gets there.
    pub name: &'a str,
    /// The number it gets there; the kernel decides if there is none.
    pub index: Option<u32>,
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

impl Netlink {
    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let request = RouteNetlinkMessage::GetLink(message(0, Vec::new()));
        let answers = self.dump(request).context("list", "interfaces")?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// The interface of this number, if there is one.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>> {
        self.one(message(index, Vec::new()), index)
    }

    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let name = name.to_owned();
        let shown = name.clone();
        self.one(message(0, vec![LinkAttribute::IfName(name)]), shown)
    }

    fn one(&mut self, request: LinkMessage, subject: impl Display) -> Result<Option<Link>> {
        match self.ask(RouteNetlinkMessage::GetLink(request)) {
            Ok(answers) => Ok(answers.into_iter().find_map(link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).context("inspect interface", subject),
        }
    }

    /// Makes a pair of interfaces, the far end in another namespace.
    ///
    /// # Errors
    /// One of the names is taken (EEXIST), or what the kernel said.
    pub fn add_veth(&mut self, near: &End<'_>, far: &End<'_>, there: &Namespace) -> Result<()> {
        let mut peer = message(0, far.attributes());
        let namespace = LinkAttribute::NetNsFd(there.as_fd().as_raw_fd());
        peer.attributes.push(namespace);
        let mut request = message(0, near.attributes());
        request.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.make(request, near.name)
    }

    /// Makes a bridge without ports.
    ///
    /// # Errors
    /// As [`Netlink::add_veth`].
    pub fn add_bridge(&mut self, end: &End<'_>) -> Result<()> {
        let mut request = message(0, end.attributes());
        let kind = LinkInfo::Kind(InfoKind::Bridge);
        request.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
        self.make(request, end.name)
    }

    fn make(&mut self, request: LinkMessage, name: &str) -> Result<()> {
        let request = RouteNetlinkMessage::NewLink(request);
        self.change(request, mode::CREATE | mode::ONLY_NEW)
            .context("make interface", name)
    }

    /// Removes an interface that software has made; that it is gone is fine.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_link(&mut self, index: u32) -> Result<()> {
        let request = RouteNetlinkMessage::DelLink(message(index, Vec::new()));
        match self.change(request, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.context("remove interface", index),
        }
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let mut request = message(index, Vec::new());
        request.header.change_mask = LinkFlags::Up;
        if up {
            request.header.flags = LinkFlags::Up;
        }
        self.change(RouteNetlinkMessage::SetLink(request), 0)
            .context("set up interface", index)
    }

    fn set(&mut self, index: u32, attribute: LinkAttribute, what: &'static str) -> Result<()> {
        let request = RouteNetlinkMessage::SetLink(message(index, vec![attribute]));
        self.change(request, 0).context(what, index)
    }

    /// Gives an interface another name.
    ///
    /// # Errors
    /// The name is taken, or what the kernel said.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        let name = LinkAttribute::IfName(name.to_owned());
        self.set(index, name, "rename interface")
    }

    /// Sets the largest packet, in bytes.
    ///
    /// # Errors
    /// The hardware cannot, or what the kernel said.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.set(index, LinkAttribute::Mtu(mtu), "set the MTU of interface")
    }

    /// Sets the hardware address.
    ///
    /// # Errors
    /// The hardware cannot, or what the kernel said.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<()> {
        let mac = LinkAttribute::Address(mac.0.to_vec());
        self.set(index, mac, "set the MAC address of interface")
    }

    /// Makes an interface the port of a bridge, or of none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_controller(&mut self, index: u32, bridge: Option<u32>) -> Result<()> {
        let bridge = LinkAttribute::Controller(bridge.unwrap_or_default());
        self.set(index, bridge, "bridge interface")
    }

    /// Gives an interface a further name; that it has it is fine.
    ///
    /// # Errors
    /// The name is taken, or what the kernel said.
    pub fn add_alt_name(&mut self, index: u32, name: &str) -> Result<()> {
        let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
        let request = RouteNetlinkMessage::NewLinkProp(message(index, vec![names]));
        self.change(request, mode::CREATE | mode::ONLY_NEW)
            .context("give another name to interface", index)
    }

    /// Takes a further name away.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_alt_name(&mut self, index: u32, name: &str) -> Result<()> {
        let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
        let request = RouteNetlinkMessage::DelLinkProp(message(index, vec![names]));
        self.change(request, 0)
            .context("take a name away from interface", index)
    }

    /// Moves an interface to another namespace, where it arrives down and without addresses.
    ///
    /// # Errors
    /// The name or the number is taken there (EEXIST, EBUSY), the interface cannot leave (EINVAL), or what the
    /// kernel said. It stays where it is then; but it may have arrived under another name if another one takes the
    /// name at that moment.
    pub fn move_link(&mut self, index: u32, there: &Namespace, as_: Arrival<'_>) -> Result<()> {
        let mut attributes = vec![
            LinkAttribute::NetNsFd(there.as_fd().as_raw_fd()),
            LinkAttribute::IfName(as_.name.to_owned()),
        ];
        // Numbers of interfaces are positive and fit.
        let wanted = as_.index.and_then(|index| i32::try_from(index).ok());
        attributes.extend(wanted.map(LinkAttribute::NewIfIndex));
        let request = RouteNetlinkMessage::SetLink(message(index, attributes));
        self.change(request, 0).context("move interface", as_.name)
    }
}

fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn end(name: &str) -> End<'_> {
        End {
            name,
            mac: None,
            group: 0,
        }
    }

    #[test]
    fn an_interface_moves_to_another_namespace_and_back_with_name_and_number() {
        let (here, there, elsewhere) = (
            Namespace::create().unwrap(),
            Namespace::create().unwrap(),
            Namespace::create().unwrap(),
        );
        let mut at_home = here.netlink().unwrap();
        let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
        let near = End {
            mac: Some(mac),
            group: 7,
            ..end("nic0")
        };
        at_home.add_veth(&near, &end("far"), &elsewhere).unwrap();
        let nic = at_home.link("nic0").unwrap().unwrap();
        assert_eq!((nic.mac, nic.group), (Some(mac), 7));
        assert_eq!(nic.kind.as_deref(), Some("veth"));
        at_home
            .add_alt_name(nic.index, "a-much-longer-name-of-it")
            .unwrap();
        at_home.set_mtu(nic.index, 1400).unwrap();
        let inside = Arrival {
            name: "eth0",
            index: Some(77),
        };
        at_home.move_link(nic.index, &there, inside).unwrap();
        assert!(at_home.link("nic0").unwrap().is_none());
        let mut away = there.netlink().unwrap();
        let moved = away.link_at(77).unwrap().unwrap();
        assert_eq!((&*moved.name, moved.mtu), ("eth0", 1400));
        assert!(moved.is_called("a-much-longer-name-of-it"));
        let home = Arrival {
            name: "nic0",
            index: Some(nic.index),
        };
        away.move_link(77, &here, home).unwrap();
        assert_eq!(at_home.link("nic0").unwrap().unwrap().index, nic.index);
        assert_eq!(away.links().unwrap().len(), 1);
    }

    #[test]
    fn what_the_kernel_refuses_says_why() {
        let here = Namespace::create().unwrap();
        let mut netlink = here.netlink().unwrap();
        let taken = netlink.add_bridge(&end("lo")).unwrap_err();
        assert_eq!(taken.errno(), Some(libc::EEXIST));
        assert!(taken.to_string().contains("lo"), "{taken}");
        assert!(netlink.link("nothing").unwrap().is_none());
        assert!(netlink.link_at(4711).unwrap().is_none());
        netlink.remove_link(4711).unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert!(lo.is_loopback() && !lo.is_up());
        let there = Namespace::create().unwrap();
        let arrival = Arrival {
            name: "lo1",
            index: None,
        };
        let stays = netlink.move_link(lo.index, &there, arrival).unwrap_err();
        assert_eq!(stays.errno(), Some(libc::EINVAL));
    }

    #[test]
    fn names_of_interfaces_are_short_words() {
        for good in ["eth0", "enp3s0f1", "a", "fifteen-bytes-x", "Ünter"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "sixteen-bytes-xx",
            "a b",
            "eth%d",
            "a:1",
            "a\n",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
