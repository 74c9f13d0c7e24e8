//! Replies to commands about the audit log.

use cml_bus::api::audit::{AuditError, Verdict};
use cml_wire::proto::{
    AuditEntry, DaemonToController,
    daemon_to_controller::{Code, Response},
};
use prost::Message;

use super::{bare, failure};

/// What the records of one reply may take: a frame has less than 64 MiB (protocol.md 1.3).
const FRAME_ROOM: usize = 48 << 20;
/// Number and length of a field, at most.
const FIELD_OVERHEAD: usize = 8;

/// `AUDIT_LIST`
pub fn audit_list(result: Result<Vec<AuditEntry>, AuditError>) -> DaemonToController {
    match result {
        Ok(mut audit_entries) => {
            // The oldest ones go where not all of them fit into a frame.
            let mut room = FRAME_ROOM;
            let fits = audit_entries.iter().rev().take_while(|entry| {
                let size = entry.encoded_len() + FIELD_OVERHEAD;
                room = room.saturating_sub(size);
                room > 0
            });
            let left_out = audit_entries.len() - fits.count();
            audit_entries.drain(..left_out);
            DaemonToController {
                audit_entries,
                ..bare(Code::AuditRecords)
            }
        }
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `AUDIT_VERIFY`: what is broken is said in words as well.
pub fn audit_verdict(result: Result<Verdict, AuditError>) -> DaemonToController {
    match result {
        Ok(verdict) => {
            let logs = verdict.sinks.iter().filter_map(|sink| {
                let broken = sink.broken.as_ref()?;
                Some(format!("the log of {}: {broken}", sink.sink))
            });
            let broken: Vec<_> = verdict.broken.clone().into_iter().chain(logs).collect();
            DaemonToController {
                audit_broken: (!broken.is_empty()).then(|| broken.join("; ")),
                audit_sinks: verdict.sinks,
                audit_enabled: Some(verdict.enabled),
                ..bare(Code::AuditVerdict)
            }
        }
        Err(error) => failure(Response::CmdFailed, error),
    }
}
