//! The machine as a whole.

use rustix::system::{RebootCommand, reboot};

use crate::error::{Context, Result};

/// Writes out what the disks have not got yet, and restarts the machine at once: no program is asked to end. In a
/// process namespace of its own it only ends that.
///
/// # Errors
/// What the kernel said; the machine runs on then.
pub fn restart() -> Result<()> {
    rustix::fs::sync();
    reboot(RebootCommand::Restart).context("restart", "the machine")
}
