//! `control`: the command line of the container management layer (protocol.md 4).
//!
//! One request per invocation over the control socket: [`cli`] says what may be asked, [`cmd`] asks it,
//! [`render`] shows the reply, [`exit`] turns it into a status.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod cmd;
mod exit;
mod pin;
mod render;
mod resolve;
mod store;
mod tty;
mod warden;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

fn main() -> ExitCode {
    if warden::serve(env::args_os()).is_some() {
        return ExitCode::SUCCESS;
    }
    tty::restore_on_panic();
    let words = cli::normalise(env::args_os());
    let cli = cli::Cli::try_parse_from(&words).unwrap_or_else(|wrong| {
        // Help and version are no mistakes.
        if wrong.use_stderr() && cli::wants_json(&words) {
            let document = render::no_reply(&wrong.to_string());
            let _ = io::stdout().write_all(document.as_bytes());
        }
        wrong.exit()
    });
    // The output of `run` belongs to the program that it runs.
    let document = cli.format == cli::Format::Json && !matches!(cli.command, cli::Command::Run(_));
    match cmd::dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if document {
                // The status tells as well, so nothing is lost when nobody reads.
                let _ = io::stdout().write_all(render::no_reply(&error.to_string()).as_bytes());
            }
            error.report();
            ExitCode::from(error.status())
        }
    }
}
