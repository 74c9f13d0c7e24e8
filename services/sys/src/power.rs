//! The machine as a whole.

use rustix::{
    process::{Pid, getppid},
    system::{RebootCommand, reboot},
};

use crate::error::{Context, Error, Result};

/// What becomes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It starts anew.
    Restart,
    /// It is switched off.
    Off,
}

/// The right to end the machine. Who was started by its first program has it: on a device that is the daemon, and a
/// daemon that somebody tries out on a machine of his own never is.
#[derive(Debug, Clone, Copy)]
pub struct Master(bool);

impl Master {
    /// Looks who has started this process; asked before it can have become an orphan.
    pub fn at_start() -> Self {
        Self(getppid() == Some(Pid::INIT))
    }

    /// Writes out what the disks have not got yet, and ends the machine at once: no program is asked to end. In a
    /// process namespace of its own that ends the namespace only.
    ///
    /// # Errors
    /// This process has not the right, or what the kernel said. The machine runs on then.
    pub fn end_machine(self, power: Power) -> Result<()> {
        if !self.0 {
            return Err(Error::invalid(
                "end",
                "the machine",
                "cmld was not started by the first program of this machine (process 1), so the machine is not its own",
            ));
        }
        rustix::fs::sync();
        let (command, action) = match power {
            Power::Restart => (RebootCommand::Restart, "restart"),
            Power::Off => (RebootCommand::PowerOff, "switch off"),
        };
        reboot(command).context(action, "the machine")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_of_an_operator_never_ends_the_machine() {
        // A test is never started by process 1.
        let master = Master::at_start();
        for power in [Power::Restart, Power::Off] {
            let refused = master.end_machine(power).unwrap_err().to_string();
            assert!(refused.contains("not its own"), "{refused}");
        }
    }
}
