//! A PIN typed on a USB keypad. Whoever runs this plugs in the keypad of QEMU (`-device
//! usb-kbd,serial=PAD1`) and types `42`, Backspace, `07` and Enter when asked (`send-key`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::{thread, time::Duration};

use cml_sys::keypad::UsbId;
use cml_token::pinpad::{PATIENCE, PinPadError, ask};

#[test]
#[ignore = "needs a USB keypad; run in the QEMU guest"]
fn a_pin_typed_on_the_keypad_arrives_and_a_second_entry_waits_its_turn() {
    let id: UsbId = "0627:0001".parse().unwrap();
    let none = ask(id, "PAD2", PATIENCE);
    assert!(matches!(none, Err(PinPadError::NoDevice { .. })));
    let silent = ask(id, "PAD1", Duration::from_millis(200));
    assert_eq!(silent.map(drop), Err(PinPadError::Timeout));
    thread::scope(|scope| {
        let first = scope.spawn(|| ask(id, "PAD1", PATIENCE));
        thread::sleep(Duration::from_millis(200));
        let second = ask(id, "PAD1", PATIENCE);
        assert_eq!(second.map(drop), Err(PinPadError::Busy));
        println!("type now");
        assert_eq!(first.join().unwrap().unwrap().expose(), "407");
    });
}
