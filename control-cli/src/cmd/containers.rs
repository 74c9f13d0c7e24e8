//! What containers there are, and commands that need nothing but their target.

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::{Context, file, input};
use crate::{
    cli::{Confirm, Doomed},
    client::{self, Client},
    exit::CliError,
    render::{Words, is_at_rest, printable, state_name},
    resolve::{Container, Purpose, ResolveError},
};

/// `list`
pub fn list(context: &Context<'_>, system: bool) -> Result<u8, CliError> {
    let mut request = client::bare(Command::GetContainerStatus);
    request.system_services = system.then_some(true);
    let words = Words {
        action: "list",
        done: "",
    };
    context.ask(context.connect()?, request, Code::ContainerStatus, words)
}

/// `state`: units can be asked about too.
pub fn state(context: &Context<'_>, word: &str) -> Result<u8, CliError> {
    let (mut client, container) = context.connect_to(word, Purpose::LookAtUnits)?;
    let mut request = client::about(Command::GetContainerStatus, &container.uuid);
    request.system_services = Some(true);
    let reply = client.call(request)?;
    if reply.code == i32::from(Code::ContainerStatus) && reply.container_status.is_empty() {
        // Removed between the two requests.
        return Err(ResolveError::NotFound(printable(word)).into());
    }
    let words = Words {
        action: "state",
        done: "",
    };
    context.show(&reply, Code::ContainerStatus, words)
}

/// `config`
pub fn config(context: &Context<'_>, word: &str) -> Result<u8, CliError> {
    let (client, container) = context.connect_to(word, Purpose::Look)?;
    let request = client::about(Command::GetContainerConfig, &container.uuid);
    let words = Words {
        action: "config",
        done: "",
    };
    context.ask(client, request, Code::ContainerConfig, words)
}

/// `list_guestos`
pub fn list_guestos(context: &Context<'_>) -> Result<u8, CliError> {
    let request = client::bare(Command::ListGuestosConfigs);
    let words = Words {
        action: "list_guestos",
        done: "",
    };
    context.ask(context.connect()?, request, Code::GuestosConfigsList, words)
}

/// `create`; the files are read before the daemon is bothered.
pub fn create(
    context: &Context<'_>,
    conf: &Path,
    signed: Option<(&Path, &Path)>,
) -> Result<u8, CliError> {
    let request = with_config(client::bare(Command::CreateContainer), conf, signed)?;
    let words = Words {
        action: "create",
        done: "created",
    };
    context.ask(context.connect()?, request, Code::ContainerConfig, words)
}

/// `update_config`. One that would delete what the container has stored is not carried out before a person was asked; a
/// script is warned afterwards.
pub fn update_config(
    context: &Context<'_>,
    word: &str,
    conf: &Path,
    signed: Option<(&Path, &Path)>,
    confirm: &Confirm,
) -> Result<u8, CliError> {
    // The files first: a missing one is found before anything is asked.
    let request = with_config(client::bare(Command::ContainerUpdateConfig), conf, signed)?;
    let (mut client, container) = context.connect_to(word, Purpose::Change)?;
    let can_answer = io::stdin().is_terminal();
    // Of whoever pipes the configuration in, the terminal is at standard error.
    let person = can_answer || conf == "-" && io::stderr().is_terminal();
    let request = ControllerToDaemon {
        container_uuids: vec![container.uuid.clone()],
        may_wipe: (person && !confirm.yes).then_some(false),
        ..request
    };
    let mut reply = client.call(request.clone())?;
    if reply.would_wipe() {
        let named = named(&container);
        if !can_answer {
            return Err(CliError::WouldWipe(named));
        }
        let lost = "gets another token with this configuration. Delete what it has stored?";
        let question = format!("Container {named} {lost}{}", end_of(&container));
        super::confirm(confirm, &question)?;
        reply = client.call(ControllerToDaemon {
            may_wipe: None,
            ..request
        })?;
    }
    let words = Words {
        action: "update_config",
        done: "updated",
    };
    context.show(&reply, Code::ContainerConfig, words)
}

fn with_config(
    request: ControllerToDaemon,
    conf: &Path,
    signed: Option<(&Path, &Path)>,
) -> Result<ControllerToDaemon, CliError> {
    let signed = signed.map(|(sig, cert)| Ok::<_, CliError>((file(sig)?, file(cert)?)));
    let (signature, certificate) = signed.transpose()?.unzip();
    Ok(ControllerToDaemon {
        container_config_file: Some(input(conf)?),
        container_config_signature: signature,
        container_config_certificate: certificate,
        ..request
    })
}

/// `remove`
pub fn remove(context: &Context<'_>, doomed: &Doomed) -> Result<u8, CliError> {
    let words = Words {
        action: "remove",
        done: "removed",
    };
    let question = |one: &str| format!("Delete container {one} with everything it has stored?");
    ask_after(context, doomed, question, Command::RemoveContainer, words)
}

/// `wipe`
pub fn wipe(context: &Context<'_>, doomed: &Doomed) -> Result<u8, CliError> {
    let words = Words {
        action: "wipe",
        done: "wiped",
    };
    let question = |one: &str| format!("Delete what container {one} has stored?");
    ask_after(context, doomed, question, Command::ContainerWipe, words)
}

/// Sends a command that cannot be taken back. A person is asked first, a script is not.
fn ask_after(
    context: &Context<'_>,
    doomed: &Doomed,
    question: impl Fn(&str) -> String,
    command: Command,
    words: Words<'_>,
) -> Result<u8, CliError> {
    let word = &doomed.target.container;
    let (client, container) = context.connect_to(word, Purpose::Change)?;
    let question = question(&named(&container)) + &end_of(&container);
    super::confirm(&doomed.confirm, &question)?;
    tell(context, client, &container, command, words)
}

fn named(container: &Container) -> String {
    format!("{} ({})", printable(&container.name), container.uuid)
}

/// What happens to one that runs.
fn end_of(container: &Container) -> String {
    match is_at_rest(container.state) {
        true => String::new(),
        false => format!(" It is {} and will be killed.", state_name(container.state)),
    }
}

/// A command without parameters about one container.
pub fn simple(
    context: &Context<'_>,
    word: &str,
    command: Command,
    words: Words<'_>,
) -> Result<u8, CliError> {
    let (client, container) = context.connect_to(word, Purpose::Change)?;
    tell(context, client, &container, command, words)
}

fn tell(
    context: &Context<'_>,
    client: Client,
    container: &Container,
    command: Command,
    words: Words<'_>,
) -> Result<u8, CliError> {
    let request = client::about(command, &container.uuid);
    let done = format!("container {} {}", container.name, words.done);
    let words = Words {
        done: &done,
        ..words
    };
    context.ask(client, request, Code::Response, words)
}
