//! The end of a command in a container (protocol.md 3.8).

use cml_bus::api::container::ContainerError;
use cml_wire::proto::{
    DaemonToController,
    daemon_to_controller::{Code, Response},
};

use super::{bare, failure};

/// `exec_status` of a command that could not be run, as shells have it.
pub const CANNOT_RUN: i32 = 126;
/// `exec_status` of a command that is not there, as shells have it.
pub const NO_PROGRAM: i32 = 127;
/// `exec_status` when nobody knows how the command ended.
pub const END_UNKNOWN: i32 = 255;

/// The end of a command, with a reason if it did not end by itself.
pub fn exec_end(status: i32, reason: Option<String>) -> DaemonToController {
    DaemonToController {
        exec_status: Some(status),
        error_text: reason,
        ..bare(Code::ExecEnd)
    }
}

/// A command that could not be run: only `EXEC_END` (protocol.md 3.8), but an unknown container counts
/// as absent.
pub fn exec_refused(error: ContainerError) -> DaemonToController {
    match error {
        ContainerError::NotFound(_) => failure(Response::CmdFailed, error),
        error @ ContainerError::NoProgram { .. } => exec_end(NO_PROGRAM, Some(error.to_string())),
        error => exec_end(CANNOT_RUN, Some(error.to_string())),
    }
}
