//! Guest operating systems and the CAs that vouch for them.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use cml_wire::proto::{
    ControllerToDaemon, Progress,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

use super::{Context, file};
use crate::{
    client,
    exit::{self, CliError},
    render::{Words, printable},
};

/// `push_guestos_config`: waits for the final reply and shows meanwhile how far it is, on a terminal.
pub fn push(context: &Context<'_>, conf: &Path, sig: &Path, cert: &Path) -> Result<u8, CliError> {
    let shows_progress = io::stderr().is_terminal();
    let request = ControllerToDaemon {
        guestos_config_file: Some(file(conf)?),
        guestos_config_signature: Some(file(sig)?),
        guestos_config_certificate: Some(file(cert)?),
        want_progress: shows_progress.then_some(true),
        ..client::bare(Command::PushGuestosConfig)
    };
    let words = Words {
        action: "push_guestos_config",
        done: "the guest OS is installed",
    };
    let mut client = context.connect()?;
    let mut line = Line::default();
    let mut reply = client.call(request)?;
    loop {
        match exit::known_response(&reply) {
            // As the old client: a line for people, and nothing on standard output before the end.
            Some(Response::GuestosMgrInstallStarted) => exit::say("the installation has begun"),
            Some(Response::GuestosMgrInstallWaiting) => line.show(reply.progress.as_ref()),
            _ => {
                line.end();
                return context.show(&reply, Code::Response, words);
            }
        }
        reply = client.receive().inspect_err(|_| line.end())?;
    }
}

/// `remove_guestos`
pub fn remove(context: &Context<'_>, name: &str) -> Result<u8, CliError> {
    let request = ControllerToDaemon {
        guestos_name: Some(name.to_owned()),
        ..client::bare(Command::RemoveGuestos)
    };
    let done = format!("guest OS {name} removed");
    let words = Words {
        action: "remove_guestos",
        done: &done,
    };
    context.ask(context.connect()?, request, Code::Response, words)
}

/// `ca_register`
pub fn register_ca(context: &Context<'_>, cert: &Path) -> Result<u8, CliError> {
    let request = ControllerToDaemon {
        guestos_rootcert: Some(file(cert)?),
        ..client::bare(Command::RegisterNewca)
    };
    let words = Words {
        action: "ca_register",
        done: "the CA is trusted",
    };
    context.ask(context.connect()?, request, Code::Response, words)
}

/// `ca_list`
pub fn list_cas(context: &Context<'_>) -> Result<u8, CliError> {
    let words = Words {
        action: "ca_list",
        done: "",
    };
    let request = client::bare(Command::CaList);
    context.ask(context.connect()?, request, Code::CaList, words)
}

/// `ca_remove`
pub fn remove_ca(context: &Context<'_>, id: &str) -> Result<u8, CliError> {
    let request = ControllerToDaemon {
        ca_id: Some(id.to_owned()),
        ..client::bare(Command::CaRemove)
    };
    let words = Words {
        action: "ca_remove",
        done: "the CA is trusted no longer",
    };
    context.ask(context.connect()?, request, Code::Response, words)
}

/// A line on standard error that is written again and again.
#[derive(Debug, Default)]
struct Line {
    shown: bool,
}

impl Line {
    fn show(&mut self, progress: Option<&Progress>) {
        if let Some(progress) = progress {
            self.shown = true;
            // To the line's beginning, then erase what is left of the line before.
            let _ = write!(io::stderr(), "\r{}\x1b[K", words(progress));
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// How far it is, in MiB.
fn words(progress: &Progress) -> String {
    let name = printable(&progress.name);
    let mib = |bytes: u64| bytes >> 20;
    match progress.total {
        0 => format!("{name}: {} MiB", mib(progress.done)),
        total => {
            let percent = u128::from(progress.done.min(total)) * 100 / u128::from(total);
            format!(
                "{name}: {} of {} MiB, {percent} %",
                mib(progress.done),
                mib(total)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_mib_and_percent() {
        let told = |done, total| {
            words(&Progress {
                name: "os-1\n".into(),
                done,
                total,
            })
        };
        assert_eq!(told(0, 0), "os-1\\n: 0 MiB");
        assert_eq!(told(5 << 20, 10 << 20), "os-1\\n: 5 of 10 MiB, 50 %");
        assert_eq!(
            told(u64::MAX, u64::MAX - 1),
            "os-1\\n: 17592186044415 of 17592186044415 MiB, 100 %"
        );
    }
}
