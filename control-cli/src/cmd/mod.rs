//! One file per family of commands; here is what they share.

mod audit;
mod check;
mod containers;
mod device;
mod devices;
mod guestos;
mod ifaces;
mod logs;
mod power;
mod run;
mod stats;

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read, Write},
    path::Path,
};

use clap::CommandFactory;
use cml_wire::proto::{
    ControllerToDaemon, DaemonToController, controller_to_daemon as wire,
    daemon_to_controller::Code,
};

use crate::{
    cli::{self, Cli, Command, Confirm},
    client::Client,
    exit::{self, CliError},
    render::{self, Format, Shown, Words},
    resolve::{self, Container, Purpose},
    tty,
};

/// What every command needs.
#[derive(Debug)]
pub struct Context<'a> {
    socket: &'a Path,
    format: Format,
}

impl Context<'_> {
    fn connect(&self) -> Result<Client, CliError> {
        Ok(Client::connect(self.socket)?)
    }

    fn connect_to(&self, word: &str, purpose: Purpose) -> Result<(Client, Container), CliError> {
        let mut client = self.connect()?;
        let container = resolve::container(&mut client, word, purpose)?;
        Ok((client, container))
    }

    /// Sends the request on the connection and shows the one reply.
    fn ask(
        &self,
        mut client: Client,
        request: ControllerToDaemon,
        expected: Code,
        words: Words<'_>,
    ) -> Result<u8, CliError> {
        let reply = client.call(request)?;
        self.show(&reply, expected, words)
    }

    fn show(
        &self,
        reply: &DaemonToController,
        expected: Code,
        words: Words<'_>,
    ) -> Result<u8, CliError> {
        let Shown {
            out,
            err,
            warnings,
            status,
        } = render::reply(self.format, reply, expected, words);
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(out.as_bytes())
            .and_then(|()| stdout.flush());
        for warning in warnings {
            exit::complain(&format!("warning: {warning}"));
        }
        if !err.is_empty() {
            exit::complain(&err);
        }
        written.map_err(CliError::Output)?;
        Ok(status)
    }
}

/// Carries out the command; the result is the exit status.
///
/// # Errors
/// [`CliError`] when there is no reply to show.
pub fn dispatch(cli: Cli) -> Result<u8, CliError> {
    let socket = cli.socket();
    let context = Context {
        socket: &socket,
        format: format(cli.format),
    };
    match cli.command {
        Command::List { system, .. } => containers::list(&context, system),
        Command::ListGuestos => containers::list_guestos(&context),
        Command::PushGuestosConfig { conf, sig, cert } => {
            guestos::push(&context, &conf, &sig, &cert)
        }
        Command::RemoveGuestos { name } => guestos::remove(&context, &name),
        Command::CaRegister { cert } => guestos::register_ca(&context, &cert),
        Command::CaList => guestos::list_cas(&context),
        Command::CaRemove { id } => guestos::remove_ca(&context, &id),
        Command::Create { conf, sig, cert } => {
            containers::create(&context, &conf, sig.as_deref().zip(cert.as_deref()))
        }
        Command::UpdateConfig {
            container,
            conf,
            sig,
            cert,
            confirm,
        } => {
            let signed = sig.as_deref().zip(cert.as_deref());
            containers::update_config(&context, &container, &conf, signed, &confirm)
        }
        Command::Remove(doomed) => containers::remove(&context, &doomed),
        Command::Wipe(doomed) => containers::wipe(&context, &doomed),
        Command::WipeDevice(confirm) => device::wipe(&context, &confirm),
        Command::PullCsr { file } => device::pull_csr(&context, &file),
        Command::PushCert { file } => device::push_cert(&context, &file),
        Command::SetProvisioned(confirm) => device::set_provisioned(&context, &confirm),
        Command::Reboot(confirm) => device::reboot(&context, &confirm),
        Command::DestroySystem(confirm) => device::destroy(&context, &confirm),
        Command::DeviceStats => device::stats(&context),
        Command::RetrieveLogs { dir, remove } => logs::retrieve(&context, &dir, remove),
        Command::Start {
            container,
            key,
            setup,
            ..
        } => power::start(&context, &container, key, setup),
        Command::Stop {
            container,
            key,
            no_wait,
        } => power::stop(&context, &container, key, !no_wait),
        Command::ChangePin { container } => power::change_pin(&context, container.as_deref()),
        Command::State { container } => containers::state(&context, &container),
        Command::Config { container } => containers::config(&context, &container),
        Command::Reload => device::reload(&context),
        Command::Check(check) => check::check(context.format, &check),
        Command::Run(run) => run::run(&context, &run),
        Command::Freeze(target) => containers::simple(
            &context,
            &target.container,
            wire::Command::ContainerFreeze,
            Words {
                action: "freeze",
                done: "frozen",
            },
        ),
        Command::Unfreeze(target) => containers::simple(
            &context,
            &target.container,
            wire::Command::ContainerUnfreeze,
            Words {
                action: "unfreeze",
                done: "running again",
            },
        ),
        Command::AssignIface(given) => ifaces::assign(&context, &given),
        Command::UnassignIface(given) => ifaces::unassign(&context, &given),
        Command::Ifaces(target) => ifaces::list(&context, &target.container),
        Command::Stats { container, watch } => stats::stats(&context, container.as_deref(), watch),
        Command::DevAccess { container, rule } => devices::access(&context, &container, &rule),
        Command::AllowAudio(target) => containers::simple(
            &context,
            &target.container,
            wire::Command::ContainerAllowaudio,
            Words {
                action: "allow_audio",
                done: "may use the sound devices",
            },
        ),
        Command::DenyAudio(target) => containers::simple(
            &context,
            &target.container,
            wire::Command::ContainerDenyaudio,
            Words {
                action: "deny_audio",
                done: "may not use the sound devices",
            },
        ),
        Command::GetProvisioned => device::get_provisioned(&context),
        Command::Audit {
            what: cli::Audit::List { container, last },
        } => audit::list(&context, container.as_deref(), Some(last)),
        Command::Audit {
            what: cli::Audit::Verify,
        } => audit::verify(&context),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "control", &mut script);
            io::stdout().write_all(&script).map_err(CliError::Output)?;
            Ok(exit::OK)
        }
    }
}

fn format(wish: cli::Format) -> Format {
    match wish {
        cli::Format::Text => Format::Text,
        cli::Format::Json => Format::Json,
        cli::Format::Table => Format::Table { width: width() },
        cli::Format::Auto if io::stdout().is_terminal() => Format::Table { width: width() },
        cli::Format::Auto => Format::Text,
    }
}

/// Columns of the terminal that results go to.
fn width() -> Option<usize> {
    let columns = tty::window_size().map(|(columns, _)| columns as usize);
    columns.filter(|_| io::stdout().is_terminal())
}

/// Asks a person whether to go on. A script is not asked.
fn confirm(confirm: &Confirm, question: &str) -> Result<(), CliError> {
    if confirm.yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(CliError::Declined),
    }
}

/// What the file holds; `-` is standard input.
fn input(path: &Path) -> Result<Vec<u8>, CliError> {
    if path != "-" {
        return file(path);
    }
    let mut text = Vec::new();
    let read = io::stdin().read_to_end(&mut text);
    read.map(|_| text).map_err(|source| CliError::File {
        path: "standard input".into(),
        source,
    })
}

fn file(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|source| CliError::File {
        path: path.to_owned(),
        source,
    })
}
