//! What an operator or a configuration means by an interface: a name, or a MAC address.

use std::fmt;

use cml_bus::api::network::NetworkError;
use cml_sys::net::{
    link::{Link, is_name},
    mac::Mac,
};
use serde::{Deserialize, Serialize};

/// A wish for an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The one with this name.
    Name(String),
    /// The one with this address.
    Mac(Mac),
}

impl Claim {
    /// Understands a name or an address.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        match text.parse() {
            Ok(mac) => Ok(Self::Mac(mac)),
            Err(_) if is_name(text) => Ok(Self::Name(text.to_owned())),
            Err(_) => Err(NetworkError::BadInterface(text.chars().take(64).collect())),
        }
    }

    /// Whether it means this interface.
    pub fn means(&self, link: &Link) -> bool {
        match self {
            Self::Name(name) => link.is_called(name),
            Self::Mac(mac) => link.has_mac(*mac),
        }
    }

    /// The interface that is meant. Bridges and the like have the address of what they stand on, which is preferred.
    pub fn find<'a>(&self, links: &'a [Link]) -> Option<&'a Link> {
        let meant = links.iter().filter(|link| self.means(link));
        meant.min_by_key(|link| (link.kind.is_some(), link.index))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_word_is_a_name_an_address_or_a_mistake() {
        assert_eq!(Claim::parse("eth0").unwrap(), Claim::Name("eth0".into()));
        let mac = Claim::parse("02:FC:00:00:00:01").unwrap();
        assert_eq!(mac, Claim::parse("02:fc:00:00:00:01").unwrap());
        for bad in [
            "",
            "../x",
            "sixteen-bytes-xx",
            "02:fc:00:00:00",
            "a b",
            "eth%d",
        ] {
            let refused = Claim::parse(bad);
            assert!(
                matches!(refused, Err(NetworkError::BadInterface(_))),
                "{bad}"
            );
        }
    }
}
