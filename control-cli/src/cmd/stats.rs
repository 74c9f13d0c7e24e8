//! `stats`: what containers use, once or again and again.

use std::{
    io::{self, IsTerminal, Write},
    thread::sleep,
    time::Duration,
};

use cml_wire::proto::{
    ContainerStats, ControllerToDaemon, DaemonToController, controller_to_daemon::Command,
    daemon_to_controller::Code,
};
use serde_json::Value;

use super::Context;
use crate::{
    client::{self, Client},
    exit::{self, CliError},
    render::{self, Format, Words},
    resolve::Purpose,
};

const WORDS: Words<'static> = Words {
    action: "stats",
    done: "",
};
/// Between the two looks that a share of processors is made of, when they are not repeated anyway.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Puts the cursor into the upper left corner and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// `stats`
pub fn stats(
    context: &Context<'_>,
    word: Option<&str>,
    watch: Option<u32>,
) -> Result<u8, CliError> {
    let (mut client, request) = match word {
        None => (context.connect()?, client::bare(Command::ContainerStats)),
        Some(word) => {
            let (client, container) = context.connect_to(word, Purpose::Look)?;
            (
                client,
                client::about(Command::ContainerStats, &container.uuid),
            )
        }
    };
    match (watch, context.format) {
        (Some(seconds), _) => {
            let pause = Duration::from_secs(seconds.into());
            repeat(context, &mut client, &request, pause)
        }
        (None, Format::Table { width }) => {
            let first = client.call(request.clone())?;
            if !exit::succeeded(&first, Code::ContainerStats) || first.container_stats.is_empty() {
                return context.show(&first, Code::ContainerStats, WORDS);
            }
            sleep(LOOK_AGAIN);
            let reply = client.call(request)?;
            if !exit::succeeded(&reply, Code::ContainerStats) {
                return context.show(&reply, Code::ContainerStats, WORDS);
            }
            write(&render::stats::table(
                &reply.container_stats,
                &first.container_stats,
                width,
            ))?;
            Ok(exit::OK)
        }
        (None, _) => context.ask(client, request, Code::ContainerStats, WORDS),
    }
}

/// Until somebody ends it, or the daemon goes.
fn repeat(
    context: &Context<'_>,
    client: &mut Client,
    request: &ControllerToDaemon,
    pause: Duration,
) -> Result<u8, CliError> {
    let mut earlier = Vec::new();
    loop {
        let reply = client.call(request.clone())?;
        if !exit::succeeded(&reply, Code::ContainerStats) {
            return context.show(&reply, Code::ContainerStats, WORDS);
        }
        write(&shown(context.format, &reply, &earlier))?;
        earlier = reply.container_stats;
        sleep(pause);
    }
}

fn shown(format: Format, reply: &DaemonToController, earlier: &[ContainerStats]) -> String {
    match format {
        Format::Table { width } => {
            let table = render::stats::table(&reply.container_stats, earlier, width);
            match io::stdout().is_terminal() {
                true => format!("{CLEAR}{table}"),
                false => format!("{table}\n"),
            }
        }
        // A document a line.
        Format::Json => {
            let all: Vec<_> = reply
                .container_stats
                .iter()
                .map(render::stats::json)
                .collect();
            format!("{}\n", Value::from(all))
        }
        Format::Text => render::reply(format, reply, Code::ContainerStats, WORDS).out,
    }
}

fn write(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}
