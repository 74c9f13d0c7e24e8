//! Virtual interfaces of all containers, and what passes packets between them and the rest.

use cml_bus::id::ContainerId;
use cml_sys::net::{
    namespace::Namespace,
    nft::{self, Forwarding},
    tables::{Family, has_table},
};
use cml_wire::proto::ContainerConfig;

use super::{Networks, Result, bad, system};
use crate::{
    lease::UPLINK,
    names::{Subnet, is_ours},
    record::Veth,
    rules::{self, Routing},
    veth,
};

impl Networks {
    /// What a container gets, with subnets.
    pub(super) fn plan(&mut self, id: ContainerId, config: &ContainerConfig) -> Result<Vec<Veth>> {
        let in_core0 = self.core0().is_some();
        let identity = self.identity();
        let mut netlink = self.side(in_core0).netlink().map_err(system(id))?;
        let links = netlink.links().map_err(system(id))?;
        let (ours, foreign): (Vec<_>, Vec<_>) =
            links.iter().partition(|link| identity.owns_end(link.group));
        // What the host, or another daemon, has or knows a way to.
        let addresses = netlink.addresses().map_err(system(id))?.into_iter();
        let addresses = addresses.map(|(at, address)| (at, (address.ip, address.prefix)));
        let routes = netlink.routes().map_err(system(id))?.into_iter();
        let mut others: Vec<_> = addresses
            .chain(routes.map(|(over, route)| (over, route.to)))
            .collect();
        others.retain(|(at, _)| !ours.iter().any(|link| link.index == *at));
        let connected = &self.connected;
        let configured = veth::complete(id, &config.vnet_configs);
        let names: Vec<_> = configured.iter().map(|one| &*one.if_name).collect();
        self.leases.begin(id, &names)?;
        let mut veths = Vec::new();
        for (index, one) in configured.into_iter().enumerate() {
            let fits = |subnet: Subnet| {
                let mut networks = others.iter().map(|(_, network)| network);
                let name = subnet.host_end();
                !networks.any(|(ip, prefix)| subnet.meets(*ip, *prefix))
                    && !foreign.iter().any(|link| link.is_called(&name))
            };
            let idle = |other| !connected.contains_key(&other);
            let subnet = self.leases.take(id, &one.if_name, idle, fits)?;
            veths.push(Veth {
                index,
                mac: one.if_mac().parse().map_err(|error| bad(id, error))?,
                name: one.if_name,
                configure: one.configure,
                wanted_name: one.if_rootns_name.filter(|name| !name.is_empty()),
                renamed: false,
                subnet: subnet.number,
                in_core0,
                near: None,
            });
        }
        Ok(veths)
    }

    /// Makes the virtual interfaces of a container.
    pub(super) fn plug(&mut self, id: ContainerId) -> Result<()> {
        for at in 0..self.get(id)?.record.veths.len() {
            let mut veth = self.get(id)?.record.veths[at].clone();
            if veth.configure {
                self.route_for(id, &veth)?;
            }
            let made = veth.make(self.identity(), self.side(veth.in_core0), self.inside(id)?);
            veth.near = Some(made.map_err(system(id))?);
            if let Some(wanted) = veth.wanted_name.clone() {
                // It is known by its number from here on.
                self.note(id, at, &veth)?;
                veth.renamed = true;
                let renamed = match self.is_reserved(&veth, &wanted) {
                    true => Err(bad(id, format_args!("`{wanted}` belongs to another one"))),
                    false => veth
                        .rename(self.identity(), self.side(veth.in_core0))
                        .map_err(system(id)),
                };
                if let Err(error) = renamed {
                    // As in the existing system, which ignores this (runtime.md 4.1).
                    tracing::warn!(container = %id, %error, "the host's end has another name than configured");
                    veth.renamed = false;
                }
            }
            self.note(id, at, &veth)?;
            if veth.configure {
                veth.configure(self.identity(), self.side(veth.in_core0), self.inside(id)?)
                    .map_err(system(id))?;
            }
        }
        Ok(())
    }

    /// Names that we give to interfaces ourselves, and those of interfaces that are away and will come home.
    fn is_reserved(&self, veth: &Veth, name: &str) -> bool {
        let nics = self.connected.values().flat_map(|one| &one.record.nics);
        let mut away = nics.chain(self.state.strays()).map(|nic| &nic.home);
        let known = |known: &String| known == name;
        (is_ours(name) && !veth.is_uplink())
            || away.any(|home| known(&home.name) || home.alt_names.iter().any(known))
    }

    fn note(&mut self, id: ContainerId, at: usize, veth: &Veth) -> Result<()> {
        self.get_mut(id)?.record.veths[at] = veth.clone();
        self.write(id)
    }

    /// Removes the virtual interfaces of a container.
    pub(super) fn unplug(&self, id: ContainerId) -> Result<()> {
        for veth in &self.get(id)?.record.veths {
            let near = self.side(veth.in_core0);
            veth.remove(self.identity(), near).map_err(system(id))?;
        }
        Ok(())
    }

    /// core0 has started: the ways of the others end in it from now on.
    pub(super) fn replug_all(&mut self) {
        let others = self.connected.keys().filter(|id| !id.is_core0());
        for id in others.copied().collect::<Vec<_>>() {
            if let Err(error) = self.replug(id) {
                tracing::error!(container = %id, %error, "it is cut off");
            }
        }
    }

    fn replug(&mut self, id: ContainerId) -> Result<()> {
        self.unplug(id)?;
        let in_core0 = self.core0().is_some();
        for veth in &mut self.get_mut(id)?.record.veths {
            veth.in_core0 = in_core0 && !veth.is_uplink();
            veth.renamed = false;
            veth.near = None;
        }
        self.write(id)?;
        self.plug(id)
    }

    /// Makes the virtual interfaces of a container anew if one is missing: a daemon was killed where it made them.
    pub(super) fn replug_if_cut_off(&mut self, id: ContainerId) -> Result<()> {
        for veth in &self.get(id)?.record.veths {
            let near = self.side(veth.in_core0).netlink();
            let end = near.and_then(|mut near| veth.near_end(&mut near, self.identity()));
            if end.map_err(system(id))?.is_none() {
                tracing::warn!(container = %id, interface = veth.name, "it was cut off");
                return self.replug(id);
            }
        }
        Ok(())
    }

    /// Sets the rules that a virtual interface needs, where they are not set yet.
    pub(super) fn route_for(&mut self, id: ContainerId, veth: &Veth) -> Result<()> {
        let in_core0 = passes_core0(veth);
        if self.routing[usize::from(in_core0)] && self.has_table(in_core0, Family::Inet) {
            return Ok(());
        }
        let forwards = Forwarding::V4.is_on(self.side(in_core0));
        if !forwards.map_err(system(id))? && !in_core0 {
            // The rules are those of a host that passes on nothing else. Before it is done: whoever is killed in between,
            // the next one knows.
            self.state.set_forwarding()?;
        }
        self.set_routing(in_core0).map_err(system(id))?;
        let side = self.side(in_core0);
        on(Forwarding::V4, side).map_err(system(id))?;
        // A host that passes IPv6 on listens to routers no longer (docs/adr/0030-network.md); core0 is ours.
        if in_core0 && let Err(error) = on(Forwarding::V6, side) {
            tracing::debug!(%error, "no IPv6");
        }
        self.routing[usize::from(in_core0)] = true;
        Ok(())
    }

    fn set_routing(&self, in_core0: bool) -> cml_sys::Result<()> {
        let what = Routing {
            in_core0,
            isolate: self.settings.isolate,
            only_ours: !in_core0 && self.state.forwarding(),
        };
        nft::apply(self.side(in_core0), &rules::routing(self.identity(), what))
    }

    /// Sets our rules again that somebody has removed, such as one who has loaded the rules of a firewall.
    pub fn mend_rules(&mut self) {
        for in_core0 in [false, true] {
            if in_core0 && self.core0().is_none() {
                continue;
            }
            let routed = self.routing[usize::from(in_core0)];
            if routed && !self.has_table(in_core0, Family::Inet) {
                tracing::warn!(in_core0, "our rules were removed; they are set again");
                if let Err(error) = self.set_routing(in_core0) {
                    tracing::error!(in_core0, %error, "our rules are not set");
                }
            }
            let filtered = self.connected.iter().find(|(_, one)| {
                let mut nics = one.record.nics.iter();
                nics.any(|nic| nic.filter.is_some() && nic.from_core0 == in_core0)
            });
            if let Some((id, _)) = filtered
                && !self.has_table(in_core0, Family::Bridge)
                && let Err(error) = self.set_filters(in_core0, *id)
            {
                tracing::error!(in_core0, %error, "the filters are not set");
            }
        }
    }

    /// Whether our table is there; one that cannot be looked for is none, and is set again.
    fn has_table(&self, in_core0: bool, family: Family) -> bool {
        let found = has_table(self.side(in_core0), family, &self.identity().table());
        found.unwrap_or_else(|error| {
            tracing::warn!(in_core0, %error, "it is not known whether our rules are set");
            false
        })
    }

    /// Removes the rules of the host when nobody needs them any more. Those in core0 go with it.
    pub(super) fn unroute(&mut self, id: ContainerId) -> Result<()> {
        let veths = self.connected.values().flat_map(|one| &one.record.veths);
        let mut needed = veths.filter(|veth| veth.configure && !passes_core0(veth));
        if needed.next().is_some() {
            return Ok(());
        }
        nft::apply(&self.host, &rules::no_routing(self.identity())).map_err(system(id))?;
        self.routing[0] = false;
        Ok(())
    }
}

fn on(forwarding: Forwarding, side: &Namespace) -> cml_sys::Result<()> {
    match forwarding.is_on(side)? {
        true => Ok(()),
        false => forwarding.switch_on(side),
    }
}

/// Whether core0 passes on what comes from there.
fn passes_core0(veth: &Veth) -> bool {
    veth.in_core0 || veth.subnet == UPLINK
}
