//! The call order: calls only go downhill, so no cycle of waiting services can exist (ACT-03).
//!
//! The composition root declares every port it hands out; the declaration is refused when it would
//! point uphill. The same list is the source of the picture in ARCHITECTURE.md.

/// The services, highest first. A service may call those below it and never those above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Keeps what the others tell it; calls nobody.
    Audit,
    /// Verifies, unlocks; calls nobody.
    Token,
    /// Verified guest operating systems.
    GuestOs,
    /// Interfaces of containers.
    Network,
    /// Containers and their life cycle.
    Container,
    /// The device itself: identity, mode, logs, reboot.
    Provisioning,
    /// Translates the control protocol.
    Gateway,
}

impl Level {
    /// The name of the service at this level.
    pub fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Token => "token",
            Self::GuestOs => "guestos",
            Self::Network => "network",
            Self::Container => "container",
            Self::Provisioning => "provisioning",
            Self::Gateway => "gateway",
        }
    }
}

/// The ports that a composition has handed out.
#[derive(Debug, Default)]
pub struct Wiring(Vec<(Level, Level)>);

/// A port would have pointed uphill.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` must not call `{1}`: calls only go downhill, use an event")]
pub struct UphillCall(&'static str, &'static str);

impl Wiring {
    /// Hands `from` a port of `to`, and notes it.
    ///
    /// # Errors
    /// [`UphillCall`] unless `to` is below `from`.
    pub fn grant<P: Clone>(&mut self, from: Level, to: Level, port: &P) -> Result<P, UphillCall> {
        if to >= from {
            return Err(UphillCall(from.name(), to.name()));
        }
        self.0.push((from, to));
        Ok(port.clone())
    }

    /// The wiring as a mermaid graph, for ARCHITECTURE.md.
    pub fn mermaid(&self) -> String {
        let mut out = String::from("graph TD\n");
        for (from, to) in &self.0 {
            out.push_str(&format!("    {} --> {}\n", from.name(), to.name()));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_never_points_uphill() {
        let mut wiring = Wiring::default();
        let port = "port";
        assert!(
            wiring
                .grant(Level::Gateway, Level::Container, &port)
                .is_ok()
        );
        assert_eq!(
            wiring.grant(Level::Token, Level::Container, &port),
            Err(UphillCall("token", "container"))
        );
        assert!(wiring.grant(Level::Token, Level::Token, &port).is_err());
    }
}
