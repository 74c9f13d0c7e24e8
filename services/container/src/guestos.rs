//! What the containers and the guest OS service have to tell each other: who uses what, and what became of it.

use std::sync::Arc;

use cml_bus::{
    api::{
        container::ContainerError,
        guestos::{Purge, Remove},
    },
    error::BusError,
    event::Event,
};
use cml_wire::{
    proto::{ContainerConfig, ContainerState},
    text,
};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{entry::Entry, env::Env, one::Reassess, record::Found};

/// What events mean for guest OSes; the later one includes the earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Followup {
    /// Versions may be obsolete.
    Purge,
    /// Containers may have another guest OS now.
    Reassess,
}

impl Followup {
    fn of(event: &Event) -> Option<Self> {
        match event {
            Event::GuestOsListChanged => Some(Self::Reassess),
            Event::ContainerListChanged
            | Event::StateChanged {
                state: ContainerState::Stopped,
                ..
            } => Some(Self::Purge),
            _ => None,
        }
    }

    /// Waits for the next event that means something, and takes in those that are there already: many
    /// containers may stop at the same time. `None` when there will be no more.
    pub(crate) async fn next(events: &mut broadcast::Receiver<Event>) -> Option<Self> {
        let mut found = None;
        loop {
            found = found.max(match events.recv().await {
                Ok(event) => Self::of(&event),
                Err(RecvError::Lagged(_)) => Some(Self::Reassess),
                Err(RecvError::Closed) => return None,
            });
            if found.is_some() && events.is_empty() {
                return found;
            }
        }
    }
}

impl Env {
    /// The configurations of all containers, also of those that cannot be used at the moment, those that containers
    /// run with, and the one that `core0` goes back to when an update of it comes to nothing. One that nobody can
    /// understand has no guest OS; one that cannot be read may have any.
    async fn configs_that_count(self: &Arc<Self>) -> Result<Vec<ContainerConfig>, ContainerError> {
        let env = self.clone();
        let read = move || -> Result<Vec<_>, ContainerError> {
            let mut all = Vec::new();
            for id in env.store.list()? {
                all.extend(text::parse(&env.store.read(id)?.config).ok());
            }
            for id in env.records.list() {
                if let Found::Record(record) = env.records.read(id) {
                    let running = record.running.as_ref();
                    all.extend(running.and_then(|one| text::parse(one.config.as_bytes()).ok()));
                }
            }
            all.extend(env.config_of_way_back());
            Ok(all)
        };
        self.storage.run(read).await.map_err(BusError::from)?
    }

    /// Deletes a guest OS. `running` are configurations that are in effect; what is stored counts as well.
    pub(crate) async fn remove_guestos(
        self: &Arc<Self>,
        name: String,
        running: Vec<Arc<ContainerConfig>>,
    ) -> Result<(), ContainerError> {
        let stored = self.configs_that_count().await?;
        let all = running.iter().map(AsRef::as_ref).chain(&stored);
        let mut users: Vec<_> = all
            .filter(|config| config.guest_os == name)
            .map(|config| format!("`{}`", config.name))
            .collect();
        users.sort();
        users.dedup();
        if !users.is_empty() {
            return Err(ContainerError::GuestOsInUse {
                name,
                users: users.join(", "),
            });
        }
        Ok(self.guestos.remove.call(Remove { name }).await?)
    }

    /// Has versions deleted that no container needs.
    pub(crate) async fn purge_guestos(self: &Arc<Self>) {
        let purge = async {
            let pinned = self.configs_that_count().await?.into_iter().map(|config| {
                let version = config.guestos_version();
                (config.guest_os, version)
            });
            let needed = pinned.collect();
            Ok::<_, ContainerError>(self.guestos.purge.call(Purge { needed }).await?)
        };
        if let Err(error) = purge.await {
            tracing::warn!(%error, "obsolete guest OSes stay for now");
        }
    }

    /// Tells the actors of containers what their guest OS makes of them now.
    pub(crate) async fn reassess(self: &Arc<Self>, entries: Vec<Entry>) {
        for entry in entries {
            let config = entry.view.borrow().config.clone();
            let guest = self.guest(entry.id, &config).await;
            // One whose actor is gone has nothing to be told.
            let _ = entry.port.reassess.call(Reassess { config, guest }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use cml_bus::{actor::System, event::Events, id::ContainerId};

    use super::*;

    #[test]
    fn events_that_came_together_are_followed_once() {
        System::new().block_on(async { together().await });
    }

    async fn together() {
        let events = Events::default();
        let mut received = events.subscribe();
        let stopped = |state| Event::StateChanged {
            id: ContainerId::CORE0,
            state,
        };
        events.publish(stopped(ContainerState::Running));
        events.publish(stopped(ContainerState::Stopped));
        events.publish(Event::GuestOsListChanged);
        events.publish(Event::ContainerListChanged);
        let found = Followup::next(&mut received).await;
        assert_eq!(found, Some(Followup::Reassess));
        events.publish(stopped(ContainerState::Stopped));
        let found = Followup::next(&mut received).await;
        assert_eq!(found, Some(Followup::Purge));
        drop(events);
        assert_eq!(Followup::next(&mut received).await, None);
    }
}
