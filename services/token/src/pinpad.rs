//! A PIN typed on a USB keypad beside the device (runtime.md 6.3), where no program of the host sees it.

use std::{
    io::ErrorKind,
    mem,
    path::Path,
    time::{Duration, Instant},
};

use cml_bus::secret::Pin;
use cml_sys::keypad::{self, DEV_INPUT, Key, Keypad, SYS_INPUT, UsbId};
use zeroize::Zeroizing;

/// How long somebody may take to type.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Digits that a PIN has at most.
const MOST: usize = 64;

/// Why no PIN was entered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinPadError {
    /// The keypad of the configuration is not there.
    #[error("no keypad `{id}` with serial `{serial}` is plugged in")]
    NoDevice {
        /// Maker and product.
        id: UsbId,
        /// The serial number of the configuration.
        serial: String,
    },
    /// Somebody is asked for another PIN on the same keypad.
    #[error("the keypad is in use, by another PIN entry for one; try again when that has ended")]
    Busy,
    /// Nobody has pressed Enter in time.
    #[error("no PIN was entered in time")]
    Timeout,
    /// Somebody has pressed Escape.
    #[error("the PIN entry was aborted on the keypad")]
    Aborted,
    /// More digits than any PIN has.
    #[error("a PIN has at most 64 digits")]
    TooLong,
    /// The keypad does not work, or was pulled out.
    #[error("the keypad cannot be used: {reason}")]
    Device {
        /// What is wrong with it.
        reason: String,
    },
}

impl From<cml_sys::Error> for PinPadError {
    fn from(error: cml_sys::Error) -> Self {
        match error.source.kind() {
            ErrorKind::ResourceBusy => Self::Busy,
            _ => Self::Device {
                reason: error.to_string(),
            },
        }
    }
}

/// Where keys come from.
pub trait KeySource {
    /// The next key that is pressed; `None` when the deadline has passed.
    ///
    /// # Errors
    /// The source has dried up.
    fn next_key(&mut self, deadline: Instant) -> Result<Option<Key>, PinPadError>;
}

impl KeySource for Keypad {
    fn next_key(&mut self, deadline: Instant) -> Result<Option<Key>, PinPadError> {
        Ok(Keypad::next_key(self, deadline)?)
    }
}

/// Asks for a PIN on the keypad of a configuration, which belongs to this entry alone meanwhile. Blocks.
///
/// # Errors
/// There is no such keypad, it is in use, or as [`read_pin`].
pub fn ask(id: UsbId, serial: &str, limit: Duration) -> Result<Pin, PinPadError> {
    let found = keypad::find(Path::new(SYS_INPUT), Path::new(DEV_INPUT), id, serial)?;
    let node = found.ok_or_else(|| PinPadError::NoDevice {
        id,
        serial: serial.to_owned(),
    })?;
    read_pin(&mut Keypad::open(&node)?, limit)
}

/// Reads keys until somebody has entered a PIN. It may be empty, and is wrong then as any other.
///
/// # Errors
/// As the variants of [`PinPadError`] say.
pub fn read_pin(source: &mut dyn KeySource, limit: Duration) -> Result<Pin, PinPadError> {
    let deadline = Instant::now() + limit;
    let mut entry = Entry::default();
    loop {
        let key = source.next_key(deadline)?.ok_or(PinPadError::Timeout)?;
        if let Some(pin) = entry.press(key)? {
            return Ok(pin);
        }
    }
}

/// What somebody has typed so far.
struct Entry(Zeroizing<String>);

impl Default for Entry {
    fn default() -> Self {
        // It never grows, so no copy of it is left behind.
        Self(Zeroizing::new(String::with_capacity(MOST)))
    }
}

impl Entry {
    /// Takes one key; the PIN comes with the last one.
    fn press(&mut self, key: Key) -> Result<Option<Pin>, PinPadError> {
        match key {
            Key::Digit(_) if self.0.len() == MOST => return Err(PinPadError::TooLong),
            Key::Digit(digit) => self.0.push(char::from(b'0' + digit % 10)),
            Key::Backspace => {
                self.0.pop();
            }
            Key::Enter => return Ok(Some(Pin::new(mem::take(&mut *self.0)))),
            Key::Escape => return Err(PinPadError::Aborted),
            Key::Other => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Types what it is given, then nothing more.
    struct Typist(VecDeque<Key>);

    impl KeySource for Typist {
        fn next_key(&mut self, _: Instant) -> Result<Option<Key>, PinPadError> {
            Ok(self.0.pop_front())
        }
    }

    /// `<` is Backspace, `.` Enter, `!` Escape.
    fn key(symbol: char) -> Key {
        match symbol {
            '0'..='9' => Key::Digit(symbol as u8 - b'0'),
            '<' => Key::Backspace,
            '.' => Key::Enter,
            '!' => Key::Escape,
            _ => Key::Other,
        }
    }

    fn typed(keys: &str) -> Result<String, PinPadError> {
        let mut typist = Typist(keys.chars().map(key).collect());
        read_pin(&mut typist, PATIENCE).map(|pin| pin.expose().to_owned())
    }

    #[test]
    fn enter_ends_the_pin_and_backspace_takes_a_digit_back() {
        assert_eq!(typed("1234.").unwrap(), "1234");
        assert_eq!(typed("<12<<<0aX9<8.5").unwrap(), "08");
        assert_eq!(typed("1<.").unwrap(), "");
    }

    #[test]
    fn escape_aborts_and_silence_times_out() {
        assert_eq!(typed("12!34."), Err(PinPadError::Aborted));
        assert_eq!(typed("1234"), Err(PinPadError::Timeout));
        assert_eq!(typed(""), Err(PinPadError::Timeout));
    }

    #[test]
    fn the_65th_digit_is_one_too_many() {
        let most = "7".repeat(64);
        assert_eq!(typed(&format!("{most}.")).unwrap(), most);
        assert_eq!(typed(&format!("{most}7.")), Err(PinPadError::TooLong));
        let back = typed(&format!("{most}<8.")).unwrap();
        assert_eq!(back, format!("{}8", &most[1..]));
    }

    #[test]
    fn the_whole_entry_has_one_deadline() {
        /// Every deadline that it was given.
        struct Patient(Vec<Instant>);
        impl KeySource for Patient {
            fn next_key(&mut self, deadline: Instant) -> Result<Option<Key>, PinPadError> {
                self.0.push(deadline);
                Ok((self.0.len() < 5).then_some(Key::Digit(1)))
            }
        }
        let mut source = Patient(Vec::new());
        let before = Instant::now();
        let entered = read_pin(&mut source, PATIENCE);
        assert_eq!(entered.map(drop), Err(PinPadError::Timeout));
        assert!(source.0[0] >= before + PATIENCE);
        assert!(source.0[0] <= Instant::now() + PATIENCE);
        assert_eq!(source.0, [source.0[0]; 5]);
    }

    #[test]
    fn trouble_with_the_keypad_is_told() {
        struct Unplugged;
        impl KeySource for Unplugged {
            fn next_key(&mut self, _: Instant) -> Result<Option<Key>, PinPadError> {
                Err(cml_sys::Error::invalid("read", "event1", "keys were lost").into())
            }
        }
        let told = read_pin(&mut Unplugged, PATIENCE).unwrap_err().to_string();
        assert_eq!(
            told,
            "the keypad cannot be used: read event1: keys were lost"
        );
    }

    #[test]
    fn a_keypad_that_is_not_there_is_named() {
        let id = UsbId {
            vendor: 0xffff,
            product: 0xfffe,
        };
        let told = ask(id, "S1", PATIENCE).unwrap_err().to_string();
        assert_eq!(told, "no keypad `ffff:fffe` with serial `S1` is plugged in");
    }

    proptest! {
        #[test]
        fn a_pin_is_what_is_left_of_the_digits(keys in "[0-9<a]{0,200}") {
            let mut left = String::new();
            let mut too_long = false;
            for symbol in keys.chars() {
                match symbol {
                    '<' => drop(left.pop()),
                    'a' => {}
                    _ if left.len() == MOST => { too_long = true; break }
                    digit => left.push(digit),
                }
            }
            let expected = match too_long {
                true => Err(PinPadError::TooLong),
                false => Ok(left),
            };
            prop_assert_eq!(typed(&format!("{keys}.")), expected);
        }
    }
}
