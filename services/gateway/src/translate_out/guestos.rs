//! Replies to commands about guest OSes (protocol.md 3.3, 6.5).

use cml_bus::api::guestos::{GuestOsError, Installed};
use cml_wire::proto::{
    DaemonToController, Progress,
    daemon_to_controller::{Code, Response},
};

use super::{bare, failure, response};

/// `LIST_GUESTOS_CONFIGS`
pub fn guestos_list(result: Result<Vec<Installed>, GuestOsError>) -> DaemonToController {
    match result {
        Ok(installed) => DaemonToController {
            guestos_configs: installed
                .into_iter()
                .map(|one| one.config.as_ref().clone())
                .collect(),
            ..bare(Code::GuestosConfigsList)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `PUSH_GUESTOS_CONFIG`: how it ended, or that it did not begin.
pub fn installed(result: Result<(), GuestOsError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::GuestosMgrInstallCompleted),
        Err(error) => failure(Response::GuestosMgrInstallFailed, error),
    }
}

/// How far an installation is.
pub fn installing(progress: Progress) -> DaemonToController {
    DaemonToController {
        progress: Some(progress),
        ..response(Response::GuestosMgrInstallWaiting)
    }
}
