//! What everybody may see of a container at any time, without asking its actor.

use std::sync::Arc;

use cml_bus::{api::container::ControlSocket, id::ContainerId};
use cml_sys::proc;
use cml_wire::proto::{
    ContainerConfig, ContainerEnd, ContainerStatus, ContainerTrust, CryptfsMode,
};

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
    /// What its guest OS makes of it; `None` when that is not installed.
    pub guest: Option<Guest>,
    /// It may use the sound devices.
    pub audio: bool,
    /// Where it may send control commands, while it runs.
    pub control: Option<ControlSocket>,
    /// Its last start has come to nothing: it ended without having run. Of `core0` also: it ended as nobody wanted.
    pub failed: bool,
    /// `core0` has run for long enough in this life that it can be relied on (`core0::PROOF`).
    pub well: bool,
    /// How it came to an end the last time.
    pub last_end: Option<ContainerEnd>,
    /// Why its configuration cannot be used; it has no actor then.
    pub damage: Option<String>,
}

/// What a guest OS makes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Who vouches for the guest OS.
    pub trust: ContainerTrust,
    /// How what the container stores is encrypted.
    pub cryptfs: CryptfsMode,
}

impl View {
    /// Of a container of which nobody has looked yet whether it runs.
    pub fn unknown(config: Arc<ContainerConfig>, created: u64, guest: Option<Guest>) -> Self {
        Self {
            config,
            state: State::Stopped,
            known: false,
            started: None,
            created,
            guest,
            audio: false,
            control: None,
            failed: false,
            well: false,
            last_end: None,
            damage: None,
        }
    }

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
            guestos: match self.guest {
                Some(_) => self.config.guest_os.clone(),
                None => "none".into(),
            },
            trust_level: self
                .guest
                .map_or(ContainerTrust::Unsigned, |guest| guest.trust)
                .into(),
            cryptfs_mode: self
                .guest
                .map_or(CryptfsMode::NotImplemented, |guest| guest.cryptfs)
                .into(),
            audio: self.audio.then_some(true),
            last_end: self.last_end.clone(),
            damage: self.damage.clone(),
        }
    }
}
