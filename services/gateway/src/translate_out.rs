//! Results of the services become `DaemonToController` messages (protocol.md 3.3, 3.5, 3.6).
//!
//! Pure functions. Every failure carries the error's own words in `error_text`, so that an operator
//! reads more than the code that old clients print. Here is what all replies are made of; each service
//! has a file of its own.

mod audit;
mod container;
mod device;
mod exec;
mod guestos;
#[cfg(test)]
mod tests;
mod token;

use cml_wire::proto::{
    DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

pub use self::{audit::*, container::*, device::*, exec::*, guestos::*, token::*};
use crate::translate_in::Refusal;

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

/// The reply to a message that is not carried out; `None` where silence is the rule.
pub fn refusal(refusal: Refusal) -> Option<DaemonToController> {
    let text = refusal.to_string();
    Some(match refusal {
        Refusal::NoContainer(Command::ContainerExecInput) => return None,
        Refusal::Forbidden(..) | Refusal::NotServed(_) => failure(Response::CmdUnsupported, text),
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
