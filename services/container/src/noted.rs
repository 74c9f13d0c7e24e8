//! What the audit log is told of a container's life (crypto.md 7.5, runtime.md 1.6).

use std::fmt::Display;

use cml_bus::{
    api::container::ContainerError,
    audit::{Did, Note},
};

use crate::fsm::State;

/// What a change of state is called, if it is not told by whoever failed or asked.
pub fn change(before: State, next: State) -> Option<Did> {
    Some(match (before, next) {
        (State::Starting { .. }, State::Booting | State::Setup) => Did::Start,
        (_, State::ShuttingDown) => Did::ShuttingDown,
        (State::ShuttingDown, State::Stopped) => Did::Stop,
        (_, State::Rebooting) => Did::Reboot,
        (_, State::Frozen { .. }) => Did::Freeze,
        (State::Frozen { .. }, State::Running | State::Setup) => Did::Thaw,
        _ => return None,
    })
}

/// How it went. The words of a token are none of the log's business.
pub fn outcome<T>(note: Note, result: &Result<T, ContainerError>) -> Note {
    match result {
        Ok(_) => note,
        Err(ContainerError::Token(_)) => note.failed(),
        Err(error) => failed(note, error),
    }
}

/// It failed for this reason.
pub fn failed(note: Note, reason: &impl Display) -> Note {
    note.failed().meta("reason", reason)
}

/// A start that was refused or has failed.
pub fn not_started(note: impl Fn(Did) -> Note, error: &ContainerError) -> Note {
    let did = match error {
        ContainerError::AlreadyRunning(_) | ContainerError::StillStopping(_) => Did::StartRunning,
        ContainerError::NotFound(_) => Did::StartUnknown,
        _ => Did::Start,
    };
    outcome::<()>(note(did), &Err(error.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_is_told_from_its_start_to_its_end() {
        let told = |states: &[State]| {
            let steps = states.windows(2);
            steps
                .filter_map(|step| change(step[0], step[1]))
                .collect::<Vec<_>>()
        };
        let (setup, stopped) = (false, State::Stopped);
        let life = [
            stopped,
            State::Starting { setup },
            State::Booting,
            State::Running,
            State::Freezing { setup },
            State::Frozen { setup },
            State::Running,
            State::Rebooting,
            State::Starting { setup },
            State::Booting,
            State::ShuttingDown,
            stopped,
        ];
        let expected = [
            Did::Start,
            Did::Freeze,
            Did::Thaw,
            Did::Reboot,
            Did::Start,
            Did::ShuttingDown,
            Did::Stop,
        ];
        assert_eq!(told(&life), expected);
        let failed = [stopped, State::Starting { setup }, stopped];
        assert!(told(&failed).is_empty(), "the launch says why");
    }
}
