//! Interfaces: found, made, changed, moved between namespaces.

mod described;

use std::{
    ffi::OsStr,
    fmt::Display,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop},
};

pub use self::described::Link;
use super::{
    mac::Mac,
    namespace::Namespace,
    netlink::{Answer, Netlink, mode},
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
        let answer = match self.ask(RouteNetlinkMessage::GetLink(request)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answer => answer.context("inspect interface", &subject)?,
        };
        // One that is there and cannot be understood is not one that is gone.
        let unreadable = || io::Error::other("the kernel's answer cannot be understood");
        let found = answer.into_iter().find_map(link).ok_or_else(unreadable);
        found.map(Some).context("inspect interface", subject)
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
        let flags = if up { LinkFlags::Up.bits() } else { 0 };
        self.change_flags(index, flags, LinkFlags::Up.bits())
            .context("set up interface", index)
    }

    /// Sets those of the flags of [`Link::settings`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_settings(&mut self, index: u32, settings: u32) -> Result<()> {
        self.change_flags(index, settings, Link::SETTINGS)
            .context("set flags of interface", index)
    }

    fn change_flags(&mut self, index: u32, flags: u32, mask: u32) -> io::Result<()> {
        let mut request = message(index, Vec::new());
        request.header.change_mask = LinkFlags::from_bits_retain(mask);
        request.header.flags = LinkFlags::from_bits_retain(flags & mask);
        self.change(RouteNetlinkMessage::SetLink(request), 0)
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

    /// Puts an interface into a group, 0 if into none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_group(&mut self, index: u32, group: u32) -> Result<()> {
        self.set(
            index,
            LinkAttribute::Group(group),
            "set the group of interface",
        )
    }

    /// Sets how many packets the queue of an interface takes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_queue(&mut self, index: u32, packets: u32) -> Result<()> {
        let queue = LinkAttribute::TxQueueLen(packets);
        self.set(index, queue, "set the queue of interface")
    }

    /// Sets the description that people read, empty for none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<()> {
        // The library adds a NUL, with which an empty one would be none to the kernel.
        let alias = DefaultNla::new(libc::IFLA_IFALIAS, alias.as_bytes().to_vec());
        self.set(
            index,
            LinkAttribute::Other(alias),
            "set the alias of interface",
        )
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
    pub fn remove_alt_name(&mut self, index: u32, name: &OsStr) -> Result<()> {
        // A name need not be text.
        let name = DefaultNla::new(libc::IFLA_ALT_IFNAME, [name.as_bytes(), &[0]].concat());
        let names = LinkAttribute::PropList(vec![Prop::Other(name)]);
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

fn link(answer: Answer) -> Option<Link> {
    match answer {
        Answer::Link(link) => Some(*link),
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
    fn an_interface_is_understood_whatever_it_is_called() {
        let here = Namespace::create().unwrap();
        let mut netlink = here.netlink().unwrap();
        netlink.add_bridge(&end("br")).unwrap();
        let index = netlink.link("br").unwrap().unwrap().index;
        netlink.set_alias(index, "a port").unwrap();
        assert_eq!(
            netlink.link_at(index).unwrap().unwrap().alias.as_deref(),
            Some(OsStr::new("a port"))
        );
        let odd = OsStr::from_bytes(b"odd\xff");
        here.run(|| {
            let mut ip = std::process::Command::new("ip");
            ip.args(["link", "set", "dev", "br", "name"]).arg(odd);
            ip.arg("alias").arg(odd);
            let mut more = std::process::Command::new("ip");
            more.args(["link", "property", "add", "dev"]).arg(odd);
            more.arg("altname").arg(OsStr::from_bytes(b"\xfe"));
            assert!(ip.status().unwrap().success() && more.status().unwrap().success());
            Ok(())
        })
        .unwrap();
        let link = netlink.link_at(index).unwrap().unwrap();
        assert_eq!(link.alias.as_deref(), Some(odd));
        assert_eq!(link.alt_names, [OsStr::from_bytes(b"\xfe")]);
        assert_eq!(netlink.links().unwrap().len(), 2);
        netlink.remove_alt_name(index, &link.alt_names[0]).unwrap();
        netlink.rename(index, "br").unwrap();
        netlink.set_alias(index, "").unwrap();
        let link = netlink.link("br").unwrap().unwrap();
        assert_eq!((link.alias, link.alt_names), (None, Vec::new()));
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
