//! `start` and `stop`: the two commands that may need a PIN (protocol.md 3.5, 3.6, 4.4).

use cml_wire::proto::{
    ContainerStartParams, ControllerToDaemon, controller_to_daemon::Command,
    daemon_to_controller::Code,
};

use super::Context;
use crate::{cli::Key, client, exit::CliError, pin, render::Words};

/// `start`
pub fn start(context: &Context<'_>, word: &str, key: Key, setup: bool) -> Result<u8, CliError> {
    let words = Words {
        action: "start",
        done: "started",
    };
    // Counts only if present (protocol.md 2.1).
    let setup = setup.then_some(true);
    ask(context, word, key, setup, Command::ContainerStart, words)
}

/// `stop`
pub fn stop(context: &Context<'_>, word: &str, key: Key) -> Result<u8, CliError> {
    let words = Words {
        action: "stop",
        done: "is stopping",
    };
    ask(context, word, key, None, Command::ContainerStop, words)
}

/// `change_pin`: of a container, or of the device.
pub fn change_pin(context: &Context<'_>, word: Option<&str>) -> Result<u8, CliError> {
    let (client, request, done) = match word {
        None => {
            let request = client::bare(Command::ChangeDevicePin);
            (
                context.connect()?,
                request,
                "PIN of the device changed".into(),
            )
        }
        Some(word) => {
            let (client, container) = context.connect_to(word, false)?;
            let request = client::about(Command::ContainerChangeTokenPin, &container.uuid);
            let done = format!("PIN of container {} changed", container.name);
            (client, request, done)
        }
    };
    let (old, new) = pin::obtain_change(context.format)?;
    let request = ControllerToDaemon {
        // The sender wipes these copies.
        device_pin: Some(old.as_str().to_owned()),
        device_newpin: Some(new.as_str().to_owned()),
        ..request
    };
    let words = Words {
        action: "change_pin",
        done: &done,
    };
    context.ask(client, request, Code::Response, words)
}

fn ask(
    context: &Context<'_>,
    word: &str,
    key: Key,
    setup: Option<bool>,
    command: Command,
    words: Words<'_>,
) -> Result<u8, CliError> {
    let (mut client, container) = context.connect_to(word, false)?;
    let key = pin::obtain(&mut client, &container, key, context.format)?;
    let mut request = client::about(command, &container.uuid);
    request.container_start_params = Some(ContainerStartParams {
        // The sender wipes this copy.
        key: key.map(|key| key.as_str().to_owned()),
        setup,
        ..Default::default()
    });
    let done = format!("container {} {}", container.name, words.done);
    let words = Words {
        done: &done,
        ..words
    };
    context.ask(client, request, Code::Response, words)
}
