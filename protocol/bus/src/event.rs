//! Events: what services tell everyone, without waiting for anyone.
//!
//! The ring is bounded; a subscriber that does not keep up loses the oldest events and is told how
//! many it lost, it never slows the sender down.

use cml_wire::proto::ContainerState;
use tokio::sync::broadcast;

use crate::{
    audit::{Note, Trail},
    id::ContainerId,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container entered this state.
    StateChanged {
        /// Which container.
        id: ContainerId,
        /// Where it is now.
        state: ContainerState,
    },
    /// `core0` ran and does not run any more, and nobody told the daemon to end: so ends the device.
    Core0Ended,
    /// A service died and was started again.
    ServiceRestarted {
        /// The name of the service.
        service: &'static str,
    },
    /// A container was created or removed.
    ContainerListChanged,
    /// A guest OS was installed or removed, or is trusted differently from now on.
    GuestOsListChanged,
    /// Another CA is trusted, one is not any more, or the dates of certificates count from now on.
    RootsChanged,
}

/// Where events are published and subscribed to. Clones share the ring.
#[derive(Debug, Clone)]
pub struct Events {
    ring: broadcast::Sender<Event>,
    trail: Trail,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(Trail::default())
    }
}

impl Events {
    /// An empty ring, and the trail that security events go to.
    pub fn new(trail: Trail) -> Self {
        // Room for a burst of 256 events: a start makes three, and 64 parallel starts must not lose one.
        let ring = broadcast::channel(256).0;
        Self { ring, trail }
    }

    /// Tells all subscribers. Nobody listening is fine.
    pub fn publish(&self, event: Event) {
        let _ = self.ring.send(event);
    }

    /// Everything that is published from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.ring.subscribe()
    }

    /// Tells the audit log of a security event. Never waits, and never loses one silently.
    pub fn audit(&self, note: Note) {
        self.trail.add(note);
    }
}
