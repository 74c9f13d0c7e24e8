//! Who has which physical interface, and who may have it.

use cml_bus::{
    api::network::{Names, NetworkError},
    id::ContainerId,
};
use cml_sys::net::{link::Link, mac::Mac};
use cml_wire::proto::ContainerPnetConfig;

use super::{Networks, Result, system};
use crate::{
    claim::Claim,
    nic,
    record::{Nic, Wish},
};

impl Networks {
    /// An interface of a container, by what it is called at home. One that can be seen goes first.
    pub(super) fn has(&self, id: ContainerId, claim: &Claim) -> Option<&Nic> {
        let nics = self.connected.get(&id)?.record.nics.iter();
        let meant = nics.filter(|nic| nic.is_meant_by(claim));
        meant.min_by_key(|nic| nic.hidden)
    }

    /// An interface of a container, by what it is called there.
    pub(super) fn has_inside(&self, id: ContainerId, claim: &Claim) -> Result<Option<Nic>> {
        let links = self.links(self.inside(id)?).map_err(system(id))?;
        let Some(link) = claim.find(&links) else {
            return Ok(None);
        };
        let nics = &self.get(id)?.record.nics;
        let found = nics.iter().find(|nic| match nic.filter {
            Some(_) => nic.filtered_name() == link.name,
            None => nic.inside == link.index,
        });
        Ok(found.cloned())
    }

    /// Nobody else has, or waits for, what is claimed.
    pub(super) fn must_be_free(&self, id: ContainerId, claim: &Claim) -> Result<()> {
        for (other, connected) in &self.connected {
            // core0 lends what it has (runtime.md 4.3).
            if *other == id || (other.is_core0() && !self.settings.hosted) {
                continue;
            }
            let record = &connected.record;
            let has = record.nics.iter().any(|nic| nic.is_meant_by(claim));
            if has || record.wishes.iter().any(|wish| wish.claim == *claim) {
                return Err(NetworkError::Held {
                    interface: claim.to_string(),
                    holder: *other,
                });
            }
        }
        Ok(())
    }

    /// Nobody else has an interface that is at home, as one that is filtered. Of those who wait for one by different names,
    /// the first gets it.
    pub(super) fn nobody_has(&self, id: ContainerId, link: &Link, in_core0: bool) -> Result<()> {
        let others = self.connected.iter();
        for (other, connected) in others.filter(|(other, _)| **other != id) {
            let mut nics = connected.record.nics.iter();
            if nics.any(|nic| nic.from_core0 == in_core0 && nic.home.is(link)) {
                return Err(NetworkError::Held {
                    interface: link.name.clone(),
                    holder: *other,
                });
            }
        }
        Ok(())
    }

    pub(super) fn must_be_suitable(&self, link: &Link, links: &[Link]) -> Result<()> {
        match nic::unsuitable(link, self.identity(), links) {
            None => Ok(()),
            Some(reason) => Err(NetworkError::Unsuitable {
                interface: link.name.clone(),
                reason,
            }),
        }
    }
}

impl Nic {
    /// Whether this is what somebody asks for, by what it is called at home.
    pub(super) fn is_meant_by(&self, claim: &Claim) -> bool {
        let macs = [self.home.mac, self.home.permanent_mac];
        match claim {
            _ if *claim == self.claim => true,
            Claim::Name(name) => self.home.name == *name || self.home.alt_names.contains(name),
            Claim::Mac(mac) => macs.contains(&Some(*mac)),
        }
    }

    /// Everything that it is called.
    pub(super) fn names(&self) -> Names {
        let home = &self.home;
        let macs = [home.mac, home.permanent_mac].into_iter().flatten();
        let words = [home.name.clone(), self.claim.to_string()].into_iter();
        let all = words.chain(home.alt_names.iter().cloned());
        Names(all.chain(macs.map(|mac| mac.to_string())).collect())
    }
}

/// Everything that an interface at home is called.
pub(super) fn names_of(link: &Link) -> Names {
    let macs = [link.mac, link.permanent_mac].into_iter().flatten();
    let others = link.alt_names.iter().filter_map(|name| name.to_str());
    let names = std::iter::once(&*link.name)
        .chain(others)
        .map(str::to_owned);
    Names(names.chain(macs.map(|mac| mac.to_string())).collect())
}

/// The physical interfaces of a configuration. What is wrong in a filter is said and left out (issue of the existing
/// system's tests: protocol.md 5.2); a filter of nothing but mistakes lets nothing through.
pub(super) fn wishes(id: ContainerId, configured: &[ContainerPnetConfig]) -> Result<Vec<Wish>> {
    let wish = |one: &ContainerPnetConfig| {
        let filter = one.mac_filter.iter().filter_map(|text| {
            let parsed = text.parse::<Mac>();
            parsed
                .inspect_err(|error| {
                    tracing::warn!(container = %id, %error, interface = one.netif, "left out of its mac_filter");
                })
                .ok()
        });
        Ok(Wish {
            claim: Claim::parse(&one.netif)?,
            filter: (!one.mac_filter.is_empty()).then(|| filter.collect()),
            automatic: false,
        })
    };
    configured.iter().map(wish).collect()
}
