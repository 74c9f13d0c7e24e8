//! The log: standard error for whoever runs the daemon, and files.

use std::{
    env,
    io::{self, IsTerminal},
    path::Path,
};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::log_files::LogFiles;

/// What is logged, if not `info`.
const VARIABLE: &str = "CML_LOG";

/// Starts logging.
///
/// # Errors
/// The directory cannot be made or written.
pub fn start(dir: &Path) -> io::Result<()> {
    let files = LogFiles::open(dir)?;
    let wish = env::var(VARIABLE).ok();
    let filter = filter(wish.as_deref());
    let terminal = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(filter)
        .with(terminal)
        .with(fmt::layer().with_writer(files).with_ansi(false))
        .init();
    if let Some(wish) = wish.filter(|wish| wish.parse::<Targets>().is_err()) {
        tracing::warn!(
            wish,
            "CML_LOG means nothing, so `info` is logged; try `debug`"
        );
    }
    Ok(())
}

/// A level, or levels per part of the daemon: `debug`, `info,cml_container=trace`. Nonsense counts as
/// nothing: a device must not refuse to run because of its log.
fn filter(wish: Option<&str>) -> Targets {
    wish.and_then(|wish| wish.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_are_set_for_all_or_for_a_part_and_nonsense_is_info() {
        let one = filter(Some("info,cml_container=trace"));
        assert!(one.would_enable("cml_container::actor", &Level::TRACE));
        assert!(!one.would_enable("cml_gateway", &Level::DEBUG));
        for nonsense in [None, Some("x=loud")] {
            assert!(filter(nonsense).would_enable("x", &Level::INFO));
            assert!(!filter(nonsense).would_enable("x", &Level::DEBUG));
        }
    }
}
