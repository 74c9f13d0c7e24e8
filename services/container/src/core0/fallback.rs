//! Whether `core0` has come to nothing, and what it is started with when that happens again and again. Pure.

use std::time::Duration;

use cml_sys::pidfd::Ended;

use crate::ending;

/// How long `core0` has to be RUNNING before what it runs with is relied on: a bad update shows within seconds of its
/// start, and init systems restart, or give up on, what does not get ready within less.
pub const PROOF: Duration = Duration::from_secs(30);
/// How often in a row the same configuration may come to nothing before another one is taken: once can be chance.
pub const TRIES: u32 = 3;
/// The pause after `core0` has come to nothing. It doubles up to the longest one; the device is of no use meanwhile.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a life of `core0` went.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// How its init ended.
    pub ended: Ended,
    /// It was asked to stop.
    pub asked: bool,
    /// It has run well, for [`PROOF`].
    pub well: bool,
    /// How often in a row it has rebooted itself before it had run well, this time not counted.
    pub reboots: u32,
}

impl Life {
    /// Whether it is no end that anybody wanted: it is started again, and not by itself.
    pub fn was_in_vain(self) -> bool {
        match self.ended {
            _ if self.asked => false,
            // It may have been switched off: then somebody has to do so again, while a device that a crash of cmld and one
            // of core0 have switched off has to be visited.
            Ended::Unknown => true,
            // Somebody may do that on purpose, but not on and on.
            _ if ending::is_reboot(self.ended) => !self.well && self.reboots + 1 >= TRIES,
            // An update whose init runs off its end must not switch the device off for good.
            Ended::Exited(0) => !self.well,
            _ => ending::is_failure(self.ended),
        }
    }
}

/// Where a configuration of `core0` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is stored: what the operator wants.
    Stored,
    /// It has run well before.
    Proven,
    /// The device has it.
    BuiltIn,
}

impl Source {
    /// What `core0` is started with, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Stored => "it is started as it is configured",
            Self::Proven => "it is started as it ran well before",
            Self::BuiltIn => "it is started as it is without a configuration",
        }
    }
}

/// What follows on the configuration that has failed: of those that can be used, given in their order, the one after it,
/// round and round. `None` when there is no other.
pub fn next<'a, C: PartialEq>(usable: &'a [(Source, C)], failed: &C) -> Option<(Source, &'a C)> {
    let mut distinct: Vec<&(Source, C)> = Vec::new();
    for one in usable {
        if distinct.iter().all(|other| other.1 != one.1) {
            distinct.push(one);
        }
    }
    let at = distinct.iter().position(|one| one.1 == *failed);
    // What is none of them was replaced while it ran.
    let next = at.map_or(0, |at| (at + 1) % distinct.len());
    let (source, config) = distinct.get(next)?;
    (config != failed).then_some((*source, config))
}

/// How often `core0` has come to nothing.
#[derive(Debug)]
pub struct Tries<C> {
    of: Option<C>,
    count: u32,
    pause: Duration,
}

impl<C> Default for Tries<C> {
    fn default() -> Self {
        Self {
            of: None,
            count: 0,
            pause: PAUSE,
        }
    }
}

impl<C: PartialEq> Tries<C> {
    /// It came to nothing with this configuration. Whether that is enough, and another one's turn.
    pub fn failed(&mut self, with: C) -> bool {
        if self.of.as_ref() != Some(&with) {
            (self.of, self.count) = (Some(with), 0);
        }
        self.count += 1;
        let enough = self.count >= TRIES;
        if enough {
            self.count = 0;
        }
        enough
    }

    /// It ran well.
    pub fn ran_well(&mut self) {
        *self = Self::default();
    }

    /// How long to wait before the next start.
    pub fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const SIGHUP: Ended = Ended::Signalled(1);
    const SIGINT: Ended = Ended::Signalled(2);
    const SIGKILL: Ended = Ended::Signalled(9);

    fn in_vain(ended: Ended, well: bool, reboots: u32) -> bool {
        let asked = false;
        let life = Life {
            ended,
            asked,
            well,
            reboots,
        };
        assert!(
            !Life {
                asked: true,
                ..life
            }
            .was_in_vain()
        );
        life.was_in_vain()
    }

    #[test]
    fn a_device_is_switched_off_by_a_core0_that_means_it_and_by_no_other() {
        for well in [false, true] {
            assert!(!in_vain(SIGINT, well, 0), "switched off from inside");
            assert!(in_vain(Ended::Unknown, well, 0), "nobody knows");
            assert!(in_vain(SIGKILL, well, 0));
            assert!(in_vain(Ended::Exited(1), well, 0));
            assert_eq!(in_vain(Ended::Exited(0), well, 0), !well);
        }
    }

    #[test]
    fn a_core0_may_reboot_and_not_on_and_on_before_it_has_run_well() {
        assert!(!in_vain(SIGHUP, false, 0));
        assert!(!in_vain(SIGHUP, false, TRIES - 2));
        assert!(in_vain(SIGHUP, false, TRIES - 1));
        assert!(!in_vain(SIGHUP, true, 9));
    }

    #[test]
    fn the_stored_the_proven_and_the_built_in_one_follow_each_other() {
        let all = [
            (Source::Stored, "update"),
            (Source::Proven, "before"),
            (Source::BuiltIn, "c0"),
        ];
        assert_eq!(next(&all, &"update"), Some((Source::Proven, &"before")));
        assert_eq!(next(&all, &"before"), Some((Source::BuiltIn, &"c0")));
        assert_eq!(next(&all, &"c0"), Some((Source::Stored, &"update")));
        let replaced = next(&all, &"an older one");
        assert_eq!(replaced, Some((Source::Stored, &"update")));
        let not_stored = next(&all[1..], &"c0");
        assert_eq!(not_stored, Some((Source::Proven, &"before")));
    }

    #[test]
    fn the_same_is_not_tried_again_under_another_name() {
        let proven = [
            (Source::Stored, "same"),
            (Source::Proven, "same"),
            (Source::BuiltIn, "c0"),
        ];
        assert_eq!(next(&proven, &"same"), Some((Source::BuiltIn, &"c0")));
        assert_eq!(next(&proven[..2], &"same"), None);
        assert_eq!(next(&[], &"same"), None);
    }

    #[test]
    fn another_configuration_gets_tries_of_its_own_and_its_turn_comes_after_the_last_one() {
        let mut tries = Tries::default();
        for _ in 0..3 {
            for _ in 1..TRIES {
                assert!(!tries.failed("a"));
            }
            assert!(tries.failed("a"));
        }
        assert!(!tries.failed("a"));
        assert!(!tries.failed("b"), "the operator's newer one");
        tries.ran_well();
        for _ in 1..TRIES {
            assert!(!tries.failed("b"));
        }
        assert!(tries.failed("b"));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_a_good_life() {
        let mut tries = Tries::<()>::default();
        let pauses: Vec<_> = (0..9).map(|_| tries.pause()).collect();
        assert_eq!((pauses[0], pauses[1]), (PAUSE, PAUSE * 2));
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        tries.ran_well();
        assert_eq!(tries.pause(), PAUSE);
    }

    proptest! {
        /// Whatever can be used and wherever it begins: everything gets its turn, and then again.
        #[test]
        fn nothing_that_may_work_is_left_out(configs in prop::array::uniform3(0..3_u8), begin in 0..4_u8) {
            let sources = [Source::Stored, Source::Proven, Source::BuiltIn];
            let usable: Vec<_> = sources.into_iter().zip(configs).collect();
            let mut tried = HashSet::new();
            let mut present = begin;
            for _ in 0..usable.len() {
                let Some((_, config)) = next(&usable, &present) else { break };
                prop_assert_ne!(*config, present);
                present = *config;
                tried.insert(present);
            }
            tried.insert(begin);
            prop_assert!(configs.iter().all(|config| tried.contains(config)));
        }
    }
}
