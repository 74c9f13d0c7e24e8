//! `start` and `stop`: the two commands that may need a PIN (protocol.md 3.5, 3.6, 4.4).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use cml_wire::proto::{
    ContainerStartParams, ContainerState, ControllerToDaemon, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
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
    let (mut client, container) = context.connect_to(word, Purpose::Change)?;
    let command = Command::ContainerStart;
    let reply = ask(context, &mut client, &container, key, setup, command)?;
    let done = format!("container {} started", container.name);
    let words = Words {
        action: "start",
        done: &done,
    };
    context.show(&reply, Code::Response, words)
}

/// `stop`. The answer comes when the shutdown has begun; scripts see it at once, people when it is over.
pub fn stop(context: &Context<'_>, word: &str, key: Key, wait: bool) -> Result<u8, CliError> {
    let (mut client, container) = context.connect_to(word, Purpose::Change)?;
    let reply = match container.state == i32::from(ContainerState::Shutdown) {
        // As whoever has begun it was told; the daemon would call it not running (protocol.md 3.6).
        true => stop_begun(),
        false => ask(
            context,
            &mut client,
            &container,
            key,
            None,
            Command::ContainerStop,
        )?,
    };
    let wait = wait && exit::succeeded(&reply, Code::Response);
    let done = match wait {
        true => format!("container {} stopped", container.name),
        false => format!("container {} is stopping", container.name),
    };
    let words = Words {
        action: "stop",
        done: &done,
    };
    if wait && context.format == Format::Text {
        let status = context.show(&reply, Code::Response, words)?;
        return wait_for_end(&mut client, &container, STOP_LIMIT).map(|()| status);
    }
    if wait {
        wait_for_end(&mut client, &container, STOP_LIMIT)?;
    }
    context.show(&reply, Code::Response, words)
}

fn stop_begun() -> DaemonToController {
    DaemonToController {
        code: Code::Response.into(),
        response: Some(Response::ContainerStopOk.into()),
        ..Default::default()
    }
}

/// Waits until the container shuts down no longer. One that is not there any more has stopped, and so has one that
/// somebody has started again.
fn wait_for_end(
    client: &mut Client,
    container: &Container,
    limit: Duration,
) -> Result<(), CliError> {
    let end = Instant::now() + limit;
    let [mut pause, longest] = LOOK_AGAIN;
    let name = || printable(&container.name);
    loop {
        let reply = client.call(client::about(Command::GetContainerStatus, &container.uuid))?;
        if reply.code != i32::from(Code::ContainerStatus) {
            return Err(CliError::NotToldOfEnd {
                name: name(),
                reason: printable(&exit::reason(&reply)),
            });
        }
        let mut found = reply.container_status.iter();
        if !found.any(|one| one.state() == ContainerState::Shutdown) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(CliError::NotStopped(name()));
        }
        sleep(pause);
        pause = (pause * 2).min(longest);
    }
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

/// What the daemon answers to a command that may need a PIN.
fn ask(
    context: &Context<'_>,
    client: &mut Client,
    container: &Container,
    key: Key,
    setup: Option<bool>,
    command: Command,
) -> Result<DaemonToController, CliError> {
    let key = pin::obtain(client, container, key, context.format)?;
    let mut request = client::about(command, &container.uuid);
    request.container_start_params = Some(ContainerStartParams {
        // The sender wipes this copy.
        key: key.map(|key| key.as_str().to_owned()),
        setup,
        ..Default::default()
    });
    Ok(client.call(request)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{os::unix::net::UnixListener, thread};

    use cml_wire::{frame, proto::ContainerStatus};

    use super::*;

    #[test]
    fn a_stop_that_takes_too_long_is_an_error_and_so_a_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut status = ContainerStatus::default();
        status.set_state(ContainerState::Shutdown);
        let reply = DaemonToController {
            code: Code::ContainerStatus.into(),
            container_status: vec![status],
            ..Default::default()
        };
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = frame::read_frame::<ControllerToDaemon>(&mut stream).unwrap();
            let bytes = frame::encode(&reply).unwrap();
            std::io::Write::write_all(&mut stream, &bytes).unwrap();
            asked
        });
        let mut client = Client::connect(&path).unwrap();
        let container = Container {
            uuid: "u".into(),
            name: "web".into(),
            state: 0,
        };
        let ended = wait_for_end(&mut client, &container, Duration::ZERO);
        assert!(matches!(ended, Err(CliError::NotStopped(name)) if name == "web"));
        assert!(daemon.join().unwrap().is_some());
    }
}
