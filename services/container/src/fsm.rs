//! The life of a container as a pure function: `(State, Event) -> (State, Vec<Effect>)`.
//!
//! States as in requirement.md, transitions as in runtime.md 1.3 with the answers of its section 9. The
//! function touches nothing; the container's actor carries the effects out and reports what became of
//! them as the next event. The picture in ARCHITECTURE.md is made from [`mermaid`].

use std::collections::{BTreeMap, BTreeSet};

use cml_wire::proto::ContainerState;
use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Never run, stopped, or its init ended.
    Stopped,
    /// The launch is being prepared.
    Starting {
        /// In setup mode.
        setup: bool,
    },
    /// Its init has been started and has not reported yet.
    Booting,
    /// Its init reported, or counts as running as it does not report.
    Running,
    /// Running in setup mode.
    Setup,
    /// The kernel was asked to freeze it.
    Freezing {
        /// It was in setup mode before.
        setup: bool,
    },
    /// The kernel does not schedule it.
    Frozen {
        /// It was in setup mode before.
        setup: bool,
    },
    /// It was asked to stop, or it ended and what it left is being cleaned up.
    ShuttingDown,
    /// The guest asked for a reboot; it will be started again.
    Rebooting,
    /// Its data or keys are damaged.
    Zombie,
}

/// Something that happened to a container, or is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// An operator wants it to run; the PIN has been checked.
    Start {
        /// In setup mode.
        setup: bool,
    },
    /// Its init has been executed.
    Launched,
    /// The launch failed and was undone.
    LaunchFailed,
    /// The data or the key turned out to be damaged; a launch was undone.
    DataDamaged,
    /// The guest is up, by its own word or by rule.
    BootCompleted,
    /// The guest did not report in time.
    BootOverdue,
    /// An operator wants it to stop; the PIN has been checked.
    Stop,
    /// It was asked politely for too long.
    StopOverdue,
    /// It must go at once: it is about to be removed or wiped.
    Kill,
    /// An operator wants it frozen.
    Freeze,
    /// The kernel has frozen it.
    Froze,
    /// The kernel did not; it has been thawed again.
    FreezeFailed,
    /// An operator wants it to go on.
    Thaw,
    /// Its init ended.
    Ended {
        /// By a reboot from inside.
        reboot: bool,
    },
    /// Everything it left has been cleaned up.
    CleanedUp,
    /// Its damaged data have been wiped.
    Wiped,
}

/// What the actor has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Bring it up; ends in [`Event::Launched`], [`Event::LaunchFailed`] or [`Event::DataDamaged`].
    Launch {
        /// In setup mode.
        setup: bool,
    },
    /// Wait for its report, but not for ever.
    AwaitBoot,
    /// Ask it to shut down, but do not wait for ever.
    AskToStop,
    /// Kill everything in it.
    Kill,
    /// Freeze it; ends in [`Event::Froze`] or [`Event::FreezeFailed`].
    Freeze,
    /// Let it go on.
    Thaw,
    /// Undo what the launch did; ends in [`Event::CleanedUp`].
    CleanUp,
}

/// Why an event means nothing in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would have to be stopped.
    AlreadyRunning,
    /// It would have to be running.
    NotRunning,
    /// It would have to be intact.
    Zombie,
    /// A late report that no longer matters.
    Stale,
}

/// The next state and what to do now.
///
/// # Errors
/// [`Refusal`] when the event means nothing here; the state stays as it is then.
pub fn step(state: State, event: Event) -> Result<(State, Vec<Effect>), Refusal> {
    use Effect as Do;
    use Event as E;
    use State as S;
    let go = |state| Ok((state, vec![]));
    let and = |state, effects: &[Do]| Ok((state, effects.to_vec()));
    match (state, event) {
        (S::Stopped, E::Start { setup }) => and(S::Starting { setup }, &[Do::Launch { setup }]),
        (S::Zombie, E::Start { .. }) => Err(Refusal::Zombie),
        (_, E::Start { .. }) => Err(Refusal::AlreadyRunning),

        (S::Starting { setup: false }, E::Launched) => and(S::Booting, &[Do::AwaitBoot]),
        (S::Starting { setup: true }, E::Launched) => go(S::Setup),
        (S::Starting { .. }, E::LaunchFailed) => go(S::Stopped),
        // A key that is lost is noticed before the launch begins.
        (S::Stopped | S::Starting { .. }, E::DataDamaged) => go(S::Zombie),

        (S::Booting, E::BootCompleted) => go(S::Running),
        (S::Booting, E::BootOverdue) => and(S::ShuttingDown, &[Do::Kill]),

        (S::Booting | S::Running | S::Setup, E::Stop) => and(S::ShuttingDown, &[Do::AskToStop]),
        // Nobody frozen can answer a polite question (LIF-03).
        (S::Freezing { .. } | S::Frozen { .. }, E::Stop) => {
            and(S::ShuttingDown, &[Do::Thaw, Do::AskToStop])
        }
        // The guest's restart is given up: cleaning up goes on and ends in STOPPED.
        (S::Rebooting, E::Stop | E::Kill) => go(S::ShuttingDown),
        (S::Zombie, E::Stop) => Err(Refusal::Zombie),
        (_, E::Stop) => Err(Refusal::NotRunning),
        (S::ShuttingDown, E::StopOverdue) => and(S::ShuttingDown, &[Do::Kill]),
        (
            S::Booting
            | S::Running
            | S::Setup
            | S::Freezing { .. }
            | S::Frozen { .. }
            | S::ShuttingDown,
            E::Kill,
        ) => and(S::ShuttingDown, &[Do::Kill]),
        (_, E::Kill) => Err(Refusal::NotRunning),

        (S::Running, E::Freeze) => and(S::Freezing { setup: false }, &[Do::Freeze]),
        (S::Setup, E::Freeze) => and(S::Freezing { setup: true }, &[Do::Freeze]),
        (S::Freezing { .. } | S::Frozen { .. }, E::Freeze) => go(state),
        (S::Zombie, E::Freeze) => Err(Refusal::Zombie),
        (_, E::Freeze) => Err(Refusal::NotRunning),
        (S::Freezing { setup }, E::Froze) => go(S::Frozen { setup }),
        (S::Freezing { setup }, E::FreezeFailed) => go(unfrozen(setup)),
        (S::Freezing { setup } | S::Frozen { setup }, E::Thaw) => and(unfrozen(setup), &[Do::Thaw]),
        (S::Booting | S::Running | S::Setup, E::Thaw) => go(state),
        (S::Zombie, E::Thaw) => Err(Refusal::Zombie),
        (_, E::Thaw) => Err(Refusal::NotRunning),

        (S::Booting | S::Running, E::Ended { reboot: true }) => and(S::Rebooting, &[Do::CleanUp]),
        (
            S::Booting
            | S::Running
            | S::Setup
            | S::Freezing { .. }
            | S::Frozen { .. }
            | S::ShuttingDown,
            E::Ended { .. },
        ) => and(S::ShuttingDown, &[Do::CleanUp]),
        (S::ShuttingDown, E::CleanedUp) => go(S::Stopped),
        (S::Rebooting, E::CleanedUp) => {
            and(S::Starting { setup: false }, &[Do::Launch { setup: false }])
        }
        (S::Zombie, E::Wiped) => go(S::Stopped),

        // BOOT_COMPLETED in any other state is the guest's mistake or a lie (runtime.md 9, number 1).
        _ => Err(Refusal::Stale),
    }
}

fn unfrozen(setup: bool) -> State {
    match setup {
        true => State::Setup,
        false => State::Running,
    }
}

impl Event {
    /// Whether a start has come to nothing; `None` of an event that says nothing about that.
    pub fn tells_of_failure(self) -> Option<bool> {
        match self {
            Self::LaunchFailed | Self::DataDamaged | Self::BootOverdue => Some(true),
            Self::Launched => Some(false),
            _ => None,
        }
    }
}

impl State {
    /// The state on the wire.
    pub fn wire(self) -> ContainerState {
        match self {
            Self::Stopped => ContainerState::Stopped,
            Self::Starting { .. } => ContainerState::Starting,
            Self::Booting => ContainerState::Booting,
            Self::Running => ContainerState::Running,
            Self::Setup => ContainerState::Setup,
            Self::Freezing { .. } => ContainerState::Freezing,
            Self::Frozen { .. } => ContainerState::Frozen,
            Self::ShuttingDown => ContainerState::Shutdown,
            Self::Rebooting => ContainerState::Rebooting,
            Self::Zombie => ContainerState::Zombie,
        }
    }

    /// Whether nothing of it runs and nothing is under way.
    pub fn is_at_rest(self) -> bool {
        matches!(self, Self::Stopped | Self::Zombie)
    }

    /// Whether a guest of it is there, be it frozen.
    pub fn has_guest(self) -> bool {
        self.takes_commands() || matches!(self, Self::Freezing { .. } | Self::Frozen { .. })
    }

    /// Whether control commands that come from inside are heard. A frozen one sends none.
    pub fn listens(self) -> bool {
        !self.is_at_rest() && !matches!(self, Self::Starting { .. } | Self::Rebooting)
    }

    /// Whether commands can be run in it (protocol.md 3.8).
    pub fn takes_commands(self) -> bool {
        matches!(self, Self::Booting | Self::Running | Self::Setup)
    }
}

/// Every state, for tests and pictures.
pub const STATES: &[State] = &[
    State::Stopped,
    State::Starting { setup: false },
    State::Starting { setup: true },
    State::Booting,
    State::Running,
    State::Setup,
    State::Freezing { setup: false },
    State::Freezing { setup: true },
    State::Frozen { setup: false },
    State::Frozen { setup: true },
    State::ShuttingDown,
    State::Rebooting,
    State::Zombie,
];

/// Every event, for tests and pictures.
pub const EVENTS: &[Event] = &[
    Event::Start { setup: false },
    Event::Start { setup: true },
    Event::Launched,
    Event::LaunchFailed,
    Event::DataDamaged,
    Event::BootCompleted,
    Event::BootOverdue,
    Event::Stop,
    Event::StopOverdue,
    Event::Kill,
    Event::Freeze,
    Event::Froze,
    Event::FreezeFailed,
    Event::Thaw,
    Event::Ended { reboot: false },
    Event::Ended { reboot: true },
    Event::CleanedUp,
    Event::Wiped,
];

/// The machine as a mermaid state diagram, for ARCHITECTURE.md. Setup variants share a node, events with
/// the same way an arrow.
pub fn mermaid() -> String {
    let mut arrows: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for state in STATES {
        for event in EVENTS {
            let Ok((next, _)) = step(*state, *event) else {
                continue;
            };
            let ends = (name(*state), name(next));
            if ends.0 != ends.1 {
                arrows.entry(ends).or_default().insert(word(*event));
            }
        }
    }
    let mut out = String::from("stateDiagram-v2\n    [*] --> STOPPED\n");
    for ((from, to), events) in arrows {
        let events = Vec::from_iter(events).join(", ");
        out.push_str(&format!("    {from} --> {to}: {events}\n"));
    }
    out
}

fn name(state: State) -> &'static str {
    match state {
        // The requirement's name; on the wire it is SHUTDOWN (design.md section 1).
        State::ShuttingDown => "SHUTTING_DOWN",
        state => state.wire().as_str_name(),
    }
}

fn word(event: Event) -> &'static str {
    match event {
        Event::Start { .. } => "start",
        Event::Launched => "launched",
        Event::LaunchFailed => "launch failed",
        Event::DataDamaged => "data damaged",
        Event::BootCompleted => "boot completed",
        Event::BootOverdue => "boot overdue",
        Event::Stop => "stop",
        Event::StopOverdue => "stop overdue",
        Event::Kill => "kill",
        Event::Freeze => "freeze",
        Event::Froze => "froze",
        Event::FreezeFailed => "freeze failed",
        Event::Thaw => "thaw",
        Event::Ended { reboot: false } => "init ended",
        Event::Ended { reboot: true } => "guest reboots",
        Event::CleanedUp => "cleaned up",
        Event::Wiped => "wiped",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn run(state: State, events: &[Event]) -> State {
        events
            .iter()
            .fold(state, |state, event| step(state, *event).unwrap().0)
    }

    #[test]
    fn the_picture_of_the_states_in_architecture_md_is_this_machine() {
        let text = include_str!("../../../ARCHITECTURE.md");
        assert!(text.contains(&mermaid()), "put this there:\n{}", mermaid());
    }

    #[test]
    fn an_ordinary_life_ends_where_it_began() {
        let life = [
            Event::Start { setup: false },
            Event::Launched,
            Event::BootCompleted,
            Event::Freeze,
            Event::Froze,
            Event::Thaw,
            Event::Stop,
            Event::Ended { reboot: false },
            Event::CleanedUp,
        ];
        assert_eq!(run(State::Stopped, &life), State::Stopped);
    }

    #[test]
    fn setup_mode_comes_back_to_setup_mode_after_a_freeze() {
        let events = [
            Event::Start { setup: true },
            Event::Launched,
            Event::Freeze,
            Event::Froze,
            Event::Thaw,
        ];
        assert_eq!(run(State::Stopped, &events), State::Setup);
    }

    #[test]
    fn a_guest_that_reboots_is_started_again_unless_it_was_asked_to_stop() {
        let reboot = Event::Ended { reboot: true };
        let (state, effects) = step(run(State::Running, &[reboot]), Event::CleanedUp).unwrap();
        assert_eq!(state, State::Starting { setup: false });
        assert_eq!(effects, [Effect::Launch { setup: false }]);
        for given_up in [[Event::Stop, reboot], [reboot, Event::Stop]] {
            let state = run(State::Running, &given_up);
            assert_eq!(step(state, Event::CleanedUp).unwrap().0, State::Stopped);
        }
    }

    #[test]
    fn only_a_booting_guest_can_say_that_it_has_booted() {
        for state in STATES {
            let taken = step(*state, Event::BootCompleted).is_ok();
            assert_eq!(taken, *state == State::Booting, "{state:?}");
        }
    }

    #[test]
    fn a_frozen_container_can_be_stopped() {
        let (state, effects) = step(State::Frozen { setup: false }, Event::Stop).unwrap();
        assert_eq!(state, State::ShuttingDown);
        assert_eq!(effects, [Effect::Thaw, Effect::AskToStop]);
    }

    #[test]
    fn second_start_and_second_stop_are_refused_with_their_reasons() {
        for state in STATES.iter().filter(|state| !state.is_at_rest()) {
            let refused = step(*state, Event::Start { setup: false });
            assert_eq!(refused, Err(Refusal::AlreadyRunning), "{state:?}");
        }
        for state in [State::Stopped, State::ShuttingDown] {
            assert_eq!(step(state, Event::Stop), Err(Refusal::NotRunning));
        }
        for event in [Event::Start { setup: false }, Event::Stop, Event::Freeze] {
            assert_eq!(step(State::Zombie, event), Err(Refusal::Zombie));
        }
    }

    /// Processes exist exactly between a launch and the end of init.
    fn has_processes(state: State) -> bool {
        state.takes_commands()
            || matches!(
                state,
                State::Freezing { .. } | State::Frozen { .. } | State::ShuttingDown
            )
    }

    proptest! {
        #[test]
        fn no_sequence_of_events_launches_twice_or_forgets_to_clean_up(
            picks in proptest::collection::vec(0..EVENTS.len(), 0..200)
        ) {
            let mut state = State::Stopped;
            let mut launching = false;
            let mut alive = false;
            let mut dirty = false;
            for pick in picks {
                let event = EVENTS[pick];
                // Reports come only when what they report about is under way.
                let possible = match event {
                    Event::Launched | Event::LaunchFailed | Event::DataDamaged => launching,
                    Event::Ended { .. } => alive,
                    Event::CleanedUp => dirty && !alive,
                    _ => true,
                };
                if !possible {
                    continue;
                }
                let Ok((next, effects)) = step(state, event) else {
                    continue;
                };
                match event {
                    Event::Launched => (launching, alive, dirty) = (false, true, true),
                    Event::LaunchFailed | Event::DataDamaged => launching = false,
                    Event::Ended { .. } => alive = false,
                    Event::CleanedUp => dirty = false,
                    _ => {}
                }
                for effect in effects {
                    if let Effect::Launch { .. } = effect {
                        prop_assert!(!launching && !alive && !dirty);
                        launching = true;
                    }
                }
                state = next;
                prop_assert!(!alive || has_processes(state), "{state:?} with processes");
                prop_assert_eq!(state.is_at_rest(), !launching && !alive && !dirty, "{:?}", state);
            }
        }

        #[test]
        fn every_state_leads_back_to_rest(index in 0..STATES.len()) {
            let mut state = STATES[index];
            let way_home = [
                Event::LaunchFailed,
                Event::Kill,
                Event::Ended { reboot: false },
                Event::CleanedUp,
            ];
            for event in way_home {
                if let Ok((next, _)) = step(state, event) {
                    state = next;
                }
            }
            prop_assert!(state.is_at_rest());
        }
    }
}
