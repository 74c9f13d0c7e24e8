//! Log files, from the device into a directory.

use std::{fs, io, path::Path};

use cml_wire::proto::{
    ControllerToDaemon, LogMessage, controller_to_daemon::Command, daemon_to_controller::Code,
};

use super::Context;
use crate::{
    client,
    exit::{self, CliError},
    render::{Words, printable},
    store::Incoming,
};

/// `retrieve_logs`: progress on standard error, the last reply on standard output (protocol.md 4.3). The files are
/// on our disk before the daemon is told that it may delete them.
pub fn retrieve(context: &Context<'_>, dir: &Path, remove: bool) -> Result<u8, CliError> {
    let found = fs::metadata(dir).and_then(|found| match found.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    found.map_err(|source| CliError::Store {
        path: dir.to_owned(),
        source,
    })?;
    let mut client = context.connect()?;
    client.send(client::bare(Command::GetLastLog))?;
    let mut stored = Vec::new();
    let mut open: Option<Incoming> = None;
    let reply = loop {
        let reply = client.receive()?;
        let last = match Code::try_from(reply.code) {
            Ok(Code::LogMessageFragment) => false,
            Ok(Code::LogMessageFinal) => true,
            _ => break reply,
        };
        let LogMessage { name, msg } = reply.log_message.unwrap_or_default();
        let mut file = match open.take().filter(|file| file.name() == name) {
            Some(file) => file,
            None => Incoming::new(dir, &name)?,
        };
        file.append(&msg)?;
        if !last {
            open = Some(file);
            continue;
        }
        let path = file.finish()?;
        exit::say(&printable(&format!("{name} -> {}", path.display())));
        stored.push(name);
    };
    let done = match stored.len() {
        1 => "1 log file retrieved".to_owned(),
        many => format!("{many} log files retrieved"),
    };
    let words = Words {
        action: "retrieve_logs",
        done: &done,
    };
    if !remove || stored.is_empty() || !exit::succeeded(&reply, Code::Response) {
        return context.show(&reply, Code::Response, words);
    }
    let removal = ControllerToDaemon {
        remove_logs: Some(true),
        remove_logs_named: stored,
        ..client::bare(Command::GetLastLog)
    };
    context.ask(client, removal, Code::Response, words)
}
