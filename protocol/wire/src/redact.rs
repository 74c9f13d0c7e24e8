//! What the log may show of messages that carry a PIN: that it is there, never what it is.

use std::fmt::{Debug, Formatter, Result};

use crate::proto::{ContainerStartParams, ControllerToDaemon};

impl Debug for ContainerStartParams {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ContainerStartParams")
            .field("key_given", &self.key.is_some())
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}

impl Debug for ControllerToDaemon {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ControllerToDaemon")
            .field("command", &self.command)
            .field("container_uuids", &self.container_uuids)
            .field("container_start_params", &self.container_start_params)
            .field("exec_command", &self.exec_command)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_typed_input_never_reach_a_log() {
        let request = ControllerToDaemon {
            container_start_params: Some(ContainerStartParams {
                key: Some("4711-secret".into()),
                ..Default::default()
            }),
            device_pin: Some("4711-secret".into()),
            device_newpin: Some("4711-secret".into()),
            exec_input: Some(b"4711-secret".to_vec()),
            ..Default::default()
        };
        assert!(!format!("{request:?}").contains("4711"));
    }
}
