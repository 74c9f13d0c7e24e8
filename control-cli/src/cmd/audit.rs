//! The audit log.

use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::Context;
use crate::{
    client,
    exit::CliError,
    render::Words,
    resolve::{self, Purpose},
};

/// `audit list`. A container that was removed has a log still, but a UUID only.
pub fn list(context: &Context<'_>, word: Option<&str>, last: Option<u32>) -> Result<u8, CliError> {
    let (client, uuid) = match word {
        None => (context.connect()?, None),
        Some(word) => match resolve::uuid(word) {
            Some(uuid) => (context.connect()?, Some(uuid)),
            None => {
                let (client, container) = context.connect_to(word, Purpose::Look)?;
                (client, Some(container.uuid))
            }
        },
    };
    let request = ControllerToDaemon {
        container_uuids: uuid.into_iter().collect(),
        audit_limit: last,
        ..client::bare(Command::AuditList)
    };
    let words = Words {
        action: "audit list",
        done: "",
    };
    context.ask(client, request, Code::AuditRecords, words)
}

/// `audit verify`
pub fn verify(context: &Context<'_>) -> Result<u8, CliError> {
    let words = Words {
        action: "audit verify",
        done: "",
    };
    let request = client::bare(Command::AuditVerify);
    context.ask(context.connect()?, request, Code::AuditVerdict, words)
}
