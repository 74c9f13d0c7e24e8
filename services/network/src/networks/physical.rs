//! Physical interfaces: given, by command or as somebody has wished, and taken away.

use cml_bus::{
    api::network::{Names, NetworkError},
    id::ContainerId,
};
use cml_sys::net::{mac::Mac, nft};

use super::{Networks, Result, claims::names_of, system};
use crate::{
    claim::Claim,
    home::describe,
    nic::{self, Return},
    record::{Nic, Wish},
    rules,
};

impl Networks {
    /// Moves an interface into a running container; tells all its names.
    ///
    /// # Errors
    /// There is none, it is unsuitable, somebody else has it; what the kernel said.
    pub fn assign(&mut self, id: ContainerId, interface: &str) -> Result<Names> {
        let claim = Claim::parse(interface)?;
        self.inside(id)?;
        if let Some(nic) = self.has(id, &claim).filter(|nic| !nic.hidden) {
            return Ok(nic.names());
        }
        self.must_be_free(id, &claim)?;
        let wish = Wish {
            claim,
            filter: None,
            automatic: false,
        };
        if !self.fulfil(id, &wish)? {
            return Err(NetworkError::NoInterface(interface.to_owned()));
        }
        // It comes back if it is pulled out and put in again.
        self.get_mut(id)?.record.wishes.push(wish.clone());
        self.write(id)?;
        let nic = self.has(id, &wish.claim);
        nic.map(Nic::names)
            .ok_or_else(|| NetworkError::NoInterface(interface.to_owned()))
    }

    /// Brings an interface of a running container home, and lets the container wait no longer for it; tells all its
    /// names.
    ///
    /// # Errors
    /// It neither has nor awaits such an interface, or it is out of sight; what the kernel said.
    pub fn unassign(&mut self, id: ContainerId, interface: &str) -> Result<Names> {
        let claim = Claim::parse(interface)?;
        self.inside(id)?;
        let nic = match self.has(id, &claim) {
            Some(nic) => Some(nic.clone()),
            None => self.has_inside(id, &claim)?,
        };
        let record = &mut self.get_mut(id)?.record;
        let (dropped, kept): (Vec<_>, Vec<_>) = record.wishes.drain(..).partition(|wish| {
            let same = nic.as_ref().is_some_and(|nic| nic.is_meant_by(&wish.claim));
            same || wish.claim == claim
        });
        record.wishes = kept;
        let automatic = dropped.iter().filter(|wish| wish.automatic);
        record
            .declined
            .extend(automatic.map(|wish| wish.claim.clone()));
        self.write(id)?;
        let Some(nic) = nic else {
            return match dropped.is_empty() {
                false => Ok(Names(vec![claim.to_string()])),
                true => Err(NetworkError::NotAssigned {
                    id,
                    interface: interface.to_owned(),
                }),
            };
        };
        let interface = interface.to_owned();
        match self.release(id, &nic)? {
            Return::Home => Ok(nic.names()),
            Return::Shared => Err(NetworkError::Shared { id, interface }),
            Return::Nowhere => Err(NetworkError::Hidden { id, interface }),
        }
    }

    /// Whether an interface could be assigned to a container; tells all its names.
    ///
    /// # Errors
    /// As [`Networks::assign`].
    pub fn identify(&mut self, id: ContainerId, interface: &str) -> Result<Names> {
        let claim = Claim::parse(interface)?;
        if let Some(nic) = self.has(id, &claim) {
            return Ok(nic.names());
        }
        self.must_be_free(id, &claim)?;
        for side in [self.core0(), Some(&self.host)].into_iter().flatten() {
            let links = self.links(side).map_err(system(id))?;
            if let Some(link) = claim.find(&links) {
                self.must_be_suitable(link, &links)?;
                return Ok(names_of(link));
            }
        }
        Err(NetworkError::NoInterface(interface.to_owned()))
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
            self.nobody_has(id, link, from_core0)?;
            self.must_be_suitable(link, &links)?;
            let inside = self.links(self.inside(id)?).map_err(&failed)?;
            let mut home = describe(&mut netlink, link, &links).map_err(&failed)?;
            // What sysfs shows is the host's.
            home.device = home.device.filter(|_| !from_core0);
            let nic = Nic {
                claim: wish.claim.clone(),
                inside: nic::free_index(link.index, &inside),
                home,
                filter: wish.filter.clone(),
                from_core0,
                hidden: false,
            };
            let nics = &mut self.get_mut(id)?.record.nics;
            nics.retain(|lost| !lost.hidden || !lost.home.is_replaced_by(link));
            nics.push(nic.clone());
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

    /// Brings an interface of a container home, and forgets it unless it is nowhere.
    pub(super) fn release(&mut self, id: ContainerId, nic: &Nic) -> Result<Return> {
        let home = self.side(nic.from_core0);
        let done = match nic.filter {
            Some(_) => {
                let done = nic.dismantle(self.identity(), home);
                done.map(|()| Return::Home)
            }
            None => nic.bring_home(home, self.get(id)?.namespace.as_ref()),
        };
        let done = done.map_err(system(id))?;
        if done == Return::Nowhere {
            self.set_hidden(id, nic, true)?;
            return Ok(done);
        }
        tracing::info!(container = %id, interface = nic.home.name, "home again");
        self.let_go(id, nic);
        if nic.filter.is_some() {
            self.set_filters(nic.from_core0, id)?;
        }
        self.write(id)?;
        Ok(done)
    }

    /// Brings everything home that a container has, and what core0 has lent is its borrower's. What is nowhere is missed from now on; what cannot be brought home
    /// does not keep the rest.
    pub(super) fn release_all(&mut self, id: ContainerId) -> Result<()> {
        let mut failures = Vec::new();
        if id.is_core0() {
            self.drop_ways_through_core0()?;
        }
        for nic in self.get(id)?.record.nics.clone() {
            if self.hand_to_borrower(id, &nic)? {
                continue;
            }
            match self.release(id, &nic) {
                Ok(Return::Home) => {}
                Ok(Return::Shared) => {
                    tracing::warn!(container = %id, interface = nic.home.name, "something still stands on it");
                }
                Ok(Return::Nowhere) => {
                    tracing::warn!(container = %id, interface = nic.home.name, "it is nowhere; was it unplugged?");
                    if !nic.home.is_unplugged() {
                        self.state.miss(nic.clone())?;
                    }
                    self.get_mut(id)?
                        .record
                        .nics
                        .retain(|one| one.home != nic.home || one.inside != nic.inside);
                    self.write(id)?;
                }
                Err(error) => failures.push(format!("`{}`: {error}", nic.home.name)),
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(super::bad(id, failures.join("; "))),
        }
    }

    pub(super) fn let_go(&mut self, id: ContainerId, nic: &Nic) {
        if let Ok(connected) = self.get_mut(id) {
            connected.record.nics.retain(|one| one != nic);
        }
    }

    /// Who has borrowed an interface of core0's.
    pub(super) fn borrower(&self, id: ContainerId, nic: &Nic) -> Option<ContainerId> {
        let others = self.connected.iter().filter(|_| id.is_core0());
        let mut borrowers = others.filter(|(_, one)| {
            let mut nics = one.record.nics.iter();
            nics.any(|lent| lent.from_core0 && lent.is_lent(nic))
        });
        borrowers.next().map(|(id, _)| *id)
    }

    /// core0 ends, and what it has lent comes home from its borrower, as it once left; tells whether it was lent.
    fn hand_to_borrower(&mut self, id: ContainerId, nic: &Nic) -> Result<bool> {
        let Some(borrower) = self.borrower(id, nic) else {
            return Ok(false);
        };
        for lent in &mut self.get_mut(borrower)?.record.nics {
            if lent.from_core0 && lent.is_lent(nic) {
                lent.home = nic.home.clone();
                lent.from_core0 = false;
            }
        }
        // Written down in this order: in between both know it, and both mean the same.
        self.write(borrower)?;
        self.let_go(id, nic);
        self.write(id)?;
        Ok(true)
    }

    /// Filtered interfaces of core0 stay there, and what leads to them ends with it.
    fn drop_ways_through_core0(&mut self) -> Result<()> {
        for id in self.connected.keys().copied().collect::<Vec<_>>() {
            let nics = &mut self.get_mut(id)?.record.nics;
            let before = nics.len();
            nics.retain(|nic| !nic.from_core0 || nic.filter.is_none());
            if nics.len() < before {
                self.write(id)?;
            }
        }
        Ok(())
    }

    /// The rules of all filtered interfaces of one side.
    pub(super) fn set_filters(&self, in_core0: bool, id: ContainerId) -> Result<()> {
        if in_core0 && self.core0().is_none() {
            // They went with it.
            return Ok(());
        }
        let nics = self.connected.values().flat_map(|one| &one.record.nics);
        let filters: Vec<(_, Vec<Mac>)> = nics
            .filter(|nic| nic.from_core0 == in_core0)
            .filter_map(|nic| Some((nic.filter_names(), nic.filter.clone()?)))
            .collect();
        let text = rules::bridging(self.identity(), &filters);
        nft::apply(self.side(in_core0), &text).map_err(system(id))
    }
}

impl Nic {
    /// Whether this is what core0 has lent: it was there under the number that core0 had got it with. One that is
    /// filtered stays in core0.
    fn is_lent(&self, by_core0: &Self) -> bool {
        self.filter.is_none()
            && self.home.index == by_core0.inside
            && self.home.is_kin(&by_core0.home)
    }
}
