//! Virtual interfaces of all containers, and what passes packets between them and the rest.

use cml_bus::id::ContainerId;
use cml_sys::net::nft::{self, Forwarding};
use cml_wire::proto::ContainerConfig;

use super::{Networks, Result, bad, system};
use crate::{lease::UPLINK, record::Veth, rules, veth};

impl Networks {
    /// What a container gets, with subnets.
    pub(super) fn plan(&mut self, id: ContainerId, config: &ContainerConfig) -> Result<Vec<Veth>> {
        let in_core0 = self.core0().is_some();
        let mut netlink = self.side(in_core0).netlink().map_err(system(id))?;
        let addresses = netlink.addresses().map_err(system(id))?;
        let links = netlink.links().map_err(system(id))?;
        let group = self.identity().group();
        let ours = |at: u32| {
            links
                .iter()
                .any(|link| link.index == at && link.group == group)
        };
        let foreign: Vec<_> = links.iter().filter(|link| link.group != group).collect();
        let connected = &self.connected;
        let mut veths = Vec::new();
        for (index, one) in veth::complete(id, &config.vnet_configs)
            .into_iter()
            .enumerate()
        {
            // Another daemon, or the host itself, may use it.
            let fits = |subnet: crate::names::Subnet| {
                let mut others = addresses.iter().filter(|(at, _)| !ours(*at));
                !others.any(|(_, address)| subnet.holds(address))
                    && !foreign
                        .iter()
                        .any(|link| link.is_called(&subnet.host_end()))
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
            veth.make(self.identity(), self.side(veth.in_core0), self.inside(id)?)
                .map_err(system(id))?;
            if veth.wanted_name.is_some() {
                veth.renamed = true;
                self.note(id, at, &veth)?;
                let renamed = veth.rename(self.identity(), self.side(veth.in_core0));
                if let Err(error) = renamed {
                    // As in the existing system, which ignores this (runtime.md 4.1).
                    tracing::warn!(container = %id, %error, "the host's end has another name than configured");
                    veth.renamed = false;
                    self.note(id, at, &veth)?;
                }
            }
            if veth.configure {
                veth.configure(self.identity(), self.side(veth.in_core0), self.inside(id)?)
                    .map_err(system(id))?;
            }
        }
        Ok(())
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
        for veth in &mut self.get_mut(id)?.record.veths {
            veth.in_core0 = true;
            veth.renamed = false;
        }
        self.write(id)?;
        self.plug(id)
    }

    /// Sets the rules that a virtual interface needs, where they are not set yet.
    pub(super) fn route_for(&mut self, id: ContainerId, veth: &Veth) -> Result<()> {
        let in_core0 = passes_core0(veth);
        if self.routing[usize::from(in_core0)] {
            return Ok(());
        }
        let side = self.side(in_core0);
        let text = rules::routing(self.identity(), self.settings.isolate);
        nft::apply(side, &text).map_err(system(id))?;
        let on = |forwarding: Forwarding| match forwarding.is_on(side)? {
            true => Ok(()),
            false => forwarding.switch_on(side),
        };
        on(Forwarding::V4).map_err(system(id))?;
        // A host that passes IPv6 on listens to routers no longer (docs/adr/0030-network.md); core0 is ours.
        if in_core0 && let Err(error) = on(Forwarding::V6) {
            tracing::debug!(%error, "no IPv6");
        }
        self.routing[usize::from(in_core0)] = true;
        Ok(())
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

/// Whether core0 passes on what comes from there.
fn passes_core0(veth: &Veth) -> bool {
    veth.in_core0 || veth.subnet == UPLINK
}
