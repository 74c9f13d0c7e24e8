//! Replies to commands about certificates that are trusted.

use cml_bus::api::token::TokenError;
use cml_wire::proto::{
    CaCertificate, DaemonToController,
    daemon_to_controller::{Code, Response},
};

use super::{bare, failure, response};

/// `REGISTER_NEWCA`, `REGISTER_LOCALCA`
pub fn registered_ca(result: Result<(), TokenError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::GuestosMgrRegisterCaOk),
        Err(error) => failure(Response::GuestosMgrRegisterCaError, error),
    }
}

/// `CA_LIST`
pub fn ca_list(result: Result<Vec<CaCertificate>, TokenError>) -> DaemonToController {
    match result {
        Ok(ca_certificates) => DaemonToController {
            ca_certificates,
            ..bare(Code::CaList)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}
