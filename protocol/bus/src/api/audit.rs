//! The audit service: keeps what other services note (`crate::audit`), proves that nothing of it was changed, and
//! hands it out.

use cml_wire::proto::{AuditEntry, AuditRecord, AuditSink};
use tokio::sync::watch;

use crate::{error::BusError, id::ContainerId};

/// How a container learns of new records. The channel holds the bytes that are left for its log; it changes with every
/// new record, and is closed when the service has died.
#[derive(Debug)]
pub struct Follow {
    /// Whose records.
    pub container: ContainerId,
}

/// The oldest record of a container, after deleting the one that its guest has acknowledged (protocol.md 2.7).
#[derive(Debug)]
pub struct Next {
    /// Whose records: a guest never gets or deletes those of another one.
    pub container: ContainerId,
    /// Delete the oldest record if it is this one.
    pub acknowledged: Option<PieceId>,
}

/// The SHA-256 of a record as it lies on the disk: names it also after a restart of the service.
pub type PieceId = [u8; 32];

/// A record that a guest has not acknowledged yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What the guest gets.
    pub record: AuditRecord,
    /// For [`Next`].
    pub id: PieceId,
}

/// The newest records.
#[derive(Debug)]
pub struct List {
    /// Whose; of all logs if absent.
    pub container: Option<ContainerId>,
    /// At most this many of each log.
    pub limit: usize,
}

/// Checks all logs.
#[derive(Debug)]
pub struct Verify;

/// The answer to [`Verify`].
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Every log.
    pub sinks: Vec<AuditSink>,
    /// What is wrong with the logs as a whole.
    pub broken: Option<String>,
    /// New records are kept (`audit_size` in `device.conf`).
    pub enabled: bool,
}

/// Has everything that was noted so far on the disk.
#[derive(Debug)]
pub struct Flush;

/// Why the audit service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// No log is kept.
    #[error("auditing is off; `audit_size` in device.conf switches it on")]
    Off,
    /// A log cannot be read or written.
    #[error("`{path}`: {reason}")]
    Store {
        /// The file or directory.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// The bus could not deliver.
    #[error(transparent)]
    Bus(#[from] BusError),
}

crate::request!(Follow => watch::Receiver<u64>, AuditError, "audit.follow", 10 s);
crate::request!(Next => Option<Stored>, AuditError, "audit.next", 20 s);
// Every byte of every log is read.
crate::request!(List => Vec<AuditEntry>, AuditError, "audit.list", 120 s);
crate::request!(Verify => Verdict, AuditError, "audit.verify", 600 s);
crate::request!(Flush => (), AuditError, "audit.flush", 20 s);

crate::service_port! {
    /// What the holder may ask of the audit service.
    AuditPort {
        /// Learn of new records.
        follow: Follow,
        /// Deliver.
        next: Next,
        /// Look at records.
        list: List,
        /// Check the logs.
        verify: Verify,
        /// Wait for the disk.
        flush: Flush,
    }
}
