//! The log: standard error for whoever runs the daemon, and a file per day.

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
};

use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged, if not `info`.
const VARIABLE: &str = "CML_LOG";
/// Two weeks, so that a device that nobody looks after does not fill up.
const FILES_KEPT: usize = 14;

/// Starts logging.
///
/// # Errors
/// The directory cannot be made or written.
pub fn start(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let files = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("cml-daemon")
        .max_log_files(FILES_KEPT)
        .build(dir)
        .map_err(io::Error::other)?;
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(filter)
        .with(terminal)
        .with(fmt::layer().with_writer(files).with_ansi(false))
        .init();
    Ok(())
}
