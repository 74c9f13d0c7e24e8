//! Fields of a message that more than one command has, or that take some care.

use cml_bus::{
    api::{
        container::{Exec, SetInterface, Signature, WindowSize},
        guestos::Push,
    },
    id::ContainerId,
    secret::Pin,
};
use cml_wire::proto::{ContainerStartParams, ControllerToDaemon, controller_to_daemon::Command};

use super::request::{ExecRequest, PushRequest, Refusal, Selection};

/// The terminal of a client that does not say how large it is.
pub const DEFAULT_WINDOW: WindowSize = WindowSize { cols: 80, rows: 24 };

/// The target of a container command: exactly one well-formed entry, else it counts as absent
/// (protocol.md 3.3).
pub(super) fn container(
    command: Command,
    message: &ControllerToDaemon,
) -> Result<ContainerId, Refusal> {
    match message.container_uuids.as_slice() {
        [only] => only.parse().map_err(|_| Refusal::NoContainer(command)),
        _ => Err(Refusal::NoContainer(command)),
    }
}

pub(super) fn interface(
    command: Command,
    message: &mut ControllerToDaemon,
) -> Result<SetInterface, Refusal> {
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

pub(super) fn selection(message: &ControllerToDaemon) -> Selection {
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
pub(super) fn start_params(message: &mut ControllerToDaemon) -> (Option<Pin>, bool) {
    let Some(params) = message.container_start_params.as_mut() else {
        return (None, false);
    };
    let key = params
        .key
        .take()
        .unwrap_or_else(|| ContainerStartParams::default().key().to_owned());
    (Some(Pin::new(key)), params.setup.unwrap_or_default())
}

pub(super) fn pins(
    command: Command,
    message: &mut ControllerToDaemon,
) -> Result<(Pin, Pin), Refusal> {
    let old = message.device_pin.take().map(Pin::new);
    let new = message.device_newpin.take().map(Pin::new);
    let old = old.ok_or(Refusal::Missing(command, "device_pin"))?;
    let new = new.ok_or(Refusal::Missing(command, "device_newpin"))?;
    Ok((old, new))
}

/// Signature and certificate count only together (protocol.md 3.4).
pub(super) fn config(
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

pub(super) fn push(
    command: Command,
    message: &mut ControllerToDaemon,
) -> Result<PushRequest, Refusal> {
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

pub(super) fn exec(
    command: Command,
    message: &mut ControllerToDaemon,
) -> Result<ExecRequest, Refusal> {
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
pub(super) fn characters(
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
