//! Keys that somebody types on a USB keypad (runtime.md 6.3), and which nobody else gets to see.

use std::{
    cmp::Reverse,
    fmt,
    fs::{self, OpenOptions},
    mem::offset_of,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Instant,
};

use evdev::{EventType, KeyCode, SynchronizationCode, raw_stream::RawDevice};
use libc::input_event;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read},
};
use zeroize::Zeroizing;

use crate::error::{Context, Error, Result};

/// Where the kernel describes its input devices.
pub const SYS_INPUT: &str = "/sys/class/input";

/// Where their device nodes are.
pub const DEV_INPUT: &str = "/dev/input";

/// What kind of USB device: `vid:pid` in hex digits, with or without `0x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsbId {
    /// Who makes it.
    pub vendor: u16,
    /// Which of the maker's products it is.
    pub product: u16,
}

impl fmt::Display for UsbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)
    }
}

impl FromStr for UsbId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let id = text.split_once(':').and_then(|(vendor, product)| {
            Some(Self {
                vendor: hex(vendor)?,
                product: hex(product)?,
            })
        });
        let why = "a USB id is two hex numbers, `1a2b:3c4d`";
        id.ok_or_else(|| Error::invalid("parse", format!("`{text}`"), why))
    }
}

fn hex(text: &str) -> Option<u16> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    // The standard parser would take a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u16::from_str_radix(digits, 16).ok())?
}

/// A key that somebody has pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// 0 to 9, in the row or on the pad.
    Digit(u8),
    /// Takes the last digit back.
    Backspace,
    /// That was all.
    Enter,
    /// Forget about it.
    Escape,
    /// Any other.
    Other,
}

impl From<KeyCode> for Key {
    fn from(code: KeyCode) -> Self {
        match code {
            KeyCode::KEY_0 | KeyCode::KEY_KP0 => Self::Digit(0),
            KeyCode::KEY_1 | KeyCode::KEY_KP1 => Self::Digit(1),
            KeyCode::KEY_2 | KeyCode::KEY_KP2 => Self::Digit(2),
            KeyCode::KEY_3 | KeyCode::KEY_KP3 => Self::Digit(3),
            KeyCode::KEY_4 | KeyCode::KEY_KP4 => Self::Digit(4),
            KeyCode::KEY_5 | KeyCode::KEY_KP5 => Self::Digit(5),
            KeyCode::KEY_6 | KeyCode::KEY_KP6 => Self::Digit(6),
            KeyCode::KEY_7 | KeyCode::KEY_KP7 => Self::Digit(7),
            KeyCode::KEY_8 | KeyCode::KEY_KP8 => Self::Digit(8),
            KeyCode::KEY_9 | KeyCode::KEY_KP9 => Self::Digit(9),
            KeyCode::KEY_BACKSPACE => Self::Backspace,
            KeyCode::KEY_ENTER | KeyCode::KEY_KPENTER => Self::Enter,
            KeyCode::KEY_ESC => Self::Escape,
            _ => Self::Other,
        }
    }
}

/// The device node of the keypad with these numbers, if it is plugged in. `sys` is [`SYS_INPUT`] and `dev`
/// [`DEV_INPUT`] outside of tests.
///
/// A keypad without a serial number counts whatever `serial`, unless there is one that has it; an empty
/// `serial` is any. A device has an input of its own for its media keys and the like: only one that can type
/// digits and Enter is meant.
///
/// # Errors
/// sysfs is not mounted.
pub fn find(sys: &Path, dev: &Path, id: UsbId, serial: &str) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    let inputs = match fs::read_dir(sys) {
        // A kernel without any input device does not make the directory.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context("list", sys.display())?,
    };
    for input in inputs {
        let input = input.context("list", sys.display())?;
        let name = input.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("event"));
        let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) else {
            continue;
        };
        // What vanishes while it is looked at was pulled out.
        let Some(usb) = UsbDevice::above(&input.path()) else {
            continue;
        };
        let same = usb
            .serial
            .as_ref()
            .is_none_or(|its| serial.is_empty() || its == serial);
        if usb.id == id && same && types_digits(&input.path()) {
            found.push((Reverse(usb.serial.is_some()), number, dev.join(name)));
        }
    }
    Ok(found.into_iter().min().map(|(_, _, node)| node))
}

/// What sysfs says about a USB device.
struct UsbDevice {
    id: UsbId,
    serial: Option<String>,
}

impl UsbDevice {
    /// The device that an input belongs to. Those further up are hubs.
    fn above(input: &Path) -> Option<Self> {
        let input = fs::canonicalize(input).ok()?;
        let device = input
            .ancestors()
            .find(|dir| dir.join("idVendor").exists())?;
        let line = |name: &str| {
            let text = fs::read_to_string(device.join(name)).ok()?;
            Some(text.trim_end_matches('\n').to_owned())
        };
        Some(Self {
            id: UsbId {
                vendor: hex(&line("idVendor")?)?,
                product: hex(&line("idProduct")?)?,
            },
            serial: line("serial").filter(|serial| !serial.is_empty()),
        })
    }
}

/// Whether an input has the keys that a PIN takes.
fn types_digits(input: &Path) -> bool {
    let Ok(keys) = fs::read_to_string(input.join("device/capabilities/key")) else {
        return false;
    };
    let has = |code: KeyCode| has_bit(&keys, code.code().into());
    let row = [KeyCode::KEY_0, KeyCode::KEY_1, KeyCode::KEY_9];
    let pad = [KeyCode::KEY_KP0, KeyCode::KEY_KP1, KeyCode::KEY_KP9];
    (row.into_iter().all(has) || pad.into_iter().all(has))
        && (has(KeyCode::KEY_ENTER) || has(KeyCode::KEY_KPENTER))
}

/// A bit in a bitmap as sysfs prints it: words in hex, as long as the kernel's own, the most significant
/// one first.
fn has_bit(words: &str, bit: usize) -> bool {
    let width = usize::BITS as usize;
    let word = words.split_whitespace().rev().nth(bit / width);
    word.and_then(|word| usize::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (bit % width) & 1 == 1)
}

/// A keypad that types for us alone until it is dropped.
#[derive(Debug)]
pub struct Keypad {
    device: RawDevice,
    node: PathBuf,
}

impl Keypad {
    /// Takes the keypad at this device node away from everybody else, the console for one.
    ///
    /// # Errors
    /// `ResourceBusy` when somebody has it already, or what the kernel said.
    pub fn open(node: &Path) -> Result<Self> {
        let shown = node.display();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY)
            .open(node)
            .context("open", shown)?;
        let mut device = RawDevice::from_fd(file.into()).context("inspect", node.display())?;
        device.grab().context("grab", node.display())?;
        let mut keypad = Self {
            device,
            node: node.to_owned(),
        };
        // What was typed between the two went to others as well.
        while keypad.next_event()?.is_some() {}
        Ok(keypad)
    }

    /// The next key that is pressed; `None` when the deadline has passed. A key that repeats because it is
    /// held counts once.
    ///
    /// # Errors
    /// The keypad was pulled out, or typed faster than anybody has read.
    pub fn next_key(&mut self, deadline: Instant) -> Result<Option<Key>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.next_event()? {
                Some(event) => match event.key() {
                    Some(key) => return Ok(Some(key)),
                    None => continue,
                },
                None => self.wait(left)?,
            }
        }
    }

    fn wait(&self, left: std::time::Duration) -> Result<()> {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("poll", self.node.display()),
        }
    }

    /// One event that is there already. The crate would read many into memory that it does not wipe.
    fn next_event(&mut self) -> Result<Option<Event>> {
        let mut bytes = Zeroizing::new([0; size_of::<input_event>()]);
        loop {
            return match read(&self.device, &mut *bytes) {
                Ok(length) if length == bytes.len() => {
                    let event = Event::of(&bytes);
                    match event.is_loss() {
                        true => Err(self.trouble("keys were lost")),
                        false => Ok(Some(event)),
                    }
                }
                Ok(_) => Err(self.trouble("it is no input device")),
                Err(Errno::AGAIN) => Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error).context("read", self.node.display()),
            };
        }
    }

    fn trouble(&self, why: &str) -> Error {
        Error::invalid("read", self.node.display(), why)
    }
}

/// Something that happened on an input device.
struct Event {
    kind: EventType,
    code: u16,
    value: i32,
}

impl Event {
    /// From the bytes of the kernel's `struct input_event`.
    fn of(bytes: &[u8; size_of::<input_event>()]) -> Self {
        let short = |at| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let value = offset_of!(input_event, value);
        Self {
            kind: EventType(short(offset_of!(input_event, type_))),
            code: short(offset_of!(input_event, code)),
            value: i32::from_ne_bytes([
                bytes[value],
                bytes[value + 1],
                bytes[value + 2],
                bytes[value + 3],
            ]),
        }
    }

    /// The key that went down. 0 is one that came up, 2 one that is held.
    fn key(&self) -> Option<Key> {
        (self.kind == EventType::KEY && self.value == 1).then(|| KeyCode(self.code).into())
    }

    /// The kernel had no room for what came before this.
    fn is_loss(&self) -> bool {
        self.kind == EventType::SYNCHRONIZATION && self.code == SynchronizationCode::SYN_DROPPED.0
    }
}

#[cfg(test)]
mod tests;
