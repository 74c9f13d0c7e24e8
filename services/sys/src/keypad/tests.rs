#![allow(clippy::unwrap_used)]
use std::{fs::create_dir_all, os::unix::fs::symlink};

use proptest::prelude::*;

use super::*;

const PAD: UsbId = UsbId {
    vendor: 0x04d9,
    product: 0x1203,
};

/// What the kernel says of a keyboard with 105 keys, and of three keys for the volume.
const KEYBOARD: &str = "1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe\n";
const MEDIA: &str = "e000000000000 0\n";

/// A sysfs with the inputs of USB devices.
struct Sys(tempfile::TempDir);

impl Sys {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        create_dir_all(dir.path().join("class/input")).unwrap();
        Self(dir)
    }

    /// Plugs a device with one input into a port of the hub.
    fn plug(&self, port: u8, id: UsbId, serial: Option<&str>, event: u32, keys: &str) {
        let hub = self.0.path().join("devices/usb1");
        let device = hub.join(format!("1-{port}"));
        let input = device.join(format!("1-{port}:1.0/0003/input/input{event}"));
        create_dir_all(input.join("capabilities")).unwrap();
        fs::write(input.join("capabilities/key"), keys).unwrap();
        let node = input.join(format!("event{event}"));
        create_dir_all(&node).unwrap();
        symlink(&input, node.join("device")).unwrap();
        // Hubs have numbers and a serial as well.
        for (dir, vendor, product, serial) in [
            (&hub, 0x1d6b, 2, Some("hub")),
            (&device, id.vendor, id.product, serial),
        ] {
            fs::write(dir.join("idVendor"), format!("{vendor:04x}\n")).unwrap();
            fs::write(dir.join("idProduct"), format!("{product:04x}\n")).unwrap();
            if let Some(serial) = serial {
                fs::write(dir.join("serial"), format!("{serial}\n")).unwrap();
            }
        }
        let class = self.0.path().join("class/input");
        symlink(&node, class.join(format!("event{event}"))).unwrap();
        symlink(&input, class.join(format!("input{event}"))).unwrap();
    }

    fn find(&self, id: UsbId, serial: &str) -> Option<String> {
        let node = find(
            &self.0.path().join("class/input"),
            Path::new("/d"),
            id,
            serial,
        );
        node.unwrap().map(|node| node.display().to_string())
    }
}

#[test]
fn a_usb_id_is_two_hex_numbers_and_nothing_else() {
    for good in ["04d9:1203", "0x04d9:0x1203", "4D9:0X1203"] {
        assert_eq!(good.parse::<UsbId>().unwrap(), PAD, "{good}");
    }
    assert_eq!(PAD.to_string(), "04d9:1203");
    for bad in [
        "",
        ":",
        "04d9",
        "04d9:",
        ":1203",
        "04d9:1203:",
        "04d9 1203",
        "+4d9:1203",
        "0x:1203",
        "104d9:1203",
        "04d9:-203",
        " 04d9:1203",
        "04dg:1203",
        "0x0x04d9:1203",
    ] {
        assert!(bad.parse::<UsbId>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_printed_usb_id_is_the_same_one_read_back(vendor: u16, product: u16) {
        let id = UsbId { vendor, product };
        prop_assert_eq!(id.to_string().parse::<UsbId>().unwrap(), id);
    }

    #[test]
    fn no_text_panics_the_parser(text: String) {
        let _ = text.parse::<UsbId>();
    }
}

#[test]
fn the_keypad_is_found_by_its_numbers_and_its_serial() {
    let sys = Sys::new();
    sys.plug(1, PAD, Some("A"), 3, KEYBOARD);
    sys.plug(2, PAD, Some("B"), 4, KEYBOARD);
    sys.plug(
        3,
        UsbId {
            vendor: 1,
            product: 2,
        },
        Some("B"),
        5,
        KEYBOARD,
    );
    assert_eq!(sys.find(PAD, "A").as_deref(), Some("/d/event3"));
    assert_eq!(sys.find(PAD, "B").as_deref(), Some("/d/event4"));
    assert_eq!(sys.find(PAD, "").as_deref(), Some("/d/event3"));
    assert_eq!(sys.find(PAD, "AB"), None);
    assert_eq!(
        sys.find(
            UsbId {
                vendor: 1,
                product: 3
            },
            "B"
        ),
        None
    );
}

#[test]
fn a_keypad_without_a_serial_counts_unless_there_is_one_that_has_it() {
    let sys = Sys::new();
    sys.plug(1, PAD, None, 3, KEYBOARD);
    assert_eq!(sys.find(PAD, "A").as_deref(), Some("/d/event3"));
    sys.plug(2, PAD, Some("A"), 10, KEYBOARD);
    assert_eq!(sys.find(PAD, "A").as_deref(), Some("/d/event10"));
    assert_eq!(sys.find(PAD, "B").as_deref(), Some("/d/event3"));
}

#[test]
fn an_input_without_digits_is_no_keypad() {
    let sys = Sys::new();
    sys.plug(1, PAD, Some("A"), 2, MEDIA);
    sys.plug(2, PAD, Some("A"), 3, "0\n");
    sys.plug(3, PAD, Some("A"), 4, "");
    assert_eq!(sys.find(PAD, "A"), None);
    sys.plug(1, PAD, Some("A"), 12, KEYBOARD);
    sys.plug(1, PAD, Some("A"), 9, KEYBOARD);
    assert_eq!(sys.find(PAD, "A").as_deref(), Some("/d/event9"));
}

#[test]
fn without_input_devices_there_is_no_keypad() {
    assert_eq!(Sys::new().find(PAD, "A"), None);
    let absent = Path::new("/no/such/directory");
    assert_eq!(find(absent, absent, PAD, "A").unwrap(), None);
}

#[test]
fn the_bits_of_sysfs_count_from_the_last_word() {
    let words = "1 8000000000000000 2";
    let set: Vec<usize> = (0..200).filter(|bit| has_bit(words, *bit)).collect();
    assert_eq!(set, [1, 127, 128]);
}

/// The bytes of an event as the kernel writes them.
fn event(kind: EventType, code: u16, value: i32) -> Event {
    let mut bytes = [0xff; size_of::<input_event>()];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(offset_of!(input_event, type_), &kind.0.to_ne_bytes());
    put(offset_of!(input_event, code), &code.to_ne_bytes());
    put(offset_of!(input_event, value), &value.to_ne_bytes());
    Event::of(&bytes)
}

#[test]
fn a_key_counts_when_it_goes_down_and_only_then() {
    let key = |code: KeyCode, value| event(EventType::KEY, code.0, value).key();
    // The numbers of linux/input-event-codes.h: the row starts with 1, the pad with 7.
    let row = [11, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let pad = [82, 79, 80, 81, 75, 76, 77, 71, 72, 73];
    for codes in [row, pad] {
        for (digit, code) in (0..).zip(codes) {
            assert_eq!(key(KeyCode(code), 1), Some(Key::Digit(digit)), "{code}");
            assert_eq!(key(KeyCode(code), 0), None);
            assert_eq!(key(KeyCode(code), 2), None);
        }
    }
    assert_eq!(key(KeyCode(14), 1), Some(Key::Backspace));
    assert_eq!(key(KeyCode(28), 1), Some(Key::Enter));
    assert_eq!(key(KeyCode(96), 1), Some(Key::Enter));
    assert_eq!(key(KeyCode(1), 1), Some(Key::Escape));
    assert_eq!(key(KeyCode(30), 1), Some(Key::Other));
    assert_eq!(event(EventType::MISC, 4, 1).key(), None);
    assert!(event(EventType::SYNCHRONIZATION, 3, 0).is_loss());
    assert!(!event(EventType::SYNCHRONIZATION, 0, 0).is_loss());
    assert!(!event(EventType::KEY, 3, 1).is_loss());
}

#[test]
fn what_is_no_input_device_does_not_open() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(Keypad::open(file.path()).is_err());
    assert!(Keypad::open(Path::new("/dev/null")).is_err());
    assert!(
        Keypad::open(Path::new("/no/such/node"))
            .unwrap_err()
            .is_absence()
    );
}
