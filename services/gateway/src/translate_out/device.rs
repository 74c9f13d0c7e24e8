//! Replies to commands about the device (protocol.md 3.4, 7).

use cml_bus::api::provisioning::{LogPart, Outlook, ProvisioningError, Rebooted};
use cml_wire::proto::{
    DaemonToController, DeviceStats, LogMessage,
    daemon_to_controller::{Code, Response},
};

use super::{bare, failure, response};

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
        Ok(Rebooted {
            stopped,
            trouble,
            machine,
        }) => {
            let containers = match stopped {
                0 if trouble.is_some() => "no container was stopped".to_owned(),
                0 => "no container was running".to_owned(),
                1 => "1 container was stopped".to_owned(),
                many => format!("{many} containers were stopped"),
            };
            let then = match machine {
                Outlook::GoesDown => "the device reboots",
                Outlook::Hosted => "the host is not rebooted, as the daemon runs in hosted mode",
                Outlook::NoMaster => {
                    "the machine is not rebooted, as its first program has not started cmld with --device"
                }
            };
            DaemonToController {
                done_text: Some(format!("{containers}; {then}")),
                warnings: trouble.into_iter().collect(),
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

/// `GET_PROVISIONED`
pub fn provisioned(provisioned: bool) -> DaemonToController {
    DaemonToController {
        device_is_provisioned: Some(provisioned),
        ..bare(Code::DeviceProvisionedState)
    }
}
