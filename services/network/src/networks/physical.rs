//! Physical interfaces: who has which, who may have it, and who still waits for one.

use cml_bus::{
    api::network::{Names, NetworkError},
    id::ContainerId,
};
use cml_sys::net::{link::Link, mac::Mac, nft};
use cml_wire::proto::ContainerPnetConfig;

use super::{Networks, Result, system};
use crate::{
    claim::Claim,
    nic,
    record::{Nic, Wish},
    router, rules,
};

impl Networks {
    /// Moves an interface into a running container; tells all its names.
    ///
    /// # Errors
    /// There is none, it is unsuitable, somebody else has it; what the kernel said.
    pub fn assign(&mut self, id: ContainerId, interface: &str) -> Result<Names> {
        let claim = Claim::parse(interface)?;
        self.inside(id)?;
        if let Some(nic) = self.has(id, &claim) {
            return Ok(names(nic));
        }
        self.must_be_free(id, &claim)?;
        let wish = Wish {
            claim,
            filter: None,
        };
        if !self.fulfil(id, &wish)? {
            return Err(NetworkError::NoInterface(interface.to_owned()));
        }
        // It comes back if it is pulled out and put in again.
        self.get_mut(id)?.record.wishes.push(wish.clone());
        self.write(id)?;
        let nic = self.has(id, &wish.claim);
        nic.map(names)
            .ok_or_else(|| NetworkError::NoInterface(interface.to_owned()))
    }

    /// Brings an interface of a running container home; tells all its names.
    ///
    /// # Errors
    /// It has no such interface; what the kernel said.
    pub fn unassign(&mut self, id: ContainerId, interface: &str) -> Result<Names> {
        let claim = Claim::parse(interface)?;
        self.inside(id)?;
        let nic = match self.has(id, &claim) {
            Some(nic) => nic.clone(),
            None => self
                .has_inside(id, &claim)?
                .ok_or_else(|| NetworkError::NotAssigned {
                    id,
                    interface: interface.to_owned(),
                })?,
        };
        let known = names(&nic);
        let wishes = &mut self.get_mut(id)?.record.wishes;
        wishes.retain(|wish| wish.claim != claim && wish.claim != nic.claim);
        self.release(id, &nic)?;
        Ok(known)
    }

    /// Whether an interface could be assigned to a container; tells all its names.
    ///
    /// # Errors
    /// As [`Networks::assign`].
    pub fn identify(&mut self, id: ContainerId, interface: &str) -> Result<Names> {
        let claim = Claim::parse(interface)?;
        if let Some(nic) = self.has(id, &claim) {
            return Ok(names(nic));
        }
        self.must_be_free(id, &claim)?;
        for side in [self.core0(), Some(&self.host)].into_iter().flatten() {
            let links = self.links(side).map_err(system(id))?;
            if let Some(link) = claim.find(&links) {
                self.must_be_suitable(link, &links)?;
                return Ok(link_names(link));
            }
        }
        Err(NetworkError::NoInterface(interface.to_owned()))
    }

    /// Looks for interfaces that containers still wait for.
    pub fn look_for_missing(&mut self) {
        // What nobody asked for by name is core0's, which therefore comes last.
        let mut ids: Vec<_> = self.connected.keys().copied().collect();
        ids.sort_by_key(|id| id.is_core0());
        self.adopt_new_cards();
        for id in ids {
            let Some(connected) = self.connected.get(&id) else {
                continue;
            };
            for wish in connected.record.wishes.clone() {
                let gone = self.is_gone(id, &wish.claim);
                if let Some(nic) = gone {
                    self.let_go(id, &nic);
                } else if self.has(id, &wish.claim).is_some() {
                    continue;
                }
                match self.fulfil(id, &wish) {
                    Ok(true) => {
                        tracing::info!(container = %id, interface = %wish.claim, "it is there now")
                    }
                    Ok(false) => {}
                    Err(error) => tracing::warn!(container = %id, %error, "not given to it"),
                }
            }
        }
    }

    /// core0 gets what is plugged in while it runs.
    fn adopt_new_cards(&mut self) {
        if self.core0().is_none() {
            return;
        }
        let Ok(links) = self.links(&self.host) else {
            return;
        };
        if let Ok(core0) = self.get_mut(ContainerId::CORE0) {
            let known = core0.record.wishes.clone();
            let cards = router::all_cards(&links).into_iter();
            core0
                .record
                .wishes
                .extend(cards.filter(|wish| !known.contains(wish)));
        }
    }

    /// An interface that the container had and that has left it, such as one that was unplugged.
    fn is_gone(&self, id: ContainerId, claim: &Claim) -> Option<Nic> {
        let nic = self.has(id, claim)?;
        let mut others = self.connected.values().flat_map(|one| &one.record.nics);
        if id.is_core0() && others.any(|other| other.from_core0 && other.home.mac == nic.home.mac) {
            return None;
        }
        if nic.filter.is_some() {
            let link = self
                .side(nic.from_core0)
                .netlink()
                .ok()?
                .link_at(nic.home.index)
                .ok()?;
            return link.is_none().then(|| nic.clone());
        }
        let mut inside = self.inside(id).ok()?.netlink().ok()?;
        let there = nic.find_inside(&mut inside).ok()?;
        there.is_none().then(|| nic.clone())
    }

    fn let_go(&mut self, id: ContainerId, nic: &Nic) {
        if let Ok(connected) = self.get_mut(id) {
            connected.record.nics.retain(|one| one != nic);
        }
    }

    /// Gives a container an interface; tells whether there is one.
    pub(super) fn fulfil(&mut self, id: ContainerId, wish: &Wish) -> Result<bool> {
        let failed = system(id);
        let core0 = self.core0().is_some() && !id.is_core0();
        for from_core0 in [true, false] {
            if from_core0 && !core0 {
                continue;
            }
            let home = self.side(from_core0);
            let mut netlink = home.netlink().map_err(&failed)?;
            let links = netlink.links().map_err(&failed)?;
            let Some(link) = wish.claim.find(&links) else {
                continue;
            };
            self.must_be_suitable(link, &links)?;
            self.nobody_has(id, link)?;
            let inside = self.links(self.inside(id)?).map_err(&failed)?;
            let nic = Nic {
                claim: wish.claim.clone(),
                inside: nic::free_index(link.index, &inside),
                home: nic::describe(&mut netlink, link).map_err(&failed)?,
                filter: wish.filter.clone(),
                from_core0,
            };
            self.get_mut(id)?.record.nics.push(nic.clone());
            self.write(id)?;
            return match self.hand_over(id, &nic) {
                Ok(()) => Ok(true),
                Err(error) => {
                    self.release(id, &nic)?;
                    Err(error)
                }
            };
        }
        Ok(false)
    }

    fn hand_over(&mut self, id: ContainerId, nic: &Nic) -> Result<()> {
        if nic.filter.is_some() {
            self.set_filters(nic.from_core0, id)?;
            let (home, inside) = (self.side(nic.from_core0), self.inside(id)?);
            return nic.build(self.identity(), home, inside).map_err(system(id));
        }
        let (home, inside) = (self.side(nic.from_core0), self.inside(id)?);
        nic.send(home, inside).map_err(system(id))?;
        tracing::info!(container = %id, interface = nic.home.name, "moved in");
        Ok(())
    }

    /// Brings an interface of a container home, and forgets it.
    pub(super) fn release(&mut self, id: ContainerId, nic: &Nic) -> Result<()> {
        let home = self.side(nic.from_core0);
        match nic.filter {
            Some(_) => nic.dismantle(self.identity(), home),
            None => nic.bring_home(home, self.get(id)?.namespace.as_ref()),
        }
        .map_err(system(id))?;
        tracing::info!(container = %id, interface = nic.home.name, "home again");
        self.let_go(id, nic);
        if nic.filter.is_some() {
            self.set_filters(nic.from_core0, id)?;
        }
        self.write(id)
    }

    /// The rules of all filtered interfaces of one side.
    pub(super) fn set_filters(&self, in_core0: bool, id: ContainerId) -> Result<()> {
        let nics = self.connected.values().flat_map(|one| &one.record.nics);
        let filters: Vec<(_, Vec<Mac>)> = nics
            .filter(|nic| nic.from_core0 == in_core0)
            .filter_map(|nic| Some((nic.filter_names(), nic.filter.clone()?)))
            .collect();
        let text = rules::bridging(self.identity(), &filters);
        nft::apply(self.side(in_core0), &text).map_err(system(id))
    }

    /// An interface of a container, by what it is called at home.
    fn has(&self, id: ContainerId, claim: &Claim) -> Option<&Nic> {
        let nics = &self.connected.get(&id)?.record.nics;
        nics.iter().find(|nic| nic.is_meant_by(claim))
    }

    /// An interface of a container, by what it is called there.
    fn has_inside(&self, id: ContainerId, claim: &Claim) -> Result<Option<Nic>> {
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

    /// Nobody else has a filtered way to an interface that is at home, or waits for it by another of its names.
    fn nobody_has(&self, id: ContainerId, link: &Link) -> Result<()> {
        let others = self
            .connected
            .iter()
            .filter(|(other, _)| **other != id && !other.is_core0());
        for (other, connected) in others {
            if connected
                .record
                .wishes
                .iter()
                .any(|wish| wish.claim.means(link))
            {
                return Err(NetworkError::Held {
                    interface: link.name.clone(),
                    holder: *other,
                });
            }
        }
        Ok(())
    }

    fn must_be_suitable(&self, link: &Link, links: &[Link]) -> Result<()> {
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
    fn is_meant_by(&self, claim: &Claim) -> bool {
        let macs = [self.home.mac, self.home.permanent_mac];
        match claim {
            _ if *claim == self.claim => true,
            Claim::Name(name) => self.home.name == *name || self.home.alt_names.contains(name),
            Claim::Mac(mac) => macs.contains(&Some(*mac)),
        }
    }
}

fn names(nic: &Nic) -> Names {
    let home = &nic.home;
    let macs = [home.mac, home.permanent_mac].into_iter().flatten();
    let words = [home.name.clone(), nic.claim.to_string()].into_iter();
    let all = words.chain(home.alt_names.iter().cloned());
    Names(all.chain(macs.map(|mac| mac.to_string())).collect())
}

fn link_names(link: &Link) -> Names {
    let macs = [link.mac, link.permanent_mac].into_iter().flatten();
    let names = std::iter::once(&link.name).chain(&link.alt_names).cloned();
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
        })
    };
    configured.iter().map(wish).collect()
}
