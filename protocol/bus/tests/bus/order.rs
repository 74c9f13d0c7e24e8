//! ACT-03: no composition, however it came about, lets services wait for each other in a circle.

use std::collections::BTreeSet;

use cml_bus::order::{Level, Wiring};
use proptest::prelude::*;

const LEVELS: [Level; 7] = [
    Level::Audit,
    Level::Token,
    Level::GuestOs,
    Level::Network,
    Level::Container,
    Level::Provisioning,
    Level::Gateway,
];

/// A new level does not compile here, which is the reminder to add it to [`LEVELS`].
fn index(level: Level) -> usize {
    match level {
        Level::Audit => 0,
        Level::Token => 1,
        Level::GuestOs => 2,
        Level::Network => 3,
        Level::Container => 4,
        Level::Provisioning => 5,
        Level::Gateway => 6,
    }
}

/// Takes away services that call nobody who is left, again and again; a circle is what remains.
fn has_cycle(edges: &BTreeSet<(usize, usize)>) -> bool {
    let mut left = edges.clone();
    loop {
        let callers: BTreeSet<_> = left.iter().map(|(from, _)| *from).collect();
        let before = left.len();
        left.retain(|(_, to)| callers.contains(to));
        if left.len() == before {
            return !left.is_empty();
        }
    }
}

#[test]
fn every_level_is_tried() {
    assert_eq!(LEVELS.map(index), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_search_for_cycles_finds_them() {
    assert!(has_cycle(&BTreeSet::from([(1, 1)])));
    assert!(has_cycle(&BTreeSet::from([(0, 1), (1, 2), (2, 0), (3, 0)])));
    assert!(!has_cycle(&BTreeSet::from([
        (3, 2),
        (3, 1),
        (2, 1),
        (1, 0)
    ])));
}

proptest! {
    #[test]
    fn accepted_ports_never_form_a_cycle(
        wanted in prop::collection::vec((0..LEVELS.len(), 0..LEVELS.len()), 0..40),
    ) {
        let mut wiring = Wiring::default();
        let mut accepted = Vec::new();
        for (from, to) in wanted {
            if wiring.grant(LEVELS[from], LEVELS[to], &()).is_ok() {
                accepted.push((LEVELS[from], LEVELS[to]));
            }
        }
        let edges: BTreeSet<_> = accepted
            .iter()
            .map(|(from, to)| (index(*from), index(*to)))
            .collect();
        prop_assert!(!has_cycle(&edges), "{:?}", accepted);

        // The picture shows what was handed out, and nothing that was refused.
        let mut picture = String::from("graph TD\n");
        for (from, to) in accepted {
            picture += &format!("    {} --> {}\n", from.name(), to.name());
        }
        prop_assert_eq!(wiring.mermaid(), picture);
    }
}

#[test]
fn of_two_services_one_may_call_the_other() {
    for from in LEVELS {
        for to in LEVELS {
            let allowed = |from, to| Wiring::default().grant(from, to, &()).is_ok();
            let directions = usize::from(allowed(from, to)) + usize::from(allowed(to, from));
            assert_eq!(directions, usize::from(from != to), "{from:?} {to:?}");
        }
    }
}
