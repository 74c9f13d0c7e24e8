//! Id ranges of containers: disjoint, far from the host's own ids (SEC-10, runtime.md 2.4).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A container's ids 0 to 65535 are these ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The host's id of the container's root.
    pub start: u32,
}

/// How many ids a container has.
pub const RANGE_LENGTH: u32 = 65_536;
/// The first slot starts here …
const FIRST: u32 = 100_000;
/// … and the next ones follow in this distance (runtime.md 2.4).
const STRIDE: u32 = 100_000;
/// The last slot whose range still lies below 2^32 - 2, where ids get a special meaning.
pub const LAST_SLOT: u32 = (u32::MAX - 1 - RANGE_LENGTH - FIRST) / STRIDE;

impl IdRange {
    /// The range of a slot, unless the slot is out of bounds.
    pub fn of_slot(slot: u32) -> Option<Self> {
        (slot <= LAST_SLOT).then(|| Self {
            start: FIRST + slot * STRIDE,
        })
    }

    /// What the host calls this id of the container.
    pub fn host_id(self, id: u32) -> Option<u32> {
        (id < RANGE_LENGTH).then(|| self.start + id)
    }

    /// The line for `uid_map` and `gid_map`.
    pub fn map_line(self) -> String {
        format!("0 {} {RANGE_LENGTH}\n", self.start)
    }
}

/// The slot for a container: the one it had, if it is still free and valid, else the lowest free one.
pub fn choose_slot(stored: Option<u32>, taken: &BTreeSet<u32>) -> Option<u32> {
    match stored {
        Some(slot) if slot <= LAST_SLOT && !taken.contains(&slot) => Some(slot),
        _ => (0..=LAST_SLOT).find(|slot| !taken.contains(slot)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_of_different_slots_never_touch(a in 0..=LAST_SLOT, b in 0..=LAST_SLOT) {
            let (a, b) = (IdRange::of_slot(a.min(b)).unwrap(), IdRange::of_slot(a.max(b)).unwrap());
            prop_assert!(a == b || u64::from(a.start) + u64::from(RANGE_LENGTH) <= u64::from(b.start));
            prop_assert!(a.start >= 100_000);
        }

        #[test]
        fn a_chosen_slot_is_free_and_kept_when_possible(
            stored in proptest::option::of(any::<u32>()),
            taken in proptest::collection::btree_set(0_u32..50, 0..50),
        ) {
            let slot = choose_slot(stored, &taken).unwrap();
            prop_assert!(!taken.contains(&slot) && slot <= LAST_SLOT);
            if let Some(stored) = stored.filter(|s| *s <= LAST_SLOT && !taken.contains(s)) {
                prop_assert_eq!(slot, stored);
            }
        }
    }
}
