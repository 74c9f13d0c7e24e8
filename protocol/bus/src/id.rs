//! Parsed identifiers: a value of these types is known to be well-formed.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// The identity of a container: a UUID, printed in lower case with dashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Uuid);

impl ContainerId {
    /// The management container `core0` (protocol.md 1.1).
    pub const CORE0: Self = Self(Uuid::nil());

    /// A new random identity from the kernel's generator.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The bytes of the UUID.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Whether this is the management container.
    pub fn is_core0(self) -> bool {
        self == Self::CORE0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the identity of a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a container uuid")]
pub struct IdError(String);

impl FromStr for ContainerId {
    type Err = IdError;

    /// Accepts the form with dashes in any case and plain hex digits (protocol.md 3.3).
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| IdError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn uuid_is_accepted_in_any_case_and_printed_in_lower_case() {
        let id: ContainerId = "B51F6038-AA7E-4CC7-B93A-FE187EF218F1".parse().unwrap();
        assert_eq!(id.to_string(), "b51f6038-aa7e-4cc7-b93a-fe187ef218f1");
    }

    #[test]
    fn a_path_is_not_an_identity() {
        assert!("../../etc/passwd".parse::<ContainerId>().is_err());
    }
}
