//! What a reply or an error means for the exit status and for people (wire-samples.md, protocol.md 2.2).

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use cml_wire::proto::{
    DaemonToController,
    daemon_to_controller::{Code, Response},
};

use crate::{client::ClientError, pin::PinError, render, resolve::ResolveError, tty::TtyError};

/// Everything went well.
pub const OK: u8 = 0;
/// The daemon refused or could not do it.
pub const REFUSED: u8 = 1;
/// The daemon cannot be reached, or went away.
pub const UNREACHABLE: u8 = 125;
/// As if SIGPIPE had ended us: whoever read our output has gone.
pub const NOBODY_READS: u8 = 128 + 13;

/// Scripts match this text (protocol.md 5.1).
const NO_CONTAINER: &str = "Container with provided uuid/name does not exist!";

/// Why a command came to no reply.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The container.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The PIN.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The terminal.
    #[error(transparent)]
    Tty(#[from] TtyError),
    /// A file that was named on the command line.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory that results go to.
    #[error("cannot write {}: {source}", path.display())]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the daemon sent is no log file.
    #[error("cmld sent a log file with the name {0:?}, which is not stored")]
    BadLogName(String),
    /// The shutdown has begun and takes its time.
    #[error("stop: container {0} has not stopped yet; `control state {0}` tells when it has")]
    NotStopped(String),
    /// The shutdown has begun, and the daemon does not tell what became of it.
    #[error(
        "stop: container {name} is stopping, but it is not known whether it has stopped: {reason}"
    )]
    NotToldOfEnd {
        /// As configured.
        name: String,
        /// What it answered.
        reason: String,
    },
    /// Nobody can be asked whether this may happen.
    #[error(
        "update_config: container {0} would get another token, and what it has stored would be deleted; nothing was \
         done; --yes if that is meant"
    )]
    WouldWipe(String),
    /// The operator did not confirm.
    #[error("nothing was done")]
    Declined,
    /// Standard output.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
}

impl CliError {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Client(ClientError::TooLarge(_)) => REFUSED,
            Self::Client(_)
            | Self::Resolve(ResolveError::Client(_))
            | Self::Pin(PinError::Client(_)) => UNREACHABLE,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => NOBODY_READS,
            Self::Resolve(_)
            | Self::Pin(_)
            | Self::Tty(_)
            | Self::NotStopped(_)
            | Self::WouldWipe(_)
            | Self::NotToldOfEnd { .. }
            | Self::Declined
            | Self::File { .. }
            | Self::Store { .. }
            | Self::BadLogName(_)
            | Self::Output(_) => REFUSED,
        }
    }

    /// Tells the user, on standard error.
    pub fn report(&self) {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Self::Resolve(ResolveError::NotFound(_)) => {
                complain(&self.to_string());
                if !io::stderr().is_terminal() {
                    say(NO_CONTAINER);
                }
            }
            Self::Resolve(ResolveError::Refused(reply)) => {
                complain(&format!("{self}: {}", render::printable(&reason(reply))));
            }
            _ => complain(&self.to_string()),
        }
    }
}

/// A line on standard error with our name in front.
pub fn complain(text: &str) {
    say(&format!("control: {text}"));
}

/// A line on standard error. That nobody reads it changes nothing, so it must not panic as `eprintln!`.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Whether the reply is the success of a command that expects this code.
pub fn succeeded(reply: &DaemonToController, expected: Code) -> bool {
    if reply.code != i32::from(expected) {
        return false;
    }
    match expected {
        Code::Response => matches!(
            known_response(reply),
            Some(
                Response::ContainerStartOk
                    | Response::ContainerStopOk
                    | Response::ContainerChangePinSuccessful
                    | Response::DeviceCertOk
                    | Response::GuestosMgrInstallCompleted
                    | Response::GuestosMgrRegisterCaOk
                    | Response::CmdOk
            )
        ),
        // A failed create or update is this code without a configuration (protocol.md 3.3).
        Code::ContainerConfig => !reply.container_configs.is_empty(),
        // As is a request that cannot be had (protocol.md 3.3).
        Code::DeviceCsr => reply.device_csr.is_some(),
        Code::DeviceStats => reply.device_stats.is_some(),
        Code::AuditVerdict => reply.audit_broken.is_none(),
        // As are interfaces that could not be listed (protocol.md 3.3).
        Code::ContainerIfaces => reply.error_text.is_none(),
        _ => true,
    }
}

/// The response code, if it is one that has a name. The generated getter would take an unknown number
/// for the first name, which is a success.
pub fn known_response(reply: &DaemonToController) -> Option<Response> {
    Response::try_from(reply.response?).ok()
}

/// Why the reply is not what was hoped for: the daemon's own words, else ours.
pub fn reason(reply: &DaemonToController) -> String {
    let name = match (Code::try_from(reply.code), reply.response) {
        (Ok(Code::Response), Some(number)) => match Response::try_from(number) {
            Ok(response) => response.as_str_name().to_owned(),
            Err(_) => format!("response {number}"),
        },
        // Scripts look for this name (protocol.md 4.3).
        (Ok(Code::DeviceCsr), _) if reply.device_csr.is_none() => "DEVICE_CSR_ERROR".to_owned(),
        (Ok(code), _) => code.as_str_name().to_owned(),
        (Err(_), _) => format!("reply code {}", reply.code),
    };
    match reply.error_text.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => format!("{text} ({name})"),
        None => match ours(reply) {
            Some(words) => format!("{words} ({name})"),
            None => format!("unexpected answer of the daemon: {name}"),
        },
    }
}

/// What the codes mean (protocol.md 2.2, 3.3, 3.5, 3.6).
fn ours(reply: &DaemonToController) -> Option<&str> {
    if reply.code == i32::from(Code::AuditVerdict) {
        return reply.audit_broken.as_deref();
    }
    if reply.code == i32::from(Code::ContainerConfig) {
        return Some("the daemon gave no configuration; its log says why");
    }
    if reply.code == i32::from(Code::DeviceCsr) {
        return Some("the device gives no certificate request");
    }
    if reply.code != i32::from(Code::Response) {
        return None;
    }
    Some(match known_response(reply)? {
        Response::ContainerStartLockFailed | Response::ContainerStopLockFailed => {
            "the container's token could not be locked"
        }
        Response::ContainerStartUnlockFailed | Response::ContainerStopUnlockFailed => {
            "the container's token could not be unlocked"
        }
        Response::ContainerStartPasswdWrong | Response::ContainerStopPasswdWrong => {
            "wrong PIN or passphrase"
        }
        Response::ContainerLockedTillReboot => {
            "too many wrong PINs: the token is locked until the device is rebooted"
        }
        Response::ContainerStartEexist => "no such container, or it is running already",
        Response::CmdUnsupported => "the daemon does not allow this command here or in this mode",
        Response::ContainerChangePinFailed => "the PIN was not changed",
        Response::DeviceProvisioningError => "the device could not be provisioned",
        Response::DeviceCertError => "the device certificate was not accepted",
        Response::ContainerStartEinternal => {
            "the container could not be started; see the daemon's log"
        }
        Response::GuestosMgrInstallFailed => "the guest operating system was not installed",
        Response::ContainerStartTokenUninit => "the container's token is not initialised",
        Response::ContainerStartTokenUnpaired => {
            "the container has no token of its own yet: set a PIN with change_pin first"
        }
        Response::ContainerUsbPinEntryFail => "no PIN was entered at the reader",
        Response::ContainerStopFailedNotRunning => "the container is not running",
        Response::ContainerCtrlEinternal => "internal error; see the daemon's log",
        Response::GuestosMgrRegisterCaError => "the certificate was not registered",
        Response::CmdFailed => "the command failed; see the daemon's log",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_wire::proto::ContainerConfig;

    use super::*;

    fn response(number: i32) -> DaemonToController {
        DaemonToController {
            code: Code::Response.into(),
            response: Some(number),
            ..Default::default()
        }
    }

    #[test]
    fn only_these_response_codes_are_a_success() {
        let good: Vec<_> = (0..2000)
            .filter(|number| succeeded(&response(*number), Code::Response))
            .map(|number| Response::try_from(number).unwrap().as_str_name())
            .collect();
        assert_eq!(
            good,
            [
                "CONTAINER_START_OK",
                "CONTAINER_CHANGE_PIN_SUCCESSFUL",
                "DEVICE_CERT_OK",
                "GUESTOS_MGR_INSTALL_COMPLETED",
                "CONTAINER_STOP_OK",
                "GUESTOS_MGR_REGISTER_CA_OK",
                "CMD_OK",
            ]
        );
    }

    #[test]
    fn a_configuration_must_be_there() {
        let mut reply = DaemonToController {
            code: Code::ContainerConfig.into(),
            ..Default::default()
        };
        assert!(!succeeded(&reply, Code::ContainerConfig));
        reply.container_configs.push(ContainerConfig::default());
        assert!(succeeded(&reply, Code::ContainerConfig));
    }

    #[test]
    fn a_reply_of_another_kind_is_a_failure_with_its_name() {
        let reply = response(Response::CmdUnsupported.into());
        assert!(!succeeded(&reply, Code::ContainerStatus));
        assert!(reason(&reply).ends_with("(CMD_UNSUPPORTED)"));
        let empty = DaemonToController {
            code: Code::Response.into(),
            ..Default::default()
        };
        assert!(!succeeded(&empty, Code::Response));
        assert_eq!(reason(&empty), "unexpected answer of the daemon: RESPONSE");
        assert_eq!(
            reason(&response(12345)),
            "unexpected answer of the daemon: response 12345"
        );
    }

    #[test]
    fn every_failure_has_words() {
        for number in 0..2000 {
            let Ok(code) = Response::try_from(number) else {
                continue;
            };
            // Neither a success nor a failure: sent before the final answer.
            let interim = [
                Response::GuestosMgrInstallStarted,
                Response::GuestosMgrInstallWaiting,
            ];
            if !interim.contains(&code) && !succeeded(&response(number), Code::Response) {
                assert!(ours(&response(number)).is_some(), "{}", code.as_str_name());
            }
        }
    }

    #[test]
    fn the_daemons_own_words_come_first() {
        let mut reply = response(Response::CmdFailed.into());
        reply.error_text = Some("disk full".into());
        assert_eq!(reason(&reply), "disk full (CMD_FAILED)");
    }

    #[test]
    fn errors_have_their_status() {
        let path = PathBuf::from("/x");
        let io = || io::Error::from(io::ErrorKind::NotFound);
        let unreachable = || ClientError::Unreachable {
            path: path.clone(),
            source: io(),
        };
        for (error, status) in [
            (CliError::Client(unreachable()), 125),
            (CliError::Resolve(ResolveError::Client(unreachable())), 125),
            (CliError::Pin(PinError::Client(unreachable())), 125),
            (CliError::Client(ClientError::Closed(path.clone())), 125),
            (CliError::Resolve(ResolveError::NotFound("x".into())), 1),
            (
                CliError::File {
                    path: path.clone(),
                    source: io(),
                },
                1,
            ),
            (CliError::Output(io()), 1),
            (CliError::Output(io::ErrorKind::BrokenPipe.into()), 141),
        ] {
            assert_eq!(error.status(), status, "{error}");
        }
        assert!(
            unreachable()
                .to_string()
                .starts_with("cannot reach cmld at /x: ")
                && unreachable().to_string().ends_with("; is it running?")
        );
    }
}
