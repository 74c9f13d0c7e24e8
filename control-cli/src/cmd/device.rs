//! Commands about the device as a whole.

use std::path::Path;

use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::Context;
use crate::{
    cli::Confirm,
    client,
    exit::{self, CliError},
    render::{Format, Words},
    store,
};

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

/// `device_stats`
pub fn stats(context: &Context<'_>) -> Result<u8, CliError> {
    let request = client::bare(Command::GetDeviceStats);
    let words = Words {
        action: "device_stats",
        done: "",
    };
    context.ask(context.connect()?, request, Code::DeviceStats, words)
}

/// `wipe_device`
pub fn wipe(context: &Context<'_>, confirm: &Confirm) -> Result<u8, CliError> {
    let words = Words {
        action: "wipe_device",
        done: "all containers wiped",
    };
    let question = "Delete what ALL containers have stored?";
    ask_after(context, confirm, question, Command::WipeDevice, words)
}

/// `set_provisioned`
pub fn set_provisioned(context: &Context<'_>, confirm: &Confirm) -> Result<u8, CliError> {
    let words = Words {
        action: "set_provisioned",
        done: "the device is provisioned",
    };
    let question = "Allow only the life cycle of containers from now on? There is no way back.";
    ask_after(context, confirm, question, Command::SetProvisioned, words)
}

/// `reboot`
pub fn reboot(context: &Context<'_>, confirm: &Confirm) -> Result<u8, CliError> {
    let words = Words {
        action: "reboot",
        done: "all containers are stopped",
    };
    let question = "Stop all containers and reboot the device?";
    ask_after(context, confirm, question, Command::RebootDevice, words)
}

/// `destroy_system`
pub fn destroy(context: &Context<'_>, confirm: &Confirm) -> Result<u8, CliError> {
    let words = Words {
        action: "destroy_system",
        done: "the TPM of the device is cleared",
    };
    let question = "Make EVERYTHING on the device unreadable for ever?";
    ask_after(context, confirm, question, Command::DestroySystem, words)
}

/// `pull_csr`: the request goes into the file; the reply is shown only when there is none (protocol.md 4.3).
pub fn pull_csr(context: &Context<'_>, file: &Path) -> Result<u8, CliError> {
    let reply = context
        .connect()?
        .call(client::bare(Command::PullDeviceCsr))?;
    let done = format!("certificate request written to {}", file.display());
    let words = Words {
        action: "pull_csr",
        done: &done,
    };
    if reply.code == i32::from(Code::DeviceCsr)
        && let Some(csr) = &reply.device_csr
    {
        store::write(file, csr)?;
        // It is in the file now, and text output repeats nothing.
        if context.format == Format::Text {
            return Ok(exit::OK);
        }
    }
    context.show(&reply, Code::DeviceCsr, words)
}

/// `push_cert`; the file is read before the daemon is bothered.
pub fn push_cert(context: &Context<'_>, file: &Path) -> Result<u8, CliError> {
    let request = ControllerToDaemon {
        device_cert: Some(super::file(file)?),
        ..client::bare(Command::PushDeviceCert)
    };
    let words = Words {
        action: "push_cert",
        done: "the device has its certificate",
    };
    context.ask(context.connect()?, request, Code::Response, words)
}

/// Sends a command that cannot be taken back. A person is asked first, a script is not.
fn ask_after(
    context: &Context<'_>,
    confirm: &Confirm,
    question: &str,
    command: Command,
    words: Words<'_>,
) -> Result<u8, CliError> {
    // Connected first: nobody is asked for nothing.
    let connection = context.connect()?;
    super::confirm(confirm, question)?;
    context.ask(connection, client::bare(command), Code::Response, words)
}
