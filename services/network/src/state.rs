//! What is known of the whole device for as long as it runs, beside the records of containers.

use std::path::{Path, PathBuf};

use cml_bus::api::network::NetworkError;
use cml_sys::{atomic, file, proc};
use serde::{Deserialize, Serialize};

use crate::record::Nic;

/// Interfaces that are missed at most. One that was unplugged for good is missed until the next boot.
const STRAYS: usize = 64;

/// What is written down. A field that is added gets `#[serde(default)]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    boot_id: String,
    /// Interfaces that were nowhere when their container ended.
    #[serde(default)]
    strays: Vec<Nic>,
    /// The host's forwarding was switched on by us.
    #[serde(default)]
    forwarding: bool,
}

/// The file.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    stored: Stored,
}

impl State {
    /// What this file says, if that was in this boot.
    pub fn open(path: &Path) -> Self {
        let boot_id = proc::boot_id().unwrap_or_default();
        let read = file::read(path).ok();
        let stored = read.and_then(|text| serde_json::from_slice::<Stored>(&text).ok());
        let stored = stored.filter(|stored| stored.boot_id == boot_id);
        Self {
            path: path.to_owned(),
            stored: stored.unwrap_or_else(|| Stored {
                boot_id,
                ..Stored::default()
            }),
        }
    }

    fn write(&self) -> Result<(), NetworkError> {
        let failed = |error: String| NetworkError::Store {
            path: self.path.display().to_string(),
            reason: error,
        };
        let text = serde_json::to_vec(&self.stored).map_err(|error| failed(error.to_string()))?;
        atomic::write_volatile(&self.path, &text, 0o600).map_err(|error| failed(error.to_string()))
    }

    /// The interfaces that are missed.
    pub fn strays(&self) -> &[Nic] {
        &self.stored.strays
    }

    /// An interface is missed.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn miss(&mut self, nic: Nic) -> Result<(), NetworkError> {
        let strays = &mut self.stored.strays;
        strays.retain(|known| known.home.name != nic.home.name);
        strays.push(nic);
        let surplus = strays.len().saturating_sub(STRAYS);
        strays.drain(..surplus);
        self.write()
    }

    /// An interface is missed no longer.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn found(&mut self, nic: &Nic) -> Result<(), NetworkError> {
        self.stored.strays.retain(|known| known != nic);
        self.write()
    }

    /// Whether it was us who switched the host's forwarding on.
    pub fn forwarding(&self) -> bool {
        self.stored.forwarding
    }

    /// It is us who switch the host's forwarding on.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn set_forwarding(&mut self) -> Result<(), NetworkError> {
        self.stored.forwarding = true;
        self.write()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_known_in_this_boot_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.json");
        let mut state = State::open(&path);
        state.set_forwarding().unwrap();
        assert!(State::open(&path).forwarding());
        let text = std::fs::read_to_string(&path).unwrap();
        let boot_id = proc::boot_id().unwrap();
        std::fs::write(&path, text.replace(boot_id.as_str(), "another")).unwrap();
        assert!(!State::open(&path).forwarding());
    }
}
