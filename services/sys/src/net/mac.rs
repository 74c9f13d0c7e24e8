//! Hardware addresses of Ethernet.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A hardware address, written as `02:fc:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Not a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no MAC address such as 02:fc:00:00:00:01")]
pub struct BadMac(String);

/// Set in addresses of groups.
const MULTICAST: u8 = 1;
/// Set in addresses that no manufacturer has given.
const LOCAL: u8 = 2;

impl Mac {
    /// The same address as one that an interface may be given: of one station, and not a manufacturer's
    /// (runtime.md 4.1).
    pub fn local(mut self) -> Self {
        self.0[0] = self.0[0] & !MULTICAST | LOCAL;
        self
    }

    /// Whether it names one station.
    pub fn is_station(self) -> bool {
        self.0[0] & MULTICAST == 0 && self.0 != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut mac = [0; 6];
        let mut words = text.split(':');
        for byte in &mut mac {
            let word = words
                .next()
                .filter(|word| word.len() == 2)
                .ok_or_else(bad)?;
            // `from_str_radix` takes a sign.
            if !word.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(word, 16).map_err(|_| bad())?;
        }
        match words.next() {
            None => Ok(Self(mac)),
            Some(_) => Err(bad()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "eth0",
            "02:fc:00:00:00",
            "02:fc:00:00:00:01:02",
            "2:fc:0:0:0:1",
            "02-fc-00-00-00-01",
            "02:fc:00:00:00:0g",
            "+2:fc:00:00:00:01",
            " 02:fc:00:00:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_given_address_is_a_local_station(bytes: [u8; 6]) {
            let mac = Mac(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
            prop_assert_eq!(mac.to_string().to_uppercase().parse::<Mac>().unwrap(), mac);
            prop_assert!(mac.local().is_station());
            prop_assert_eq!(&mac.local().0[1..], &mac.0[1..]);
        }
    }
}
