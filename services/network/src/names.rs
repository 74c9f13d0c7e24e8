//! What is ours on a machine that others use as well: a group of interfaces, a table of rules, and names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cml_sys::net::{address::Address, mac::Mac};

/// What tells this device, and what it makes in the kernel, from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The random part of its range of local IPv6 addresses (RFC 4193), which containers know.
    pub range: [u8; 5],
    /// What its groups and tables are called after, which containers do not know: a guest can put an interface into any
    /// group.
    pub mark: [u8; 3],
}

/// The first bytes of our groups, so that small numbers, which people use, are not hit.
const ROUTED: u8 = b'c';
const BARE: u8 = b'b';
const BRIDGED: u8 = b'f';

impl Identity {
    fn group_of(self, first: u8) -> u32 {
        let [a, b, c] = self.mark;
        u32::from_be_bytes([first, a, b, c])
    }

    /// The group of the host's ends of virtual interfaces, and of nothing else.
    pub fn group(self) -> u32 {
        self.group_of(ROUTED)
    }

    /// The group of the host's ends that somebody else configures: our rules do not mean them.
    pub fn bare_group(self) -> u32 {
        self.group_of(BARE)
    }

    /// The group of what filtered interfaces need. Some kernels have bridged packets pass the rules for routed ones, which
    /// must not mean these.
    pub fn bridged_group(self) -> u32 {
        self.group_of(BRIDGED)
    }

    /// Whether an interface of this group is ours.
    pub fn owns(self, group: u32) -> bool {
        self.owns_end(group) || group == self.bridged_group()
    }

    /// Whether an interface of this group is the host's end of a virtual interface.
    pub fn owns_end(self, group: u32) -> bool {
        [self.group(), self.bare_group()].contains(&group)
    }

    /// The name of our tables of rules.
    pub fn table(self) -> String {
        let [a, b, c] = self.mark;
        format!("cml_{a:02x}{b:02x}{c:02x}")
    }
}

/// Whether a name is one that we may give to an interface at any time.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("cml")
}

/// One of the networks between host and a container: 172.23.N.0/24 (runtime.md 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// N.
    pub number: u8,
    /// Whose.
    pub identity: Identity,
}

const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;
/// Networks with fewer bits than all of ours together have.
const WIDE: u8 = 16;

impl Subnet {
    fn v4(self, host: u8) -> Address {
        Address::new(Ipv4Addr::new(172, 23, self.number, host), V4_PREFIX)
    }

    fn v6(self, host: u16) -> Address {
        let [a, b, c, d, e] = self.identity.range;
        let word = |high, low| u16::from_be_bytes([high, low]);
        let number = self.number.into();
        let ip = Ipv6Addr::new(word(0xfd, a), word(b, c), word(d, e), number, 0, 0, 0, host);
        Address::new(ip, V6_PREFIX)
    }

    /// The addresses of the host's end.
    pub fn host(self) -> [Address; 2] {
        [self.v4(1), self.v6(1)]
    }

    /// The addresses of the container's end.
    pub fn container(self) -> [Address; 2] {
        [self.v4(2), self.v6(2)]
    }

    /// Whether a network that somebody has overlaps the IPv4 network. A wide one is the way to much else as well, such as
    /// that of a VPN, of which ours is a small exception; it counts if the very address is in ours.
    pub fn meets(self, ip: IpAddr, prefix: u8) -> bool {
        let IpAddr::V4(ip) = ip else {
            return false;
        };
        let shared = match prefix < WIDE {
            true => V4_PREFIX,
            false => prefix.min(V4_PREFIX),
        };
        let ours = Ipv4Addr::new(172, 23, self.number, 0);
        (ip.to_bits() ^ ours.to_bits()) >> (32 - u32::from(shared)) == 0
    }

    /// What the host's end is called unless the configuration names it.
    pub fn host_end(self) -> String {
        format!("cmlv{}", self.number)
    }
}

/// The MAC address of a container's virtual interface that was given none: the same at every start. The UUID's first
/// bytes are random.
pub fn made_up_mac(uuid: &[u8; 16], index: usize) -> Mac {
    let [a, b, c, d, e, f, ..] = *uuid;
    // A container has fewer interfaces than a byte has values.
    Mac([a, b, c, d, e, f.wrapping_add(index as u8)]).local()
}

/// What filters an interface of the host (runtime.md 4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterNames {
    /// The number of the interface.
    pub index: u32,
    /// The bridge.
    pub bridge: String,
    /// The port of the bridge that leads to the container.
    pub port: String,
}

/// Names after the number of the interface, which fit where its name might not.
pub fn filter_names(index: u32) -> FilterNames {
    FilterNames {
        index,
        bridge: format!("cmlb{index}"),
        port: format!("cmlf{index}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::net::link::is_name;

    use super::*;

    #[test]
    fn names_and_addresses_are_the_ones_of_the_reference() {
        let identity = Identity {
            range: [0x3f, 0x2a, 0x11, 0, 1],
            mark: [0x77, 0, 0x0f],
        };
        let subnet = Subnet {
            number: 7,
            identity,
        };
        let ips = |all: [Address; 2]| all.map(|one| format!("{}/{}", one.ip, one.prefix));
        assert_eq!(ips(subnet.host()), ["172.23.7.1/24", "fd3f:2a11:1:7::1/64"]);
        assert_eq!(
            ips(subnet.container()),
            ["172.23.7.2/24", "fd3f:2a11:1:7::2/64"]
        );
        assert_eq!(identity.table(), "cml_77000f");
        assert_eq!(identity.group(), 0x6377_000f);
        let names = filter_names(u32::MAX);
        assert!(
            [&names.bridge, &names.port]
                .into_iter()
                .all(|name| is_name(name))
        );
    }

    #[test]
    fn a_network_of_the_host_is_met_from_either_side() {
        let identity = Identity {
            range: [0; 5],
            mark: [0; 3],
        };
        let meets = |number, net: [u8; 4], prefix| {
            let subnet = Subnet { number, identity };
            subnet.meets(Ipv4Addr::from(net).into(), prefix)
        };
        for (net, prefix) in [
            ([172, 23, 0, 0], 16),
            ([172, 23, 4, 0], 22),
            ([172, 23, 7, 0], 24),
            ([172, 23, 7, 128], 25),
            ([172, 23, 7, 9], 32),
            ([172, 23, 7, 9], 12),
        ] {
            assert!(meets(7, net, prefix), "{net:?}/{prefix}");
        }
        for (net, prefix) in [
            ([172, 23, 8, 0], 22),
            ([172, 23, 8, 1], 32),
            ([172, 24, 0, 0], 16),
            ([172, 16, 0, 0], 12),
            ([0, 0, 0, 0], 0),
        ] {
            assert!(!meets(7, net, prefix), "{net:?}/{prefix}");
        }
        let v6 = "fd00::1".parse().unwrap();
        assert!(
            !Subnet {
                number: 7,
                identity
            }
            .meets(v6, 16)
        );
    }

    #[test]
    fn made_up_addresses_differ_within_a_container_and_between_containers() {
        let macs = [([5; 16], 0), ([5; 16], 1), ([6; 16], 0)].map(|(id, at)| made_up_mac(&id, at));
        assert!(macs.iter().all(|mac| mac.is_station()));
        assert!(macs[0] != macs[1] && macs[0] != macs[2]);
        assert_eq!(macs[0], made_up_mac(&[5; 16], 0));
    }
}
