//! `start` and `stop`: the two commands that may need a PIN (protocol.md 3.5, 3.6, 4.4).

use cml_wire::proto::{
    ContainerStartParams, controller_to_daemon::Command, daemon_to_controller::Code,
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
