//! The log: standard error for whoever runs the daemon, and a file per day.

use std::path::Path;

use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged, if not `info`.
const VARIABLE: &str = "CML_LOG";
/// Two weeks, so that a device that nobody looks after does not fill up.
const FILES_KEPT: usize = 14;

/// Starts logging.
///
/// # Errors
/// The directory cannot be made or written.
pub fn start(dir: &Path) -> Result<(), InitError> {
    let files = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("cml-daemon")
        .max_log_files(FILES_KEPT)
        .build(dir)?;
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::registry()
        .with(filter)
        .with(fmt::layer().with_writer(std::io::stderr).with_target(false))
        .with(fmt::layer().with_writer(files).with_ansi(false))
        .init();
    Ok(())
}
