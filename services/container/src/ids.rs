//! Which container has which range of ids (SEC-10): taken at start, given back when nothing of it is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use cml_bus::id::ContainerId;
use cml_sys::idmap::{IdRange, choose_slot};

/// The slots that are in use.
#[derive(Debug, Default)]
pub struct Slots(Mutex<BTreeMap<u32, ContainerId>>);

impl Slots {
    /// A slot for the container: the one it had if that is free, else the lowest one that nobody has. Others that do not run
    /// have theirs `noted` and find it again, as long as there are enough for all.
    pub fn take(
        &self,
        id: ContainerId,
        stored: Option<u32>,
        noted: impl FnOnce() -> BTreeSet<u32>,
    ) -> Option<(u32, IdRange)> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, owner| *owner != id);
        let in_use: BTreeSet<u32> = taken.keys().copied().collect();
        let is_free = |slot: &u32| !in_use.contains(slot) && IdRange::of_slot(*slot).is_some();
        let slot = match stored.filter(is_free) {
            Some(slot) => slot,
            None => {
                choose_slot(None, &(&in_use | &noted())).or_else(|| choose_slot(None, &in_use))?
            }
        };
        taken.insert(slot, id);
        Some((slot, IdRange::of_slot(slot)?))
    }

    /// The container no longer runs.
    pub fn give_back(&self, id: ContainerId) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, owner| *owner != id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_containers_never_share_a_slot_and_get_theirs_again() {
        let slots = Slots::default();
        let (a, b) = (ContainerId::random(), ContainerId::random());
        let take = |id, stored| slots.take(id, stored, BTreeSet::new).unwrap().0;
        assert_eq!(take(a, Some(3)), 3);
        assert_eq!(take(b, Some(3)), 0);
        slots.give_back(a);
        assert_eq!(take(a, Some(3)), 3);
        assert_eq!(take(a, Some(3)), 3);
    }

    #[test]
    fn a_new_container_leaves_those_that_do_not_run_their_slots_while_there_are_others() {
        let slots = Slots::default();
        let noted = || BTreeSet::from([0, 1, 3]);
        let take = |stored| slots.take(ContainerId::random(), stored, noted).unwrap().0;
        assert_eq!([take(None), take(None)], [2, 4]);
        assert_eq!([take(Some(1)), take(Some(1))], [1, 5]);
        let all = || (0..=cml_sys::idmap::LAST_SLOT).collect();
        let last = slots.take(ContainerId::random(), None, all);
        assert_eq!(last.unwrap().0, 0);
    }
}
