//! A container as the manager knows it.

use std::time::Duration;

use cml_bus::{actor::spawn, api::container::ContainerError, error::BusError, id::ContainerId};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    fsm::State,
    one::{Halt, Kill, OnePort, Retire, WipeAtRest},
    view::View,
};

/// How long a container that is being removed may take to end once it was killed.
const REMOVE_LIMIT: Duration = Duration::from_secs(50);

/// The way to a container's actor, and what can be seen without it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which container.
    pub id: ContainerId,
    /// Its actor.
    pub port: OnePort,
    /// How it looks now.
    pub view: watch::Receiver<View>,
}

/// Begins the same work on all of these containers, before any of it is waited for.
pub fn at_once<T: 'static>(
    entries: Vec<Entry>,
    work: impl AsyncFn(&Entry) -> T + Clone + 'static,
) -> Vec<JoinHandle<(ContainerId, T)>> {
    let begin = |entry: Entry| {
        let work = work.clone();
        spawn(async move { (entry.id, work(&entry).await) })
    };
    entries.into_iter().map(begin).collect()
}

impl Entry {
    /// What the operator calls it.
    pub fn name(&self) -> String {
        self.view.borrow().config.name.clone()
    }

    /// Waits until it is known whether the container runs.
    pub async fn known(&self) {
        let mut view = self.view.clone();
        // Fails when the actor is given up, and then there is nothing to know.
        let _ = view.wait_for(|view| view.known).await;
    }

    /// Waits until the state is one of these, or the limit has passed.
    async fn wait_for(&self, wanted: impl Fn(State) -> bool, limit: Instant) -> bool {
        let mut view = self.view.clone();
        let waited = timeout_at(limit, view.wait_for(|view| wanted(view.state))).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Waits for the end of a launch: it cannot be interrupted, but it ends soon.
    async fn launched_or_not(&self, limit: Instant) {
        self.wait_for(|state| !matches!(state, State::Starting { .. }), limit)
            .await;
    }

    /// Ends whatever runs of the container, and its actor.
    pub async fn end(&self) -> Result<(), ContainerError> {
        self.kill().await?;
        self.retire().await
    }

    /// Deletes what the container has stored, after ending whatever runs of it.
    pub async fn wipe(&self) -> Result<(), ContainerError> {
        self.kill().await?;
        self.port.wipe.call(WipeAtRest).await
    }

    /// Ends whatever runs of the container.
    async fn kill(&self) -> Result<(), ContainerError> {
        let limit = Instant::now() + REMOVE_LIMIT;
        self.launched_or_not(limit).await;
        if !self.view.borrow().state.is_at_rest() {
            match self.port.kill.call(Kill).await {
                Ok(()) | Err(ContainerError::NotRunning(_)) => {}
                Err(error) => return Err(error),
            }
            self.wait_for(State::is_at_rest, limit).await;
        }
        Ok(())
    }

    /// Ends the actor of a container that does not run.
    pub async fn retire(&self) -> Result<(), ContainerError> {
        match self.port.retire.call(Retire).await {
            // An actor that was given up is gone already.
            Err(ContainerError::Bus(BusError::Unbound(_))) => Ok(()),
            other => other,
        }
    }

    /// Asks the container to stop and waits until it has.
    pub async fn halt(&self, limit: Instant) -> bool {
        self.launched_or_not(limit).await;
        // A container that is stopped or stopping refuses, which is fine.
        let _ = self.port.halt.call(Halt).await;
        self.wait_for(State::is_at_rest, limit).await
    }
}
