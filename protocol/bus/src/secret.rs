//! Secrets on their way through the system: wiped when dropped, never printed.

use std::fmt;

use zeroize::Zeroizing;

/// A PIN or passphrase as the operator gave it. Dropping it overwrites the memory.
#[derive(Clone)]
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes the text over; the caller must not keep a copy.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one function that checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
}

/// The key under which the volumes of a container are encrypted. Dropping it overwrites the memory.
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The secret itself, for the one function that gives it to the kernel.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_never_printed() {
        assert!(!format!("{:?}", Pin::new("1234".into())).contains("1234"));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = Key::new(Zeroizing::new(vec![77; 4]));
        assert!(!format!("{key:?}").contains("77"));
    }
}
