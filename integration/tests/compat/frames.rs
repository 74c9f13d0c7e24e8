//! Recorded frames, byte for byte.

use std::{
    io::{Read, Write},
    thread::sleep,
    time::Duration,
};

use cml_integration::Daemon;

/// `list` on a device without containers, and its answer (wire-samples.md).
const LIST: [u8; 6] = [0, 0, 0, 2, 8, 3];

fn answer(stream: &mut impl Read) -> [u8; 6] {
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_empty_list_is_asked_and_answered_as_recorded() {
    let daemon = Daemon::default();
    let mut client = daemon.client();
    client.stream.write_all(&LIST).unwrap();
    assert_eq!(answer(&mut client.stream), LIST);
}

#[test]
fn header_and_body_may_come_apart_byte_by_byte_and_several_at_once() {
    let daemon = Daemon::default();
    let mut client = daemon.client();
    client.stream.write_all(&LIST[..4]).unwrap();
    sleep(Duration::from_millis(20));
    client.stream.write_all(&LIST[4..]).unwrap();
    assert_eq!(answer(&mut client.stream), LIST);
    for byte in LIST {
        client.stream.write_all(&[byte]).unwrap();
        sleep(Duration::from_millis(2));
    }
    assert_eq!(answer(&mut client.stream), LIST);
    client.stream.write_all(&LIST.repeat(50)).unwrap();
    for _ in 0..50 {
        assert_eq!(answer(&mut client.stream), LIST);
    }
}

#[test]
fn an_undecodable_body_a_zero_and_a_huge_length_close_the_connection() {
    let daemon = Daemon::default();
    for bytes in [
        &[0, 0, 0, 0][..],
        &[0, 0, 0, 2, 0xff, 0xff],
        &[4, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff],
        // A message without its command.
        &[0, 0, 0, 3, 0x82, 1, 0],
    ] {
        let mut client = daemon.client();
        client.send_raw(bytes);
        client.expect_closed();
    }
}

#[test]
fn an_unknown_command_is_unsupported_and_the_connection_goes_on() {
    let daemon = Daemon::default();
    let mut client = daemon.client();
    client.send_raw(&[0, 0, 0, 3, 8, 0xe7, 7]);
    assert_eq!(
        client.reply().unwrap().response().as_str_name(),
        "CMD_UNSUPPORTED"
    );
    client.stream.write_all(&LIST).unwrap();
    assert_eq!(answer(&mut client.stream), LIST);
}
