//! A decoded `ControllerToDaemon` becomes a typed request, or the reason why it cannot (protocol.md 3.1, 3.3).
//!
//! Pure functions. PINs are moved out of the message without a copy and every secret field that is left
//! behind is overwritten, whatever becomes of the command.

mod fields;
mod request;
#[cfg(test)]
mod tests;

use cml_bus::api::{
    audit,
    container::{
        ChangePin, Create, Interfaces, PinEntry, Remove, RemoveGuestOs, SetAudio, SetDevice,
        SetFrozen, Start, Stop, UpdateConfig, WindowSize, Wipe,
    },
    provisioning::PushCert,
    token,
};
use cml_wire::proto::{ControllerToDaemon, controller_to_daemon::Command};
use zeroize::Zeroize;

use self::fields::{
    characters, config, container, exec, interface, pins, push, selection, start_params,
};
pub use self::request::*;
use crate::policy::{self, Mode};

/// Records of each log for a client that does not say how many it wants.
pub const AUDIT_LIMIT: usize = 1000;

/// Checks the policy and takes the message apart. Secrets are gone from `message` afterwards.
///
/// # Errors
/// [`Refusal`]; `translate_out::refusal` makes the reply of it.
pub fn request(message: &mut ControllerToDaemon, mode: Mode) -> Result<Request, Refusal> {
    let request = policy::admit(message.command, mode)
        .ok_or(Refusal::Forbidden(message.command, mode))
        .and_then(|command| typed(command, message));
    wipe(message);
    request
}

fn typed(command: Command, message: &mut ControllerToDaemon) -> Result<Request, Refusal> {
    Ok(match command {
        Command::ListGuestosConfigs => Request::ListGuestOs,
        Command::ListContainers => Request::ListContainers,
        Command::GetContainerStatus => Request::Status(selection(message)),
        Command::GetContainerConfig => Request::Configs(selection(message)),
        Command::ReloadContainers => Request::Reload,
        Command::CreateContainer => {
            let (config, signature) = config(command, message)?;
            Request::Create(Create { config, signature })
        }
        Command::ContainerUpdateConfig => {
            let id = container(command, message)?;
            let (config, signature) = config(command, message)?;
            Request::UpdateConfig(UpdateConfig {
                id,
                config,
                signature,
                may_wipe: message.may_wipe(),
            })
        }
        Command::RemoveContainer => Request::Remove(Remove {
            id: container(command, message)?,
        }),
        Command::ContainerStart => {
            let id = container(command, message)?;
            let (pin, setup) = start_params(message);
            Request::Start(Start { id, pin, setup })
        }
        Command::ContainerStop => {
            let id = container(command, message)?;
            let (pin, _) = start_params(message);
            Request::Stop(Stop { id, pin })
        }
        Command::ContainerFreeze | Command::ContainerUnfreeze => Request::SetFrozen(SetFrozen {
            id: container(command, message)?,
            frozen: command == Command::ContainerFreeze,
        }),
        Command::ContainerDevAccess => Request::SetDevice(SetDevice {
            id: container(command, message)?,
            rule: message
                .dev_rule
                .take()
                .ok_or(Refusal::Missing(command, "dev_rule"))?,
        }),
        Command::ContainerAllowaudio | Command::ContainerDenyaudio => Request::SetAudio(SetAudio {
            id: container(command, message)?,
            allowed: command == Command::ContainerAllowaudio,
        }),
        Command::ContainerStats => Request::ContainerStats(selection(message)),
        Command::ChangeDevicePin => {
            let (old, new) = pins(command, message)?;
            Request::ChangeDevicePin(token::ChangePin {
                holder: None,
                old,
                new,
            })
        }
        Command::ContainerChangeTokenPin => {
            let id = container(command, message)?;
            let (old, new) = pins(command, message)?;
            Request::ChangePin(ChangePin { id, old, new })
        }
        Command::ContainerWipe => Request::Wipe(Wipe {
            id: container(command, message)?,
        }),
        Command::WipeDevice => Request::WipeAll,
        Command::ContainerCmldHandlesPin => Request::PinEntry(PinEntry {
            id: container(command, message)?,
        }),
        Command::GetProvisioned => Request::GetProvisioned,
        Command::SetProvisioned => Request::SetProvisioned,
        Command::PullDeviceCsr => Request::PullCsr,
        Command::PushDeviceCert => Request::PushCert(PushCert {
            certificate: message
                .device_cert
                .take()
                .ok_or(Refusal::Missing(command, "device_cert"))?,
        }),
        Command::RebootDevice => Request::Reboot,
        Command::GetDeviceStats => Request::Stats,
        Command::GetLastLog => Request::Logs(match message.remove_logs_named.is_empty() {
            true => LogsRequest::Send {
                remove: message.remove_logs(),
            },
            false => LogsRequest::Remove(std::mem::take(&mut message.remove_logs_named)),
        }),
        Command::DestroySystem => Request::Destroy,
        Command::PushGuestosConfig => Request::Push(push(command, message)?),
        Command::RemoveGuestos => Request::RemoveGuestOs(RemoveGuestOs {
            name: message
                .guestos_name
                .take()
                .ok_or(Refusal::Missing(command, "guestos_name"))?,
        }),
        Command::RegisterNewca | Command::RegisterLocalca => {
            Request::RegisterCa(token::RegisterCa {
                certificates: message
                    .guestos_rootcert
                    .take()
                    .ok_or(Refusal::Missing(command, "guestos_rootcert"))?,
                local: command == Command::RegisterLocalca,
            })
        }
        Command::CaList => Request::ListCas,
        Command::CaRemove => Request::RemoveCa(token::RemoveCa {
            id: message
                .ca_id
                .take()
                .ok_or(Refusal::Missing(command, "ca_id"))?,
        }),
        Command::AuditList => Request::AuditList(audit::List {
            container: match message.container_uuids.is_empty() {
                true => None,
                false => Some(container(command, message)?),
            },
            limit: message
                .audit_limit
                .map_or(AUDIT_LIMIT, |limit| limit as usize),
        }),
        Command::AuditVerify => Request::AuditVerify,
        Command::ContainerAssigniface | Command::ContainerUnassigniface => {
            Request::SetInterface(interface(command, message)?)
        }
        Command::ContainerListIfaces => Request::Interfaces(Interfaces {
            id: container(command, message)?,
        }),
        Command::ContainerExecCmd => Request::Exec(exec(command, message)?),
        Command::ContainerExecInput => Request::Input(InputRequest {
            id: container(command, message)?,
            data: message.exec_input.take().unwrap_or_default(),
            eof: message.exec_input_eof.unwrap_or_default(),
        }),
        Command::ContainerExecResize => {
            let id = container(command, message)?;
            let size = WindowSize {
                cols: characters(command, "exec_cols", message.exec_cols, None)?,
                rows: characters(command, "exec_rows", message.exec_rows, None)?,
            };
            Request::Resize(id, size)
        }
        _ => return Err(Refusal::NotServed(command)),
    })
}

/// Overwrites the secrets of every command, also of those that are refused.
fn wipe(message: &mut ControllerToDaemon) {
    if let Some(params) = message.container_start_params.as_mut() {
        params.key.zeroize();
    }
    message.device_pin.zeroize();
    message.device_newpin.zeroize();
    message.exec_input.zeroize();
}
