//! What can go wrong with a call before the service itself has said anything.

use crate::blocking::JobDied;

/// A failure of the bus, common to every port. Every service error enum has a variant for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The service is not running (yet, or while it is being restarted). Trying again helps.
    #[error("{0}: the service is not running; try again")]
    Unbound(&'static str),
    /// The mailbox of the service is full. Trying again later helps.
    #[error("{0}: the service is busy; try again later")]
    Busy(&'static str),
    /// The service did not answer within the deadline of the message.
    #[error("{0}: no answer before the deadline")]
    Deadline(&'static str),
    /// The service died while it held the request; whether the request took effect is unknown.
    #[error("{0}: the service died while it worked on the request; it is being restarted")]
    ServerDeath(&'static str),
}

/// A job of a pool that died counts as a death of the service.
impl From<JobDied> for BusError {
    fn from(job: JobDied) -> Self {
        Self::ServerDeath(job.0)
    }
}
