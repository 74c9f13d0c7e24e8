//! Replies to commands about containers (protocol.md 3.3, 3.5 to 3.7).

use cml_bus::{
    api::{
        container::{ContainerError, PinNeeds, Started, Stored},
        guestos::GuestOsError,
        network::{Interface, NetworkError},
        token::TokenError,
    },
    id::ContainerId,
};
use cml_wire::proto::{
    ContainerConfig, ContainerStats, ContainerStatus, DaemonToController,
    daemon_to_controller::{Code, Response},
};

use super::{bare, failure, response};

/// Commands that answer `CMD_OK` or `CMD_FAILED`.
pub fn plain(result: Result<(), ContainerError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::CmdOk),
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// As [`plain`], of a command that may have more to say about what it did.
pub fn done(result: Result<Option<String>, ContainerError>) -> DaemonToController {
    match result {
        Ok(done_text) => DaemonToController {
            done_text,
            ..response(Response::CmdOk)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `CONTAINER_START` (protocol.md 3.5).
pub fn start(result: Result<Started, ContainerError>) -> DaemonToController {
    match result {
        Ok(Started { warnings }) => DaemonToController {
            warnings,
            ..response(Response::ContainerStartOk)
        },
        Err(error) => failure(start_code(&error), error),
    }
}

/// `CONTAINER_STOP` (protocol.md 3.6).
pub fn stop(result: Result<(), ContainerError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::ContainerStopOk),
        Err(error) => failure(stop_code(&error), error),
    }
}

/// A call that the bus could not deliver answers `CMD_FAILED` whatever the command: today that is a
/// broken connection to the token daemon and gets no reply at all (protocol.md 3.5, ACT-02).
fn start_code(error: &ContainerError) -> Response {
    match error {
        ContainerError::NotFound(_)
        | ContainerError::AlreadyRunning(_)
        | ContainerError::StillStopping(_) => Response::ContainerStartEexist,
        ContainerError::Protected => Response::CmdUnsupported,
        ContainerError::Zombie(_)
        | ContainerError::Damaged { .. }
        | ContainerError::Unusable { .. } => Response::ContainerCtrlEinternal,
        ContainerError::Token(token) => match token {
            TokenError::WrongPin | TokenError::WrongPinCounted { .. } => {
                Response::ContainerStartPasswdWrong
            }
            TokenError::LockedTillReboot => Response::ContainerLockedTillReboot,
            TokenError::Uninitialised => Response::ContainerStartTokenUninit,
            TokenError::Unpaired => Response::ContainerStartTokenUnpaired,
            TokenError::Unusable { .. } => Response::ContainerStartUnlockFailed,
            TokenError::KeyLost { .. } => Response::ContainerCtrlEinternal,
            TokenError::Keypad(_) => Response::ContainerUsbPinEntryFail,
            TokenError::BadNewPin(_)
            | TokenError::BadCertificate(_)
            | TokenError::BadSignature
            | TokenError::BadCa(_)
            | TokenError::NoSuchCa(_)
            | TokenError::BadRoot { .. }
            | TokenError::Identity { .. }
            | TokenError::BadDeviceCert(_) => Response::ContainerStartEinternal,
            TokenError::Bus(_) => Response::CmdFailed,
        },
        ContainerError::GuestOs(guestos) => match guestos {
            GuestOsError::Bus(_) | GuestOsError::Token(TokenError::Bus(_)) => Response::CmdFailed,
            GuestOsError::NotInstalled { .. }
            | GuestOsError::BadImage { .. }
            | GuestOsError::Mount { .. }
            | GuestOsError::BadConfig(_)
            | GuestOsError::Flash { .. }
            | GuestOsError::Downgrade { .. }
            | GuestOsError::Installing(_)
            | GuestOsError::Fetch { .. }
            | GuestOsError::NoRoom { .. }
            | GuestOsError::Store { .. }
            | GuestOsError::Token(_) => Response::ContainerStartEinternal,
        },
        ContainerError::Bus(_) | ContainerError::Network(NetworkError::Bus(_)) => {
            Response::CmdFailed
        }
        ContainerError::NotRunning(_)
        | ContainerError::Frozen(_)
        | ContainerError::Signed(_)
        | ContainerError::Network(_)
        | ContainerError::BadConfig(_)
        | ContainerError::WouldWipe(_)
        | ContainerError::NoConfig(_)
        | ContainerError::GuestOsInUse { .. }
        | ContainerError::Launch { .. }
        | ContainerError::Exec { .. }
        | ContainerError::NoProgram { .. }
        | ContainerError::Freeze { .. }
        | ContainerError::Device { .. }
        | ContainerError::Store { .. } => Response::ContainerStartEinternal,
    }
}

/// An absent container gets no reply today, hence `CMD_FAILED`. There are no stop variants of the
/// token states (protocol.md 3.6).
fn stop_code(error: &ContainerError) -> Response {
    match error {
        ContainerError::NotFound(_) => Response::CmdFailed,
        ContainerError::NotRunning(_) => Response::ContainerStopFailedNotRunning,
        ContainerError::Protected => Response::CmdUnsupported,
        ContainerError::Token(token) => match token {
            TokenError::WrongPin | TokenError::WrongPinCounted { .. } => {
                Response::ContainerStopPasswdWrong
            }
            TokenError::LockedTillReboot => Response::ContainerLockedTillReboot,
            TokenError::Uninitialised => Response::ContainerStartTokenUninit,
            TokenError::Unpaired => Response::ContainerStartTokenUnpaired,
            TokenError::Unusable { .. } => Response::ContainerStopUnlockFailed,
            TokenError::Keypad(_) => Response::ContainerUsbPinEntryFail,
            TokenError::BadNewPin(_)
            | TokenError::KeyLost { .. }
            | TokenError::BadCertificate(_)
            | TokenError::BadSignature
            | TokenError::BadCa(_)
            | TokenError::NoSuchCa(_)
            | TokenError::BadRoot { .. }
            | TokenError::Identity { .. }
            | TokenError::BadDeviceCert(_) => Response::ContainerCtrlEinternal,
            TokenError::Bus(_) => Response::CmdFailed,
        },
        ContainerError::Bus(_)
        | ContainerError::Network(NetworkError::Bus(_))
        | ContainerError::GuestOs(GuestOsError::Bus(_) | GuestOsError::Token(TokenError::Bus(_))) => {
            Response::CmdFailed
        }
        ContainerError::Zombie(_)
        | ContainerError::Damaged { .. }
        | ContainerError::AlreadyRunning(_)
        | ContainerError::StillStopping(_)
        | ContainerError::Frozen(_)
        | ContainerError::Signed(_)
        | ContainerError::Network(_)
        | ContainerError::BadConfig(_)
        | ContainerError::WouldWipe(_)
        | ContainerError::Unusable { .. }
        | ContainerError::NoConfig(_)
        | ContainerError::GuestOsInUse { .. }
        | ContainerError::GuestOs(_)
        | ContainerError::Launch { .. }
        | ContainerError::Exec { .. }
        | ContainerError::NoProgram { .. }
        | ContainerError::Freeze { .. }
        | ContainerError::Device { .. }
        | ContainerError::Store { .. } => Response::ContainerCtrlEinternal,
    }
}

/// `LIST_CONTAINERS`
pub fn container_list(result: Result<Vec<ContainerStatus>, ContainerError>) -> DaemonToController {
    match result {
        Ok(all) => DaemonToController {
            container_uuids: all.into_iter().map(|status| status.uuid).collect(),
            ..bare(Code::ContainersList)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `GET_CONTAINER_STATUS`
pub fn status(result: Result<Vec<ContainerStatus>, ContainerError>) -> DaemonToController {
    match result {
        Ok(container_status) => DaemonToController {
            container_status,
            ..bare(Code::ContainerStatus)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `GET_CONTAINER_CONFIG`: two parallel lists. What cannot be read is not in them (protocol.md 3.4).
pub fn configs(
    result: Result<Vec<(ContainerId, ContainerConfig)>, ContainerError>,
) -> DaemonToController {
    match result {
        Ok(all) => {
            let (ids, container_configs): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            DaemonToController {
                container_uuids: ids.iter().map(ToString::to_string).collect(),
                container_configs,
                ..bare(Code::ContainerConfig)
            }
        }
        Err(error @ (ContainerError::Unusable { .. } | ContainerError::NoConfig(_))) => {
            empty_config(error.to_string())
        }
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `CREATE_CONTAINER` and `CONTAINER_UPDATE_CONFIG`: a failure is the same code without a configuration.
pub fn created(result: Result<Stored, ContainerError>) -> DaemonToController {
    match result {
        Ok(stored) => DaemonToController {
            warnings: stored.warnings,
            ..configs(Ok(vec![(stored.id, stored.config)]))
        },
        Err(error) => DaemonToController {
            would_wipe: matches!(error, ContainerError::WouldWipe(_)).then_some(true),
            ..empty_config(error.to_string())
        },
    }
}

pub(super) fn empty_config(reason: String) -> DaemonToController {
    DaemonToController {
        error_text: Some(reason),
        ..bare(Code::ContainerConfig)
    }
}

/// `CONTAINER_STATS`
pub fn container_stats(result: Result<Vec<ContainerStats>, ContainerError>) -> DaemonToController {
    match result {
        Ok(container_stats) => DaemonToController {
            container_stats,
            ..bare(Code::ContainerStats)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `CONTAINER_LIST_IFACES`: a failure is the same code without interfaces (protocol.md 3.3).
pub fn interfaces(result: Result<Vec<Interface>, ContainerError>) -> DaemonToController {
    let (all, error_text) = match result {
        Ok(all) => (all, None),
        Err(error @ ContainerError::NotFound(_)) => return failure(Response::CmdFailed, error),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let (container_ifaces, iface_details) =
        all.into_iter().map(|one| (one.text, one.detail)).unzip();
    DaemonToController {
        container_ifaces,
        iface_details,
        error_text,
        ..bare(Code::ContainerIfaces)
    }
}

/// `CONTAINER_CMLD_HANDLES_PIN`
pub fn pin_entry(result: Result<PinNeeds, ContainerError>) -> DaemonToController {
    match result {
        Ok(needs) => DaemonToController {
            container_cmld_handles_pin: Some(needs.usb_reader),
            pin_required: Some(needs.required),
            ..bare(Code::ContainerCmldHandlesPin)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `CHANGE_DEVICE_PIN` and `CONTAINER_CHANGE_TOKEN_PIN`: every answer of the token but success is one code
/// (protocol.md 3.7).
pub fn changed_pin(result: Result<(), ContainerError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::ContainerChangePinSuccessful),
        Err(error) => failure(
            match error {
                ContainerError::Protected => Response::CmdUnsupported,
                ContainerError::NotFound(_)
                | ContainerError::Bus(_)
                | ContainerError::Token(TokenError::Bus(_)) => Response::CmdFailed,
                _ => Response::ContainerChangePinFailed,
            },
            error,
        ),
    }
}
