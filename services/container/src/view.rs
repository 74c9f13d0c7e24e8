//! What everybody may see of a container at any time, without asking its actor.

use std::sync::Arc;

use cml_bus::id::ContainerId;
use cml_sys::proc;
use cml_wire::proto::{ContainerConfig, ContainerStatus, ContainerTrust, CryptfsMode};

use crate::fsm::State;

/// A container as it looks now.
#[derive(Debug, Clone)]
pub struct View {
    /// Its configuration.
    pub config: Arc<ContainerConfig>,
    /// Where it is in its life; means nothing until `known`.
    pub state: State,
    /// Whether its actor has looked by now if it runs.
    pub known: bool,
    /// When it was started, in seconds after boot.
    pub started: Option<u64>,
    /// When it was created, in seconds of Unix time.
    pub created: u64,
    /// Who vouches for its guest OS; `None` when that is not installed.
    pub trust: Option<ContainerTrust>,
}

impl View {
    /// The status on the wire (protocol.md 2.4).
    pub fn status(&self, id: ContainerId) -> ContainerStatus {
        ContainerStatus {
            uuid: id.to_string(),
            name: self.config.name.clone(),
            r#type: self.config.r#type,
            state: self.state.wire().into(),
            uptime: self
                .started
                .map_or(0, |started| proc::boottime().saturating_sub(started)),
            created: self.created,
            guestos: match self.trust {
                Some(_) => self.config.guest_os.clone(),
                None => "none".into(),
            },
            trust_level: self.trust.unwrap_or(ContainerTrust::Unsigned).into(),
            // The truth as long as no volume is encrypted: those that must be make the start fail.
            cryptfs_mode: CryptfsMode::NotImplemented.into(),
        }
    }
}
