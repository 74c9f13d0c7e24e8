//! Addresses of interfaces, and routes over them.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use serde::{Deserialize, Serialize};

use super::netlink::{Answer, Netlink, mode};
use crate::error::{Context, Result};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// The address of the other end, on a link between two.
    #[serde(default)]
    pub peer: Option<IpAddr>,
    /// The address of everybody in its network, if one was set.
    pub broadcast: Option<Ipv4Addr>,
    /// Where it means something, as in `RT_SCOPE_*`: 0 everywhere, 253 on this link.
    pub scope: u8,
    /// What else was set about it: those of `IFA_F_*` that are settings.
    #[serde(default)]
    pub flags: u32,
    /// The metric of the route to its network.
    #[serde(default)]
    pub metric: Option<u32>,
    /// Its own name, such as `eth0:1`.
    #[serde(default)]
    pub label: Option<String>,
    /// Somebody has set it, and not for a time: neither the kernel nor a server.
    pub is_set: bool,
}

/// Those flags that somebody sets.
const SETTINGS: AddressFlags = AddressFlags::Homeaddress
    .union(AddressFlags::Managetempaddr)
    .union(AddressFlags::Noprefixroute)
    .union(AddressFlags::Mcautojoin);

impl Address {
    /// An address that is set for good, with the usual broadcast address.
    pub fn new(ip: impl Into<IpAddr>, prefix: u8) -> Self {
        let ip = ip.into();
        Self {
            broadcast: match ip {
                IpAddr::V4(ip) => {
                    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
                    Some(Ipv4Addr::from_bits(ip.to_bits() | host))
                }
                IpAddr::V6(_) => None,
            },
            ip,
            prefix,
            peer: None,
            scope: 0,
            flags: 0,
            metric: None,
            label: None,
            is_set: true,
        }
    }
}

/// A route over an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The network it leads to and the bits of it; all zero for everything.
    pub to: (IpAddr, u8),
    /// The next hop; `None` if the network is on the link itself.
    pub via: Option<IpAddr>,
    /// The address that packets leave with.
    pub source: Option<IpAddr>,
    /// Of several routes the one with the smallest counts.
    pub metric: Option<u32>,
    /// The routing table.
    pub table: u32,
    /// Where the destination is, as in `RT_SCOPE_*`.
    pub scope: u8,
    /// Who has set it, as in `RTPROT_*`.
    pub protocol: u8,
    /// The next hop is on this link even if no address says so.
    #[serde(default)]
    pub onlink: bool,
}

/// `RT_TABLE_MAIN`
const MAIN: u8 = 254;

impl Route {
    /// The way to everything else.
    pub fn default_via(via: IpAddr) -> Self {
        let all = match via {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Self {
            to: (all, 0),
            via: Some(via),
            source: None,
            metric: None,
            table: MAIN.into(),
            scope: RouteScope::Universe.into(),
            protocol: RouteProtocol::Static.into(),
            onlink: false,
        }
    }

    fn message(self, index: u32) -> RouteMessage {
        let mut header = RouteHeader {
            address_family: family(self.to.0),
            destination_prefix_length: self.to.1,
            scope: self.scope.into(),
            protocol: self.protocol.into(),
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        if self.onlink {
            header.flags = RouteFlags::Onlink;
        }
        // Larger numbers stand in the attribute alone.
        header.table = u8::try_from(self.table).unwrap_or_default();
        let mut message = RouteMessage::default();
        message.header = header;
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Oif(index),
        ];
        let all = &mut message.attributes;
        if self.to.1 > 0 {
            all.push(RouteAttribute::Destination(self.to.0.into()));
        }
        all.extend(self.via.map(|ip| RouteAttribute::Gateway(ip.into())));
        all.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        all.extend(self.metric.map(RouteAttribute::Priority));
        message
    }

    /// The route with the interface it goes over; `None` for what is more than that, such as several next hops.
    fn from_message(message: RouteMessage) -> Option<(u32, Self)> {
        let header = message.header;
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut index = None;
        let mut route = Self {
            to: (unspecified, header.destination_prefix_length),
            via: None,
            source: None,
            metric: None,
            table: header.table.into(),
            scope: header.scope.into(),
            protocol: header.protocol.into(),
            onlink: header.flags.contains(RouteFlags::Onlink),
        };
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = Some(oif),
                RouteAttribute::Destination(to) => route.to.0 = ip(to)?,
                RouteAttribute::Gateway(via) => route.via = ip(via),
                RouteAttribute::PrefSource(source) => route.source = ip(source),
                RouteAttribute::Priority(metric) => route.metric = Some(metric),
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) => return None,
                _ => {}
            }
        }
        (header.kind == RouteType::Unicast).then_some((index?, route))
    }

    /// Somebody has set it: neither the kernel nor a router's announcement.
    pub fn is_set(&self) -> bool {
        let by = [RouteProtocol::Static, RouteProtocol::Boot].map(u8::from);
        by.contains(&self.protocol)
    }
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

impl Netlink {
    /// All addresses, with the number of the interface that has them.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Address)>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(request).context("list", "addresses")?;
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn add_address(&mut self, index: u32, address: &Address) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip);
        message.header.prefix_len = address.prefix;
        message.header.scope = address.scope.into();
        message.header.index = index;
        let mut flags = AddressFlags::from_bits_retain(address.flags);
        // Nobody else on a link of ours has it, and what has come home had it before: it is usable at once.
        if address.ip.is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        message.attributes = vec![
            AddressAttribute::Local(address.ip),
            AddressAttribute::Address(address.peer.unwrap_or(address.ip)),
            AddressAttribute::Flags(flags),
        ];
        let all = &mut message.attributes;
        all.extend(address.broadcast.map(AddressAttribute::Broadcast));
        all.extend(address.metric.map(AddressAttribute::RoutePriority));
        all.extend(address.label.clone().map(AddressAttribute::Label));
        let request = RouteNetlinkMessage::NewAddress(message);
        self.change(request, mode::CREATE | mode::ONLY_NEW)
            .context("give an interface the address", address.ip)
    }

    /// All routes to single destinations, with the number of the interface that each goes over.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn routes(&mut self) -> Result<Vec<(u32, Route)>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(message);
            let answers = self.dump(request).context("list", "routes")?;
            all.extend(answers.into_iter().filter_map(|answer| match answer {
                Answer::Other(message) => match *message {
                    RouteNetlinkMessage::NewRoute(message) => Route::from_message(message),
                    _ => None,
                },
                _ => None,
            }));
        }
        Ok(all)
    }

    /// The routes over one interface.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn routes_over(&mut self, index: u32) -> Result<Vec<Route>> {
        let here = self
            .routes()?
            .into_iter()
            .filter(|(over, _)| *over == index);
        Ok(here.map(|(_, route)| route).collect())
    }

    /// Adds a route over an interface.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn add_route(&mut self, index: u32, route: Route) -> Result<()> {
        let request = RouteNetlinkMessage::NewRoute(route.message(index));
        let (to, prefix) = route.to;
        self.change(request, mode::CREATE | mode::ONLY_NEW)
            .context("add a route to", format_args!("{to}/{prefix}"))
    }
}

fn address(answer: Answer) -> Option<(u32, Address)> {
    let Answer::Other(message) = answer else {
        return None;
    };
    let RouteNetlinkMessage::NewAddress(message) = *message else {
        return None;
    };
    let (mut local, mut other) = (None, None);
    let mut flags = AddressFlags::empty();
    let (mut broadcast, mut metric, mut label) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            // On a point-to-point link the other attribute is the peer's.
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => other = Some(ip),
            AddressAttribute::Flags(set) => flags = set,
            AddressAttribute::Broadcast(ip) => broadcast = Some(ip),
            AddressAttribute::RoutePriority(value) => metric = Some(value),
            // Others are the name of the interface.
            AddressAttribute::Label(text) => label = Some(text).filter(|text| text.contains(':')),
            _ => {}
        }
    }
    let by_kernel = message.header.scope == AddressScope::Link;
    let ip = local.or(other)?;
    let address = Address {
        ip,
        prefix: message.header.prefix_len,
        peer: other.filter(|other| *other != ip),
        broadcast,
        scope: message.header.scope.into(),
        flags: (flags & SETTINGS).bits(),
        metric,
        label,
        is_set: flags.contains(AddressFlags::Permanent) && !by_kernel,
    };
    Some((message.header.index, address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::net::{link::End, namespace::Namespace};

    #[test]
    fn addresses_and_routes_are_found_as_they_were_set() {
        let here = Namespace::create().unwrap();
        let mut netlink = here.netlink().unwrap();
        let end = End {
            name: "a",
            mac: None,
            group: 0,
        };
        netlink
            .add_veth(&end, &End { name: "b", ..end }, &here)
            .unwrap();
        let index = netlink.link("a").unwrap().unwrap().index;
        let other = netlink.link("b").unwrap().unwrap().index;
        netlink.set_up(index, true).unwrap();
        netlink.set_up(other, true).unwrap();
        let v4 = Address::new([172, 23, 5, 1], 24);
        let v6 = Address::new("fd00::1".parse::<std::net::Ipv6Addr>().unwrap(), 64);
        let elaborate = Address {
            peer: Some("172.24.0.2".parse().unwrap()),
            broadcast: None,
            flags: AddressFlags::Noprefixroute.bits(),
            label: Some("a:1".into()),
            ..Address::new([172, 24, 0, 1], 32)
        };
        let metric = Address {
            metric: Some(77),
            ..Address::new("fd01::1".parse::<std::net::Ipv6Addr>().unwrap(), 64)
        };
        let all = [v4, elaborate, v6, metric];
        for address in &all {
            netlink.add_address(index, address).unwrap();
        }
        let mut set = netlink.addresses().unwrap();
        set.retain(|(of, address)| *of == index && address.is_set);
        set.sort_by_key(|(_, address)| address.ip);
        assert_eq!(set, all.map(|address| (index, address)));
        let routes = [
            Route::default_via("172.23.5.2".parse().unwrap()),
            Route {
                to: ("10.1.0.0".parse().unwrap(), 16),
                metric: Some(5),
                table: 1000,
                ..Route::default_via("172.23.5.3".parse().unwrap())
            },
            Route {
                to: ("10.2.0.0".parse().unwrap(), 16),
                onlink: true,
                ..Route::default_via("192.0.2.1".parse().unwrap())
            },
            Route {
                metric: Some(1024),
                ..Route::default_via("fd00::2".parse().unwrap())
            },
        ];
        for route in routes {
            netlink.add_route(index, route).unwrap();
        }
        let mut found = netlink.routes_over(index).unwrap();
        found.retain(Route::is_set);
        for route in routes {
            assert!(found.contains(&route), "{route:?} in {found:?}");
        }
        assert_eq!(found.len(), routes.len());
    }
}
