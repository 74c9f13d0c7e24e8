//! Commands about the device as a whole.

use std::io::{self, BufRead, IsTerminal};

use cml_wire::proto::{controller_to_daemon::Command, daemon_to_controller::Code};

use super::Context;
use crate::{client, exit::CliError, render::Words};

/// `reload`
pub fn reload(context: &Context<'_>) -> Result<u8, CliError> {
    let request = client::bare(Command::ReloadContainers);
    let words = Words {
        action: "reload",
        done: "stopped containers reloaded",
    };
    context.ask(context.connect()?, request, Code::Response, words)
}

/// `get_provisioned`
pub fn get_provisioned(context: &Context<'_>) -> Result<u8, CliError> {
    let request = client::bare(Command::GetProvisioned);
    let words = Words {
        action: "get_provisioned",
        done: "",
    };
    context.ask(
        context.connect()?,
        request,
        Code::DeviceProvisionedState,
        words,
    )
}

/// `wipe_device`; a person is asked, a script is not.
pub fn wipe(context: &Context<'_>, yes: bool) -> Result<u8, CliError> {
    let client = context.connect()?;
    if !yes && io::stdin().is_terminal() && !confirmed("Delete what ALL containers have stored?") {
        return Err(CliError::Declined);
    }
    let words = Words {
        action: "wipe_device",
        done: "all containers wiped",
    };
    context.ask(
        client,
        client::bare(Command::WipeDevice),
        Code::Response,
        words,
    )
}

fn confirmed(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
