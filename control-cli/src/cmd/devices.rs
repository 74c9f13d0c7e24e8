//! Devices of a container.

use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::Context;
use crate::{client, exit::CliError, render::Words, resolve::Purpose};

/// `dev_access`; the rule may be one argument or several.
pub fn access(context: &Context<'_>, word: &str, rule: &[String]) -> Result<u8, CliError> {
    let (client, container) = context.connect_to(word, Purpose::Change)?;
    let request = ControllerToDaemon {
        dev_rule: Some(rule.join(" ")),
        ..client::about(Command::ContainerDevAccess, &container.uuid)
    };
    let done = format!("container {}: {}", container.name, rule.join(" "));
    let words = Words {
        action: "dev_access",
        done: &done,
    };
    context.ask(client, request, Code::Response, words)
}
