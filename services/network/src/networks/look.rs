//! What has come, gone or come back since somebody last looked.

use cml_bus::id::ContainerId;
use cml_sys::net::netlink::Netlink;

use super::{Networks, Result, system};
use crate::{
    record::{Nic, Wish},
    router,
};

impl Networks {
    /// Looks for interfaces that containers still wait for, and for those that were given and are not there.
    pub fn look_for_missing(&mut self) {
        self.mend_rules();
        self.look_for_strays();
        self.adopt_new_cards();
        // What nobody asked for by name is core0's, which therefore comes last.
        let mut ids: Vec<_> = self.connected.keys().copied().collect();
        ids.sort_by_key(|id| id.is_core0());
        for id in ids {
            for nic in self.nics(id) {
                if let Err(error) = self.look_for(id, &nic) {
                    tracing::warn!(container = %id, %error, interface = nic.home.name, "not looked for");
                }
            }
            for wish in self.wishes(id) {
                let has = self.has(id, &wish.claim);
                if has.is_none_or(|nic| nic.hidden) {
                    self.try_to_fulfil(id, &wish);
                }
            }
        }
    }

    fn nics(&self, id: ContainerId) -> Vec<Nic> {
        let connected = self.connected.get(&id);
        connected.map_or_else(Vec::new, |one| one.record.nics.clone())
    }

    fn wishes(&self, id: ContainerId) -> Vec<Wish> {
        let connected = self.connected.get(&id);
        connected.map_or_else(Vec::new, |one| one.record.wishes.clone())
    }

    fn try_to_fulfil(&mut self, id: ContainerId, wish: &Wish) {
        match self.fulfil(id, wish) {
            Ok(true) => {
                tracing::info!(container = %id, interface = %wish.claim, "it is there now");
            }
            Ok(false) => {}
            Err(error) if wish.automatic => {
                tracing::debug!(container = %id, %error, "not given to it");
            }
            Err(error) => tracing::warn!(container = %id, %error, "not given to it"),
        }
    }

    /// Interfaces that were hidden in a namespace when their container ended come home when that namespace dies.
    fn look_for_strays(&mut self) {
        for nic in self.state.strays().to_vec() {
            let restored = || -> cml_sys::Result<bool> {
                let mut here = self.side(nic.from_core0).netlink()?;
                self.restore_at_home(&nic, &mut here)
            };
            let done = match restored() {
                Ok(false) if nic.home.is_unplugged() => self.state.found(&nic),
                Ok(false) => Ok(()),
                Ok(true) => {
                    tracing::info!(interface = nic.home.name, "home again, at last");
                    self.state.found(&nic)
                }
                Err(error) => {
                    tracing::warn!(interface = nic.home.name, %error, "not as it left");
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!(%error, "interfaces that were missed are not written down");
            }
        }
    }

    fn restore_at_home(&self, nic: &Nic, here: &mut Netlink) -> cml_sys::Result<bool> {
        match nic.home.find(here)? {
            Some(link) => nic.home.restore(here, link).map(|()| true),
            None => Ok(false),
        }
    }

    /// Looks whether a container still has what it was given. What is nowhere stays its own: a guest can hide an interface
    /// in a namespace that it makes, and must not get rid of its record by that.
    fn look_for(&mut self, id: ContainerId, nic: &Nic) -> Result<()> {
        if self.borrower(id, nic).is_some() {
            return Ok(());
        }
        let failed = system(id);
        let mut here = self.side(nic.from_core0).netlink().map_err(&failed)?;
        if nic.filter.is_some() {
            let unplugged = here.link_at(nic.home.index).map_err(&failed)?.is_none();
            return match unplugged {
                true => self.release(id, nic).map(drop),
                false => Ok(()),
            };
        }
        let mut there = self.inside(id)?.netlink().map_err(&failed)?;
        let is_there = nic.find_inside(&mut there).map_err(&failed)?.is_some();
        if !is_there {
            let came_home = self.restore_at_home(nic, &mut here).map_err(&failed)?;
            if came_home || nic.home.is_unplugged() {
                self.let_go(id, nic);
                return self.write(id);
            }
        }
        self.set_hidden(id, nic, !is_there)
    }

    /// Notes whether an interface of a container can be seen.
    pub(super) fn set_hidden(&mut self, id: ContainerId, nic: &Nic, hidden: bool) -> Result<()> {
        if nic.hidden == hidden {
            return Ok(());
        }
        if hidden {
            tracing::warn!(
                container = %id,
                interface = nic.home.name,
                "it is not there any more: unplugged, or in a namespace that the guest has made"
            );
        }
        for one in &mut self.get_mut(id)?.record.nics {
            if one == nic {
                one.hidden = hidden;
            }
        }
        self.write(id)
    }

    /// core0 gets what is plugged in while it runs.
    fn adopt_new_cards(&mut self) {
        if self.core0().is_none() {
            return;
        }
        let Ok(links) = self.links(&self.host) else {
            return;
        };
        let cards = router::all_cards(&links, self.identity());
        if let Ok(core0) = self.get_mut(ContainerId::CORE0) {
            let record = &mut core0.record;
            let known = |wish: &Wish| {
                let mut wishes = record.wishes.iter();
                wishes.any(|known| known.claim == wish.claim)
                    || record.declined.contains(&wish.claim)
            };
            let new: Vec<_> = cards.into_iter().filter(|wish| !known(wish)).collect();
            record.wishes.extend(new);
        }
    }
}
