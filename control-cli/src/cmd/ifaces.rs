//! Interfaces of containers.

use cml_wire::proto::{
    AssignInterfaceParams, controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::Context;
use crate::{cli::Interface, client, exit::CliError, render::Words, resolve::Purpose};

/// `assign_iface`
pub fn assign(context: &Context<'_>, given: &Interface) -> Result<u8, CliError> {
    set(
        context,
        given,
        Command::ContainerAssigniface,
        "assign_iface",
        "assigned to",
    )
}

/// `unassign_iface`
pub fn unassign(context: &Context<'_>, given: &Interface) -> Result<u8, CliError> {
    set(
        context,
        given,
        Command::ContainerUnassigniface,
        "unassign_iface",
        "taken from",
    )
}

fn set(
    context: &Context<'_>,
    given: &Interface,
    command: Command,
    action: &str,
    done: &str,
) -> Result<u8, CliError> {
    let (client, container) = context.connect_to(&given.container, Purpose::Change)?;
    let mut request = client::about(command, &container.uuid);
    request.assign_iface_params = Some(AssignInterfaceParams {
        iface_name: Some(given.iface.clone()),
        persistent: Some(given.persistent),
    });
    let done = format!("{} {done} container {}", given.iface, container.name);
    let words = Words {
        action,
        done: &done,
    };
    context.ask(client, request, Code::Response, words)
}

/// `ifaces`
pub fn list(context: &Context<'_>, word: &str) -> Result<u8, CliError> {
    let (client, container) = context.connect_to(word, Purpose::Look)?;
    let request = client::about(Command::ContainerListIfaces, &container.uuid);
    let words = Words {
        action: "ifaces",
        done: "",
    };
    context.ask(client, request, Code::ContainerIfaces, words)
}
