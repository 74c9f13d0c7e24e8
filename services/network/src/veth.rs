//! Virtual interfaces: a pair whose one end is the container's.

use std::net::IpAddr;

use cml_bus::id::ContainerId;
use cml_sys::{
    Error, Result,
    net::{
        address::{Address, Route},
        link::{End, Link},
        mac::Mac,
        namespace::Namespace,
        netlink::Netlink,
        nft::Forwarding,
    },
};
use cml_wire::proto::ContainerVnetConfig;

use crate::{
    lease::UPLINK,
    names::{Identity, Subnet, made_up_mac},
    record::Veth,
};

/// The interface that a container gets whose configuration names none (runtime.md 4.1).
const DEFAULT: &str = "host0";

/// What software makes both ends.
const KIND: &str = "veth";

/// The virtual interfaces of a container, with everything that its configuration leaves open.
pub fn complete(id: ContainerId, configured: &[ContainerVnetConfig]) -> Vec<ContainerVnetConfig> {
    let default = [ContainerVnetConfig {
        if_name: DEFAULT.into(),
        configure: true,
        ..Default::default()
    }];
    let all = match configured {
        [] => &default[..],
        some => some,
    };
    let complete = all.iter().enumerate().map(|(index, one)| {
        let given = one.if_mac.as_deref().and_then(|text| text.parse().ok());
        let mac = given.map_or_else(|| made_up_mac(id.as_bytes(), index), Mac::local);
        ContainerVnetConfig {
            if_mac: Some(mac.to_string()),
            ..one.clone()
        }
    });
    complete.collect()
}

impl Veth {
    fn subnet(&self, identity: Identity) -> Subnet {
        Subnet {
            number: self.subnet,
            identity,
        }
    }

    /// The way between host and core0.
    pub fn is_uplink(&self) -> bool {
        self.subnet == UPLINK
    }

    /// Makes both ends, the near one under a name of ours; tells its number.
    pub fn make(&self, identity: Identity, near: &Namespace, far: &Namespace) -> Result<u32> {
        let name = self.subnet(identity).host_end();
        let mut netlink = near.netlink()?;
        // Of a daemon that was killed where it could not be written down.
        if let Some(left) = self.near_end(&mut netlink, identity)? {
            netlink.remove_link(left)?;
        }
        // Where somebody else sets up both ends, our rules have no say either.
        let group = match self.configure {
            true => identity.group(),
            false => identity.bare_group(),
        };
        let outside = End {
            name: &name,
            mac: None,
            group,
        };
        let inside = End {
            name: &self.name,
            mac: Some(self.mac),
            // What comes from the host is passed on by core0 like what comes from containers.
            group: if self.is_uplink() { group } else { 0 },
        };
        netlink.add_veth(&outside, &inside, far)?;
        existing(&mut netlink, &name)
    }

    /// Gives the near end the name that the configuration wants. Another interface may have it, and then it keeps the
    /// one it has (runtime.md 4.1).
    pub fn rename(&self, identity: Identity, near: &Namespace) -> Result<()> {
        let mut netlink = near.netlink()?;
        let index = existing(&mut netlink, &self.subnet(identity).host_end())?;
        netlink.rename(index, &self.near_name(identity))
    }

    /// What the near end is called.
    pub fn near_name(&self, identity: Identity) -> String {
        let wanted = self.wanted_name.clone().filter(|_| self.renamed);
        wanted.unwrap_or_else(|| self.subnet(identity).host_end())
    }

    /// The near end, if it is there: known by its number, and before that is written down by a name that nobody else
    /// takes.
    pub fn near_end(&self, netlink: &mut Netlink, identity: Identity) -> Result<Option<u32>> {
        let ours =
            |link: &Link| identity.owns_end(link.group) && link.kind.as_deref() == Some(KIND);
        if let Some(index) = self.near
            && let Some(link) = netlink.link_at(index)?.filter(ours)
        {
            return Ok(Some(link.index));
        }
        let found = netlink.link(&self.subnet(identity).host_end())?;
        Ok(found.filter(ours).map(|link| link.index))
    }

    /// Gives both ends their addresses and sets them up.
    pub fn configure(&self, identity: Identity, near: &Namespace, far: &Namespace) -> Result<()> {
        let subnet = self.subnet(identity);
        let mut netlink = near.netlink()?;
        let outside = existing(&mut netlink, &self.near_name(identity))?;
        bring_up(&mut netlink, outside, subnet.host())?;
        let mut within = far.netlink()?;
        let inside = existing(&mut within, &self.name)?;
        bring_up(&mut within, inside, subnet.container())?;
        if self.is_uplink() {
            // The device reaches the world through core0 (runtime.md 4.2).
            let [via, _] = subnet.container();
            return route(&mut netlink, outside, via);
        }
        if self.index > 0 {
            return Ok(());
        }
        let [v4, v6] = subnet.host();
        route(&mut within, inside, v4)?;
        // Without anybody who passes it on, a program would wait for an answer that cannot come.
        match Forwarding::V6.is_on(near) {
            Ok(true) => route(&mut within, inside, v6),
            _ => Ok(()),
        }
    }

    /// Removes both ends.
    pub fn remove(&self, identity: Identity, near: &Namespace) -> Result<()> {
        let mut netlink = near.netlink()?;
        match self.near_end(&mut netlink, identity)? {
            Some(index) => netlink.remove_link(index),
            None => Ok(()),
        }
    }
}

fn existing(netlink: &mut Netlink, name: &str) -> Result<u32> {
    let found = netlink.link(name)?;
    found
        .map(|link| link.index)
        .ok_or_else(|| Error::invalid("find", format_args!("interface `{name}`"), "it is gone"))
}

fn bring_up(netlink: &mut Netlink, index: u32, addresses: [Address; 2]) -> Result<()> {
    for address in addresses {
        unless_missing(address.ip, netlink.add_address(index, &address))?;
    }
    netlink.set_up(index, true)
}

fn route(netlink: &mut Netlink, index: u32, via: Address) -> Result<()> {
    let route = Route::default_via(via.ip);
    unless_missing(via.ip, netlink.add_route(index, route))
}

/// A machine may have IPv6 switched off, and then goes without.
fn unless_missing(ip: IpAddr, done: Result<()>) -> Result<()> {
    // EACCES comes of the sysctl `disable_ipv6`, the others of a kernel without it.
    const OFF: [i32; 3] = [13, 95, 97];
    match done {
        Err(error) if ip.is_ipv6() && error.errno().is_some_and(|errno| OFF.contains(&errno)) => {
            tracing::debug!(%ip, %error, "no IPv6");
            Ok(())
        }
        other => other,
    }
}
