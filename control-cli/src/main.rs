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
mod tty;

use std::{env, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    tty::restore_on_panic();
    let cli = cli::Cli::parse_from(cli::normalise(env::args_os()));
    match cmd::dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            error.report();
            ExitCode::from(error.status())
        }
    }
}
