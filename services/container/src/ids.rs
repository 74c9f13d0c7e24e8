//! Which container has which range of ids (SEC-10): taken at start, given back when nothing of it is left.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use cml_bus::id::ContainerId;
use cml_sys::idmap::{IdRange, choose_slot};

/// The slots that are in use.
#[derive(Debug, Default)]
pub struct Slots(Mutex<BTreeMap<u32, ContainerId>>);

impl Slots {
    /// A slot for the container: the one it had if that is free, else the lowest free one.
    pub fn take(&self, id: ContainerId, stored: Option<u32>) -> Option<(u32, IdRange)> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, owner| *owner != id);
        let slot = choose_slot(stored, &taken.keys().copied().collect())?;
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
        assert_eq!(slots.take(a, Some(3)).unwrap().0, 3);
        assert_eq!(slots.take(b, Some(3)).unwrap().0, 0);
        slots.give_back(a);
        assert_eq!(slots.take(a, Some(3)).unwrap().0, 3);
        assert_eq!(slots.take(a, Some(3)).unwrap().0, 3);
    }
}
