//! Commands about the device as a whole.

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
