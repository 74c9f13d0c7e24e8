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

/// The right to end the machine. Who was told so and was started by its first program has it: on a device that is the
/// daemon, and neither is one that somebody tries out, nor one that a service manager runs among other things.
#[derive(Debug, Clone, Copy)]
pub struct Master(bool);

impl Master {
    /// `told`: whether whoever has started this process has said that the machine is its own. Looks who that was; asked
    /// before it can have become an orphan.
    pub fn at_start(told: bool) -> Self {
        Self(told && getppid() == Some(Pid::INIT))
    }

    /// Whether this process has the right.
    pub fn has_the_right(self) -> bool {
        self.0
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
                "the machine is not its own: cmld was not started with --device by process 1",
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
        let master = Master::at_start(true);
        assert!(!master.has_the_right());
        for power in [Power::Restart, Power::Off] {
            let refused = master.end_machine(power).unwrap_err().to_string();
            assert!(refused.contains("not its own"), "{refused}");
        }
    }
}
