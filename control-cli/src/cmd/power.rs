//! `start` and `stop`: the two commands that may need a PIN (protocol.md 3.5, 3.6, 4.4).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use cml_wire::proto::{
    ContainerStartParams, ContainerState, ControllerToDaemon, DaemonToController,
    controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::Context;
use crate::{
    cli::Key,
    client::{self, Client},
    exit::{self, CliError},
    pin,
    render::{Format, Words, printable},
    resolve::{Container, Purpose},
};

/// A guest has 45 s before it is killed (runtime.md 0.5), and its volumes may take a while to close.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks whether it has stopped, at first and later.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// `start`
pub fn start(context: &Context<'_>, word: &str, key: Key, setup: bool) -> Result<u8, CliError> {
    // Counts only if present (protocol.md 2.1).
    let setup = setup.then_some(true);
    let (_, container, reply) = ask(context, word, key, setup, Command::ContainerStart)?;
    let done = format!("container {} started", container.name);
    let words = Words {
        action: "start",
        done: &done,
    };
    context.show(&reply, Code::Response, words)
}

/// `stop`. The answer comes when the shutdown has begun; scripts see it at once, people when it is over.
pub fn stop(context: &Context<'_>, word: &str, key: Key, wait: bool) -> Result<u8, CliError> {
    let (mut client, container, reply) = ask(context, word, key, None, Command::ContainerStop)?;
    let begun = exit::succeeded(&reply, Code::Response);
    let done = match wait {
        true => format!("container {} stopped", container.name),
        false => format!("container {} is stopping", container.name),
    };
    let words = Words {
        action: "stop",
        done: &done,
    };
    if context.format == Format::Text || !begun || !wait {
        let status = context.show(&reply, Code::Response, words)?;
        if begun && wait {
            return wait_for_end(&mut client, &container).map(|stopped| stopped.unwrap_or(status));
        }
        return Ok(status);
    }
    match wait_for_end(&mut client, &container)? {
        None => context.show(&reply, Code::Response, words),
        Some(status) => Ok(status),
    }
}

/// Waits until the container has stopped; a status if it has not.
fn wait_for_end(client: &mut Client, container: &Container) -> Result<Option<u8>, CliError> {
    let end = Instant::now() + STOP_LIMIT;
    let [mut pause, longest] = LOOK_AGAIN;
    loop {
        let reply = client.call(client::about(Command::GetContainerStatus, &container.uuid))?;
        if !is_stopping(&reply) {
            return Ok(None);
        }
        if Instant::now() > end {
            let name = printable(&container.name);
            exit::complain(&format!(
                "stop: container {name} has not stopped yet; `control state {name}` tells when it has"
            ));
            return Ok(Some(exit::REFUSED));
        }
        sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// One that is not there any more has stopped, and so has one that somebody has started again. A daemon that does not
/// tell is not asked again.
fn is_stopping(reply: &DaemonToController) -> bool {
    let one = reply.container_status.first();
    one.is_some_and(|one| {
        matches!(
            one.state(),
            ContainerState::Shutdown
                | ContainerState::Running
                | ContainerState::Setup
                | ContainerState::Freezing
                | ContainerState::Frozen
        )
    })
}

/// `change_pin`: of a container, or of the device.
pub fn change_pin(context: &Context<'_>, word: Option<&str>) -> Result<u8, CliError> {
    let (client, container) = match word {
        None => (context.connect()?, None),
        Some(word) => {
            let (client, container) = context.connect_to(word, Purpose::Change)?;
            (client, Some(container))
        }
    };
    let (request, done) = match &container {
        None => (
            client::bare(Command::ChangeDevicePin),
            "PIN of the device changed".to_owned(),
        ),
        Some(container) => (
            client::about(Command::ContainerChangeTokenPin, &container.uuid),
            format!("PIN of container {} changed", container.name),
        ),
    };
    let (old, new) = pin::obtain_change(container.as_ref(), context.format)?;
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

/// The container and what the daemon answered.
fn ask(
    context: &Context<'_>,
    word: &str,
    key: Key,
    setup: Option<bool>,
    command: Command,
) -> Result<(Client, Container, DaemonToController), CliError> {
    let (mut client, container) = context.connect_to(word, Purpose::Change)?;
    let key = pin::obtain(&mut client, &container, key, context.format)?;
    let mut request = client::about(command, &container.uuid);
    request.container_start_params = Some(ContainerStartParams {
        // The sender wipes this copy.
        key: key.map(|key| key.as_str().to_owned()),
        setup,
        ..Default::default()
    });
    let reply = client.call(request)?;
    Ok((client, container, reply))
}
