//! Results of the services become `DaemonToController` messages (protocol.md 3.3, 3.5, 3.6).
//!
//! Pure functions. Every failure carries the error's own words in `error_text`, so that an operator
//! reads more than the code that old clients print.

use cml_bus::{
    api::{
        audit::{AuditError, Verdict},
        container::{ContainerError, PinNeeds, Started},
        guestos::{GuestOsError, Installed},
        network::{Interface, NetworkError},
        provisioning::{LogPart, ProvisioningError, Rebooted},
        token::TokenError,
    },
    id::ContainerId,
};
use cml_wire::proto::{
    AuditEntry, CaCertificate, ContainerConfig, ContainerStats, ContainerStatus,
    DaemonToController, DeviceStats, LogMessage, Progress,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

use prost::Message;

use crate::translate_in::Refusal;

/// `exec_status` of a command that could not be run, as shells have it.
pub const CANNOT_RUN: i32 = 126;
/// `exec_status` of a command that is not there, as shells have it.
pub const NO_PROGRAM: i32 = 127;
/// `exec_status` when nobody knows how the command ended.
pub const END_UNKNOWN: i32 = 255;

/// What the records of one reply may take: a frame has less than 64 MiB (protocol.md 1.3).
const FRAME_ROOM: usize = 48 << 20;
/// Number and length of a field, at most.
const FIELD_OVERHEAD: usize = 8;

/// A reply that is nothing but its code.
pub fn bare(code: Code) -> DaemonToController {
    DaemonToController {
        code: code.into(),
        ..Default::default()
    }
}

/// `RESPONSE` with this code.
pub fn response(response: Response) -> DaemonToController {
    DaemonToController {
        response: Some(response.into()),
        ..bare(Code::Response)
    }
}

/// `RESPONSE` with this code and the reason in words.
pub fn failure(code: Response, reason: impl ToString) -> DaemonToController {
    DaemonToController {
        error_text: Some(reason.to_string()),
        ..response(code)
    }
}

/// The end of a command, with a reason if it did not end by itself.
pub fn exec_end(status: i32, reason: Option<String>) -> DaemonToController {
    DaemonToController {
        exec_status: Some(status),
        error_text: reason,
        ..bare(Code::ExecEnd)
    }
}

/// The reply to a message that is not carried out; `None` where silence is the rule.
pub fn refusal(refusal: Refusal) -> Option<DaemonToController> {
    let text = refusal.to_string();
    Some(match refusal {
        Refusal::NoContainer(Command::ContainerExecInput) => return None,
        Refusal::Forbidden(_) | Refusal::NotServed(_) => failure(Response::CmdUnsupported, text),
        Refusal::NoContainer(Command::ContainerStart) => {
            failure(Response::ContainerStartEexist, text)
        }
        Refusal::Missing(Command::CreateContainer | Command::ContainerUpdateConfig, _)
        | Refusal::NoContainer(Command::ContainerUpdateConfig) => empty_config(text),
        Refusal::Missing(Command::ContainerExecCmd, "exec_args") => {
            exec_end(CANNOT_RUN, Some(text))
        }
        Refusal::Missing(Command::PushDeviceCert, _) => failure(Response::DeviceCertError, text),
        Refusal::Missing(Command::PushGuestosConfig, _) => {
            failure(Response::GuestosMgrInstallFailed, text)
        }
        Refusal::Missing(Command::RegisterNewca | Command::RegisterLocalca, _) => {
            failure(Response::GuestosMgrRegisterCaError, text)
        }
        Refusal::NoContainer(_)
        | Refusal::Missing(..)
        | Refusal::OutOfRange(..)
        | Refusal::TooLargeToWait(_) => failure(Response::CmdFailed, text),
    })
}

/// Commands that answer `CMD_OK` or `CMD_FAILED`.
pub fn plain(result: Result<(), ContainerError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::CmdOk),
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
        ContainerError::NotFound(_) | ContainerError::AlreadyRunning(_) => {
            Response::ContainerStartEexist
        }
        ContainerError::Protected => Response::CmdUnsupported,
        ContainerError::Zombie(_) | ContainerError::Damaged { .. } => {
            Response::ContainerCtrlEinternal
        }
        ContainerError::Token(token) => match token {
            TokenError::WrongPin => Response::ContainerStartPasswdWrong,
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
        | ContainerError::Signed(_)
        | ContainerError::Network(_)
        | ContainerError::BadConfig(_)
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
            TokenError::WrongPin => Response::ContainerStopPasswdWrong,
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
        | ContainerError::Signed(_)
        | ContainerError::Network(_)
        | ContainerError::BadConfig(_)
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

/// A command that could not be run: only `EXEC_END` (protocol.md 3.8), but an unknown container counts
/// as absent.
pub fn exec_refused(error: ContainerError) -> DaemonToController {
    match error {
        ContainerError::NotFound(_) => failure(Response::CmdFailed, error),
        error @ ContainerError::NoProgram { .. } => exec_end(NO_PROGRAM, Some(error.to_string())),
        error => exec_end(CANNOT_RUN, Some(error.to_string())),
    }
}

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

/// `GET_CONTAINER_CONFIG`: two parallel lists.
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
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `CREATE_CONTAINER` and `CONTAINER_UPDATE_CONFIG`: a failure is the same code without a configuration.
pub fn created(
    result: Result<(ContainerId, ContainerConfig), ContainerError>,
) -> DaemonToController {
    match result {
        Ok(one) => configs(Ok(vec![one])),
        Err(error) => empty_config(error.to_string()),
    }
}

fn empty_config(reason: String) -> DaemonToController {
    DaemonToController {
        error_text: Some(reason),
        ..bare(Code::ContainerConfig)
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

/// Commands about the device that answer `CMD_OK` or `CMD_FAILED`.
pub fn device(result: Result<(), ProvisioningError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::CmdOk),
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `PULL_DEVICE_CSR`: without a request it is the same code without bytes (protocol.md 7.2).
pub fn csr(result: Result<Vec<u8>, ProvisioningError>) -> DaemonToController {
    let (device_csr, error_text) = match result {
        Ok(csr) => (Some(csr), None),
        Err(error) => (None, Some(error.to_string())),
    };
    DaemonToController {
        device_csr,
        error_text,
        ..bare(Code::DeviceCsr)
    }
}

/// `PUSH_DEVICE_CERT`
pub fn pushed_cert(result: Result<(), ProvisioningError>) -> DaemonToController {
    match result {
        Ok(()) => response(Response::DeviceCertOk),
        Err(error @ ProvisioningError::Provisioned) => {
            failure(Response::DeviceProvisioningError, error)
        }
        Err(error) => failure(Response::DeviceCertError, error),
    }
}

/// `REBOOT_DEVICE`: what was done stands in `done_text`.
pub fn rebooted(result: Result<Rebooted, ProvisioningError>) -> DaemonToController {
    match result {
        Ok(Rebooted { stopped, machine }) => {
            let containers = match stopped {
                0 => "no container was running".to_owned(),
                1 => "1 container was stopped".to_owned(),
                many => format!("{many} containers were stopped"),
            };
            let then = match machine {
                true => "the device reboots",
                false => "the host is not rebooted, as the daemon runs in hosted mode",
            };
            DaemonToController {
                done_text: Some(format!("{containers}; {then}")),
                ..response(Response::CmdOk)
            }
        }
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// `GET_DEVICE_STATS`
pub fn stats(result: Result<DeviceStats, ProvisioningError>) -> DaemonToController {
    match result {
        Ok(stats) => DaemonToController {
            device_stats: Some(stats),
            ..bare(Code::DeviceStats)
        },
        Err(error) => failure(Response::CmdFailed, error),
    }
}

/// A piece of a log file (protocol.md 3.4).
pub fn log_part(part: LogPart, device: Option<String>) -> DaemonToController {
    DaemonToController {
        log_message: Some(LogMessage {
            name: part.name,
            msg: part.data,
        }),
        device_uuid: device,
        ..bare(match part.last {
            true => Code::LogMessageFinal,
            false => Code::LogMessageFragment,
        })
    }
}

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

/// `GET_PROVISIONED`
pub fn provisioned(provisioned: bool) -> DaemonToController {
    DaemonToController {
        device_is_provisioned: Some(provisioned),
        ..bare(Code::DeviceProvisionedState)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_bus::{api::guestos::Version, error::BusError};

    use super::*;

    fn text() -> String {
        "x".into()
    }

    fn tokens() -> Vec<TokenError> {
        vec![
            TokenError::WrongPin,
            TokenError::LockedTillReboot,
            TokenError::Uninitialised,
            TokenError::Unpaired,
            TokenError::BadNewPin("x"),
            TokenError::Keypad(text()),
            TokenError::KeyLost {
                path: text(),
                reason: text(),
            },
            TokenError::Unusable {
                path: text(),
                reason: text(),
            },
            TokenError::BadCertificate(text()),
            TokenError::BadSignature,
            TokenError::BadCa(text()),
            TokenError::NoSuchCa(text()),
            TokenError::BadRoot {
                path: text(),
                reason: text(),
            },
            TokenError::Identity {
                path: text(),
                reason: text(),
            },
            TokenError::BadDeviceCert(text()),
            TokenError::Bus(BusError::Busy("m")),
        ]
    }

    /// One of every error, in the order of the contract.
    fn errors() -> Vec<ContainerError> {
        let id = ContainerId::CORE0;
        let mut all = vec![
            ContainerError::NotFound(id),
            ContainerError::AlreadyRunning(id),
            ContainerError::NotRunning(id),
            ContainerError::Zombie(id),
            ContainerError::Damaged { id, reason: text() },
            ContainerError::Protected,
        ];
        all.extend(tokens().into_iter().map(ContainerError::Token));
        all.push(ContainerError::BadConfig(text()));
        all.push(ContainerError::GuestOsInUse {
            name: text(),
            users: text(),
        });
        let mut guestos = vec![
            GuestOsError::BadConfig(text()),
            GuestOsError::Flash {
                target: text(),
                reason: text(),
            },
            GuestOsError::Downgrade {
                name: text(),
                version: 1,
                newest: 2,
            },
            GuestOsError::Installing(text()),
            GuestOsError::Fetch {
                url: text(),
                reason: text(),
            },
            GuestOsError::NoRoom { needed: 2, free: 1 },
            GuestOsError::NotInstalled {
                name: text(),
                version: Version::AtLeast(0),
            },
            GuestOsError::BadImage {
                path: text(),
                reason: text(),
            },
            GuestOsError::Mount {
                path: text(),
                reason: text(),
            },
            GuestOsError::Store {
                path: text(),
                reason: text(),
            },
        ];
        guestos.extend(
            [
                TokenError::BadSignature,
                TokenError::Bus(BusError::Busy("m")),
            ]
            .map(GuestOsError::Token),
        );
        guestos.push(GuestOsError::Bus(BusError::Deadline("m")));
        all.extend(guestos.into_iter().map(ContainerError::GuestOs));
        all.extend([
            ContainerError::Launch { id, reason: text() },
            ContainerError::Exec { id, reason: text() },
            ContainerError::NoProgram { id, name: text() },
            ContainerError::Freeze { id, reason: text() },
            ContainerError::Device { id, reason: text() },
            ContainerError::Store {
                path: text(),
                reason: text(),
            },
            ContainerError::Bus(BusError::ServerDeath("m")),
        ]);
        all
    }

    fn codes(translate: fn(Result<(), ContainerError>) -> DaemonToController) -> Vec<&'static str> {
        errors()
            .into_iter()
            .map(|error| {
                let reason = error.to_string();
                let reply = translate(Err(error));
                assert_eq!(reply.code(), Code::Response);
                assert_eq!(reply.error_text(), reason);
                reply.response().as_str_name()
            })
            .collect()
    }

    #[test]
    fn every_start_error_has_its_code() {
        let internal = "CONTAINER_START_EINTERNAL";
        assert_eq!(
            codes(|result| start(result.map(|()| Started::default()))),
            [
                "CONTAINER_START_EEXIST",
                "CONTAINER_START_EEXIST",
                internal,
                "CONTAINER_CTRL_EINTERNAL",
                "CONTAINER_CTRL_EINTERNAL",
                "CMD_UNSUPPORTED",
                "CONTAINER_START_PASSWD_WRONG",
                "CONTAINER_LOCKED_TILL_REBOOT",
                "CONTAINER_START_TOKEN_UNINIT",
                "CONTAINER_START_TOKEN_UNPAIRED",
                internal,
                "CONTAINER_USB_PIN_ENTRY_FAIL",
                "CONTAINER_CTRL_EINTERNAL",
                "CONTAINER_START_UNLOCK_FAILED",
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                "CMD_FAILED",
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                "CMD_FAILED",
                "CMD_FAILED",
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                "CMD_FAILED",
            ]
        );
    }

    #[test]
    fn every_stop_error_has_its_code() {
        let internal = "CONTAINER_CTRL_EINTERNAL";
        assert_eq!(
            codes(stop),
            [
                "CMD_FAILED",
                internal,
                "CONTAINER_STOP_FAILED_NOT_RUNNING",
                internal,
                internal,
                "CMD_UNSUPPORTED",
                "CONTAINER_STOP_PASSWD_WRONG",
                "CONTAINER_LOCKED_TILL_REBOOT",
                "CONTAINER_START_TOKEN_UNINIT",
                "CONTAINER_START_TOKEN_UNPAIRED",
                internal,
                "CONTAINER_USB_PIN_ENTRY_FAIL",
                internal,
                "CONTAINER_STOP_UNLOCK_FAILED",
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                "CMD_FAILED",
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                "CMD_FAILED",
                "CMD_FAILED",
                internal,
                internal,
                internal,
                internal,
                internal,
                internal,
                "CMD_FAILED",
            ]
        );
    }

    #[test]
    fn every_error_of_the_other_commands_is_cmd_failed() {
        assert!(codes(plain).iter().all(|code| *code == "CMD_FAILED"));
    }

    #[test]
    fn a_failed_query_says_why() {
        for error in errors() {
            let reason = error.to_string();
            for reply in [
                status(Err(error.clone())),
                container_list(Err(error.clone())),
                configs(Err(error.clone())),
                pin_entry(Err(error.clone())),
            ] {
                assert_eq!(reply.response(), Response::CmdFailed);
                assert_eq!(reply.error_text(), reason);
            }
            let reply = created(Err(error));
            assert_eq!(reply.code(), Code::ContainerConfig);
            assert!(reply.container_configs.is_empty() && reply.response.is_none());
            assert_eq!(reply.error_text(), reason);
        }
        let reply = guestos_list(Err(GuestOsError::Bus(BusError::Unbound("m"))));
        assert_eq!(reply.response(), Response::CmdFailed);
    }

    #[test]
    fn exec_that_cannot_run_ends_at_once() {
        for error in errors() {
            let absent = matches!(error, ContainerError::NotFound(_));
            let missing = matches!(error, ContainerError::NoProgram { .. });
            let reply = exec_refused(error);
            if absent {
                assert_eq!(reply.response(), Response::CmdFailed);
            } else {
                assert_eq!(reply.code(), Code::ExecEnd);
                let status = if missing { NO_PROGRAM } else { CANNOT_RUN };
                assert_eq!(reply.exec_status(), status);
            }
            assert!(reply.error_text.is_some());
        }
    }

    #[test]
    fn success_has_the_code_of_its_command() {
        let started = start(Ok(Started::default()));
        assert_eq!(started, response(Response::ContainerStartOk));
        let warned = Started {
            warnings: vec!["no memory controller".into()],
        };
        assert_eq!(start(Ok(warned)).warnings, ["no memory controller"]);
        assert_eq!(stop(Ok(())), response(Response::ContainerStopOk));
        assert_eq!(plain(Ok(())), response(Response::CmdOk));
        let reply = pin_entry(Ok(PinNeeds {
            usb_reader: false,
            required: true,
        }));
        assert_eq!(reply.container_cmld_handles_pin, Some(false));
        assert_eq!(reply.pin_required, Some(true));
        assert_eq!(provisioned(false).device_is_provisioned, Some(false));
        assert_eq!(csr(Ok(vec![1])).device_csr, Some(vec![1]));
        let reply = csr(Err(ProvisioningError::Provisioned));
        assert_eq!((reply.code(), reply.device_csr), (Code::DeviceCsr, None));
        assert_eq!(pushed_cert(Ok(())), response(Response::DeviceCertOk));
        for (error, code) in [
            (
                ProvisioningError::Provisioned,
                Response::DeviceProvisioningError,
            ),
            (
                TokenError::BadDeviceCert(text()).into(),
                Response::DeviceCertError,
            ),
            (BusError::Busy("m").into(), Response::DeviceCertError),
        ] {
            assert_eq!(pushed_cert(Err(error)).response(), code);
        }
        let reply = rebooted(Ok(Rebooted {
            stopped: 2,
            machine: false,
        }));
        assert_eq!(reply.response(), Response::CmdOk);
        assert!(reply.done_text().starts_with("2 containers were stopped; "));
        let id = ContainerId::CORE0;
        let reply = created(Ok((id, ContainerConfig::default())));
        assert_eq!(reply.container_uuids, [id.to_string()]);
        assert_eq!(reply.container_configs.len(), 1);
    }
}
