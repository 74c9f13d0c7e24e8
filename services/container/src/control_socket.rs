//! The control socket inside a container: who has one, and what may be asked through it (protocol.md 1.1).
//!
//! `cml-init` binds it in the container's own mount namespace and hands it over; the gateway serves it, told apart from the
//! others by nothing but the socket that a client came through.

use std::{os::fd::OwnedFd, path::Path, sync::Arc};

use cml_bus::{api::container::ControlSocket, id::ContainerId};
use cml_sys::exec;
use cml_wire::proto::GuestOsConfig;
use serde::{Deserialize, Serialize};

use crate::{env::Env, record::Running};

/// Where clients in a container find it.
pub const CONTROL_SOCKET: &str = "/run/socket/cml-control";

/// What a control socket is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// All that the host may ask: the socket of `core0`.
    Device,
    /// What a guest may ask that installs guest OSes (protocol.md 3.2, column of unprivileged sockets).
    GuestOses,
}

impl Reach {
    /// That of a container with this guest OS; `None` if it gets no control socket.
    pub fn of(id: ContainerId, guestos: &GuestOsConfig) -> Option<Self> {
        match (id.is_core0(), guestos.feature_install_guest()) {
            (true, _) => Some(Self::Device),
            (false, true) => Some(Self::GuestOses),
            (false, false) => None,
        }
    }

    /// The socket as the gateway gets it.
    pub fn socket(self, id: ContainerId, socket: OwnedFd) -> ControlSocket {
        ControlSocket {
            id,
            socket: Arc::new(socket),
            privileged: self == Self::Device,
        }
    }
}

/// Binds the control socket of a container anew that a daemon before this one has started.
pub fn bind_again(
    env: &Env,
    id: ContainerId,
    running: &Running,
    pidfd: &OwnedFd,
) -> Option<ControlSocket> {
    let reach = running.control?;
    let in_userns = running.id_slot.is_some();
    match exec::bind_socket(&env.program, pidfd, Path::new(CONTROL_SOCKET), in_userns) {
        Ok(socket) => Some(reach.socket(id, socket)),
        Err(error) => {
            tracing::error!(container = %id, %error, "nobody hears the control commands from inside");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_core0_speaks_for_the_device_and_only_installers_speak_at_all() {
        let installer = GuestOsConfig {
            feature_install_guest: Some(true),
            ..Default::default()
        };
        let plain = GuestOsConfig::default();
        for guestos in [&installer, &plain] {
            assert_eq!(Reach::of(ContainerId::CORE0, guestos), Some(Reach::Device));
        }
        let guest = ContainerId::random();
        assert_eq!(Reach::of(guest, &installer), Some(Reach::GuestOses));
        assert_eq!(Reach::of(guest, &plain), None);
    }
}
