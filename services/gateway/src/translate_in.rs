//! A decoded `ControllerToDaemon` becomes a typed request, or the reason why it cannot (protocol.md 3.1, 3.3).
//!
//! Pure functions. PINs are moved out of the message without a copy and every secret field that is left
//! behind is overwritten, whatever becomes of the command.

use cml_bus::{
    api::{
        audit,
        container::{
            ChangePin, Create, Exec, Interfaces, PinEntry, Remove, RemoveGuestOs, SetAudio,
            SetDevice, SetFrozen, SetInterface, Signature, Start, Stop, UpdateConfig, WindowSize,
            Wipe,
        },
        guestos::Push,
        provisioning::PushCert,
        token,
    },
    id::ContainerId,
    secret::Pin,
};
use cml_wire::proto::{ContainerStartParams, ControllerToDaemon, controller_to_daemon::Command};
use zeroize::Zeroize;

use crate::policy::{self, Mode};

/// The terminal of a client that does not say how large it is.
pub const DEFAULT_WINDOW: WindowSize = WindowSize { cols: 80, rows: 24 };

/// Records of each log for a client that does not say how many it wants.
pub const AUDIT_LIMIT: usize = 1000;

/// Which containers a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// None was named.
    All,
    /// The well-formed ones of those that were named: perhaps none.
    These(Vec<ContainerId>),
}

/// A command that may be carried out and has everything it needs.
#[derive(Debug)]
pub enum Request {
    /// `LIST_GUESTOS_CONFIGS`
    ListGuestOs,
    /// `LIST_CONTAINERS`
    ListContainers,
    /// `GET_CONTAINER_STATUS`
    Status(Selection),
    /// `GET_CONTAINER_CONFIG`
    Configs(Selection),
    /// `RELOAD_CONTAINERS`
    Reload,
    /// `CREATE_CONTAINER`
    Create(Create),
    /// `CONTAINER_UPDATE_CONFIG`
    UpdateConfig(UpdateConfig),
    /// `REMOVE_CONTAINER`
    Remove(Remove),
    /// `CONTAINER_START`
    Start(Start),
    /// `CONTAINER_STOP`
    Stop(Stop),
    /// `CONTAINER_FREEZE`, `CONTAINER_UNFREEZE`
    SetFrozen(SetFrozen),
    /// `CONTAINER_DEV_ACCESS`
    SetDevice(SetDevice),
    /// `CONTAINER_ALLOWAUDIO`, `CONTAINER_DENYAUDIO`
    SetAudio(SetAudio),
    /// `CONTAINER_STATS`
    ContainerStats(Selection),
    /// `CHANGE_DEVICE_PIN`
    ChangeDevicePin(token::ChangePin),
    /// `CONTAINER_CHANGE_TOKEN_PIN`
    ChangePin(ChangePin),
    /// `CONTAINER_WIPE`
    Wipe(Wipe),
    /// `WIPE_DEVICE`: all containers, and nothing else (design.md section 1).
    WipeAll,
    /// `CONTAINER_CMLD_HANDLES_PIN`
    PinEntry(PinEntry),
    /// `GET_PROVISIONED`
    GetProvisioned,
    /// `SET_PROVISIONED`
    SetProvisioned,
    /// `PULL_DEVICE_CSR`
    PullCsr,
    /// `PUSH_DEVICE_CERT`
    PushCert(PushCert),
    /// `REBOOT_DEVICE`
    Reboot,
    /// `GET_DEVICE_STATS`
    Stats,
    /// `GET_LAST_LOG`
    Logs(LogsRequest),
    /// `DESTROY_SYSTEM`
    Destroy,
    /// `PUSH_GUESTOS_CONFIG`
    Push(PushRequest),
    /// `REMOVE_GUESTOS`
    RemoveGuestOs(RemoveGuestOs),
    /// `REGISTER_NEWCA`, `REGISTER_LOCALCA`
    RegisterCa(token::RegisterCa),
    /// `CA_LIST`
    ListCas,
    /// `CA_REMOVE`
    RemoveCa(token::RemoveCa),
    /// `AUDIT_LIST`
    AuditList(audit::List),
    /// `AUDIT_VERIFY`
    AuditVerify,
    /// `CONTAINER_ASSIGNIFACE`, `CONTAINER_UNASSIGNIFACE`
    SetInterface(SetInterface),
    /// `CONTAINER_LIST_IFACES`
    Interfaces(Interfaces),
    /// `CONTAINER_EXEC_CMD`
    Exec(ExecRequest),
    /// `CONTAINER_EXEC_INPUT`: never answered (protocol.md 3.3).
    Input(InputRequest),
    /// `CONTAINER_EXEC_RESIZE`: never answered when it is well-formed, as its result shows in the terminal.
    Resize(ContainerId, WindowSize),
}

/// What is to be done with the log files.
#[derive(Debug, PartialEq, Eq)]
pub enum LogsRequest {
    /// Send all, and delete them afterwards if that is wanted.
    Send {
        /// Delete them when the client has them.
        remove: bool,
    },
    /// Delete these: the client says that it has stored them. Ours.
    Remove(Vec<String>),
}

/// A guest OS to be installed, and whether the client follows.
#[derive(Debug)]
pub struct PushRequest {
    /// What the guest OS service is asked.
    pub push: Push,
    /// Tell how far it is. Clients that do not ask for it get the replies of protocol.md 6.5 alone.
    pub progress: bool,
}

/// A command to run and how its output is wanted.
#[derive(Debug)]
pub struct ExecRequest {
    /// What the container service is asked.
    pub exec: Exec,
    /// Standard error in a field of its own. Clients that do not ask for it get it merged.
    pub separate_output: bool,
}

/// Input for the command that runs on this connection.
#[derive(Debug)]
pub struct InputRequest {
    /// The container the client means.
    pub id: ContainerId,
    /// The bytes, possibly none.
    pub data: Vec<u8>,
    /// No more will come.
    pub eof: bool,
}

/// Why a message is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a command, or not one for this socket or mode.
    #[error("command {0} is not allowed on this connection")]
    Forbidden(i32),
    /// A command of the protocol that this daemon does not carry out yet.
    #[error("not available in this version")]
    NotServed(Command),
    /// `container_uuids` does not hold exactly one well-formed entry.
    #[error("the command needs exactly one container uuid")]
    NoContainer(Command),
    /// A field that the command needs is absent.
    #[error("the command needs the field `{1}`")]
    Missing(Command, &'static str),
    /// A field has a value that means nothing.
    #[error("the field `{1}` is out of range")]
    OutOfRange(Command, &'static str),
    /// It came while a command ran on the connection and is too large to be kept until its end.
    #[error("command {0} is too large to wait for the running one; use another connection")]
    TooLargeToWait(i32),
}

/// Checks the policy and takes the message apart. Secrets are gone from `message` afterwards.
///
/// # Errors
/// [`Refusal`]; `translate_out::refusal` makes the reply of it.
pub fn request(message: &mut ControllerToDaemon, mode: Mode) -> Result<Request, Refusal> {
    let request = policy::admit(message.command, mode)
        .ok_or(Refusal::Forbidden(message.command))
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

/// The target of a container command: exactly one well-formed entry, else it counts as absent
/// (protocol.md 3.3).
fn container(command: Command, message: &ControllerToDaemon) -> Result<ContainerId, Refusal> {
    match message.container_uuids.as_slice() {
        [only] => only.parse().map_err(|_| Refusal::NoContainer(command)),
        _ => Err(Refusal::NoContainer(command)),
    }
}

fn interface(command: Command, message: &mut ControllerToDaemon) -> Result<SetInterface, Refusal> {
    let id = container(command, message)?;
    let missing = |field| Refusal::Missing(command, field);
    let params = message.assign_iface_params.take();
    let params = params.ok_or_else(|| missing("assign_iface_params"))?;
    Ok(SetInterface {
        id,
        persistent: params.persistent(),
        interface: params.iface_name.ok_or_else(|| missing("iface_name"))?,
        assigned: command == Command::ContainerAssigniface,
    })
}

fn selection(message: &ControllerToDaemon) -> Selection {
    if message.container_uuids.is_empty() {
        return Selection::All;
    }
    Selection::These(
        message
            .container_uuids
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
    )
}

/// No parameters: no PIN. Parameters without `key`: its proto default, 128 zeros (protocol.md 2.1).
fn start_params(message: &mut ControllerToDaemon) -> (Option<Pin>, bool) {
    let Some(params) = message.container_start_params.as_mut() else {
        return (None, false);
    };
    let key = params
        .key
        .take()
        .unwrap_or_else(|| ContainerStartParams::default().key().to_owned());
    (Some(Pin::new(key)), params.setup.unwrap_or_default())
}

fn pins(command: Command, message: &mut ControllerToDaemon) -> Result<(Pin, Pin), Refusal> {
    let old = message.device_pin.take().map(Pin::new);
    let new = message.device_newpin.take().map(Pin::new);
    let old = old.ok_or(Refusal::Missing(command, "device_pin"))?;
    let new = new.ok_or(Refusal::Missing(command, "device_newpin"))?;
    Ok((old, new))
}

/// Signature and certificate count only together (protocol.md 3.4).
fn config(
    command: Command,
    message: &mut ControllerToDaemon,
) -> Result<(Vec<u8>, Option<Signature>), Refusal> {
    let config = message
        .container_config_file
        .take()
        .ok_or(Refusal::Missing(command, "container_config_file"))?;
    let signature = message
        .container_config_signature
        .take()
        .zip(message.container_config_certificate.take())
        .map(|(signature, certificate)| Signature {
            signature,
            certificate,
        });
    Ok((config, signature))
}

fn push(command: Command, message: &mut ControllerToDaemon) -> Result<PushRequest, Refusal> {
    let field =
        |value: &mut Option<Vec<u8>>, name| value.take().ok_or(Refusal::Missing(command, name));
    Ok(PushRequest {
        push: Push {
            config: field(&mut message.guestos_config_file, "guestos_config_file")?,
            signature: field(
                &mut message.guestos_config_signature,
                "guestos_config_signature",
            )?,
            certificate: field(
                &mut message.guestos_config_certificate,
                "guestos_config_certificate",
            )?,
            caller: None,
        },
        progress: message.want_progress.unwrap_or_default(),
    })
}

fn exec(command: Command, message: &mut ControllerToDaemon) -> Result<ExecRequest, Refusal> {
    let id = container(command, message)?;
    let pty = message
        .exec_pty
        .ok_or(Refusal::Missing(command, "exec_pty"))?;
    if message.exec_args.is_empty() {
        return Err(Refusal::Missing(command, "exec_args"));
    }
    let terminal = if pty {
        Some(WindowSize {
            cols: characters(
                command,
                "exec_cols",
                message.exec_cols,
                Some(DEFAULT_WINDOW.cols),
            )?,
            rows: characters(
                command,
                "exec_rows",
                message.exec_rows,
                Some(DEFAULT_WINDOW.rows),
            )?,
        })
    } else {
        None
    };
    Ok(ExecRequest {
        exec: Exec {
            id,
            argv: std::mem::take(&mut message.exec_args),
            env: std::mem::take(&mut message.exec_env),
            workdir: message.exec_workdir.take(),
            user: message.exec_user.take().filter(|user| !user.is_empty()),
            terminal,
        },
        separate_output: message.exec_separate_output.unwrap_or_default(),
    })
}

/// A terminal dimension that the kernel can represent.
fn characters(
    command: Command,
    field: &'static str,
    value: Option<u32>,
    default: Option<u16>,
) -> Result<u16, Refusal> {
    match (value, default) {
        (None | Some(0), Some(default)) => Ok(default),
        (None, None) => Err(Refusal::Missing(command, field)),
        (Some(value), _) => match u16::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            _ => Err(Refusal::OutOfRange(command, field)),
        },
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const OPEN: Mode = Mode {
        provisioned: false,
        extended: false,
        privileged: true,
        hosted: false,
    };
    const UUID: &str = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";

    fn message(command: Command) -> ControllerToDaemon {
        ControllerToDaemon {
            command: command.into(),
            container_uuids: vec![UUID.into()],
            ..Default::default()
        }
    }

    fn exec_message() -> ControllerToDaemon {
        ControllerToDaemon {
            exec_args: vec!["sh".into(), "-c".into()],
            exec_pty: Some(true),
            ..message(Command::ContainerExecCmd)
        }
    }

    const TARGETED: [Command; 12] = [
        Command::ContainerAllowaudio,
        Command::ContainerDenyaudio,
        Command::ContainerDevAccess,
        Command::RemoveContainer,
        Command::ContainerStart,
        Command::ContainerStop,
        Command::ContainerFreeze,
        Command::ContainerUnfreeze,
        Command::ContainerCmldHandlesPin,
        Command::ContainerExecCmd,
        Command::ContainerExecInput,
        Command::ContainerExecResize,
    ];

    #[test]
    fn a_container_command_needs_exactly_one_well_formed_uuid() {
        let wrong: [&[&str]; 4] = [&[], &["core0"], &[UUID, UUID], &["../../../../etc/passwd"]];
        for command in TARGETED {
            for uuids in wrong {
                let mut message = message(command);
                message.container_uuids = uuids.iter().map(ToString::to_string).collect();
                let refused = request(&mut message, OPEN).unwrap_err();
                assert_eq!(refused, Refusal::NoContainer(command), "{uuids:?}");
            }
        }
    }

    #[test]
    fn a_uuid_is_accepted_in_upper_case_and_without_dashes() {
        for text in [UUID.to_uppercase(), UUID.replace('-', "")] {
            let mut message = message(Command::RemoveContainer);
            message.container_uuids = vec![text];
            let Ok(Request::Remove(remove)) = request(&mut message, OPEN) else {
                panic!("refused");
            };
            assert_eq!(remove.id.to_string(), UUID);
        }
    }

    #[test]
    fn the_pin_is_the_key_or_its_default_or_absent() {
        for command in [Command::ContainerStart, Command::ContainerStop] {
            let with = |params| ControllerToDaemon {
                container_start_params: params,
                ..message(command)
            };
            let key = |key: &str| ContainerStartParams {
                key: Some(key.into()),
                ..Default::default()
            };
            let zeros = "0".repeat(128);
            for (params, expected) in [
                (None, None),
                (Some(ContainerStartParams::default()), Some(zeros.as_str())),
                (Some(key("")), Some("")),
                (Some(key("trustme")), Some("trustme")),
            ] {
                let pin = match request(&mut with(params), OPEN) {
                    Ok(Request::Start(start)) => start.pin,
                    Ok(Request::Stop(stop)) => stop.pin,
                    other => panic!("{other:?}"),
                };
                assert_eq!(pin.as_ref().map(Pin::expose), expected);
            }
        }
    }

    #[test]
    fn no_secret_is_left_in_a_message_even_if_it_is_refused() {
        let strict = Mode {
            provisioned: true,
            ..OPEN
        };
        for number in 0..1001 {
            for mode in [OPEN, strict] {
                let mut message = message(Command::ContainerStart);
                message.command = number;
                message.container_start_params = Some(ContainerStartParams {
                    key: Some("secret".into()),
                    ..Default::default()
                });
                message.device_pin = Some("secret".into());
                message.device_newpin = Some("secret".into());
                message.exec_input = Some(b"secret".to_vec());
                let outcome = request(&mut message, mode);
                assert!(!format!("{message:?}").contains("secret"), "{number}");
                assert!(message.exec_input.is_none());
                if let Ok(Request::Start(_) | Request::Stop(_)) = outcome {
                    assert!(!format!("{outcome:?}").contains("secret"), "{number}");
                }
            }
        }
    }

    #[test]
    fn exec_needs_a_terminal_decision_and_words() {
        let refused = |change: fn(&mut ControllerToDaemon)| {
            let mut message = exec_message();
            change(&mut message);
            request(&mut message, OPEN).unwrap_err()
        };
        let command = Command::ContainerExecCmd;
        assert_eq!(
            refused(|message| message.exec_pty = None),
            Refusal::Missing(command, "exec_pty")
        );
        assert_eq!(
            refused(|message| message.exec_args.clear()),
            Refusal::Missing(command, "exec_args")
        );
        assert_eq!(
            refused(|message| message.exec_cols = Some(65_536)),
            Refusal::OutOfRange(command, "exec_cols")
        );
    }

    #[test]
    fn a_terminal_has_the_size_of_the_client_or_the_default() {
        let size = |cols, rows, pty| {
            let mut message = exec_message();
            (message.exec_cols, message.exec_rows) = (cols, rows);
            message.exec_pty = Some(pty);
            match request(&mut message, OPEN) {
                Ok(Request::Exec(request)) => request.exec.terminal,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(size(None, None, true), Some(DEFAULT_WINDOW));
        assert_eq!(size(Some(0), Some(0), true), Some(DEFAULT_WINDOW));
        assert_eq!(
            size(Some(132), Some(50), true),
            Some(WindowSize {
                cols: 132,
                rows: 50
            })
        );
        assert_eq!(size(Some(132), Some(50), false), None);
    }

    #[test]
    fn a_resize_needs_both_numbers() {
        let resize = |cols, rows| {
            let mut message = message(Command::ContainerExecResize);
            (message.exec_cols, message.exec_rows) = (cols, rows);
            request(&mut message, OPEN).map(|request| matches!(request, Request::Resize(..)))
        };
        let command = Command::ContainerExecResize;
        assert_eq!(resize(Some(1), Some(65_535)), Ok(true));
        assert_eq!(
            resize(Some(1), None),
            Err(Refusal::Missing(command, "exec_rows"))
        );
        assert_eq!(
            resize(Some(0), Some(1)),
            Err(Refusal::OutOfRange(command, "exec_cols"))
        );
    }

    #[test]
    fn a_signature_counts_only_together_with_its_certificate() {
        for (signature, certificate) in [(false, false), (true, false), (false, true), (true, true)]
        {
            let mut message = message(Command::CreateContainer);
            message.container_config_file = Some(vec![1]);
            message.container_config_signature = signature.then(|| vec![2]);
            message.container_config_certificate = certificate.then(|| vec![3]);
            let Ok(Request::Create(create)) = request(&mut message, OPEN) else {
                panic!("refused");
            };
            assert_eq!(create.signature.is_some(), signature && certificate);
        }
    }

    #[test]
    fn every_allowed_command_is_served_or_says_that_it_is_not() {
        for number in 0..1200 {
            let mut message = exec_message();
            message.command = number;
            message.container_config_file = Some(vec![]);
            message.device_cert = Some(vec![]);
            message.guestos_config_file = Some(vec![]);
            message.guestos_config_signature = Some(vec![]);
            message.guestos_config_certificate = Some(vec![]);
            message.guestos_rootcert = Some(vec![]);
            message.guestos_name = Some("os".into());
            message.ca_id = Some("id".into());
            message.dev_rule = Some("c 1:3".into());
            message.assign_iface_params = Some(cml_wire::proto::AssignInterfaceParams {
                iface_name: Some("nic0".into()),
                ..Default::default()
            });
            (message.exec_cols, message.exec_rows) = (Some(1), Some(1));
            (message.device_pin, message.device_newpin) = (Some("o".into()), Some("n".into()));
            match (Command::try_from(number), request(&mut message, OPEN)) {
                (Err(_), outcome) => {
                    assert_eq!(outcome.unwrap_err(), Refusal::Forbidden(number));
                }
                (Ok(command), Err(refused)) => {
                    assert_eq!(refused, Refusal::NotServed(command));
                }
                (Ok(_), Ok(_)) => {}
            }
        }
    }
}
