//! What has to hold for all bytes. The fuzzer finds the bytes, and so does `tests/fuzz_bodies.rs` of
//! cml-wire, which includes this file: the stable toolchain runs the same bodies in every test run.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run <target> corpus/<target> seeds/<target>`, from the directory above
//! `fuzz`, lets the fuzzer look; what it finds interesting it keeps in `corpus`, which is not committed.

use std::fmt::Debug;

use cml_wire::{
    frame::{self, Decoder, FrameError, MAX_BODY},
    proto::{ContainerConfig, ControllerToDaemon, DaemonToController, GuestOsConfig},
    text,
};
use prost::{Message, Name};

/// Bytes at the front of the input that say how the stream behind them is cut into pieces.
const CUTS: usize = 4;

/// However a stream is cut, the same bodies come out, and the same refusal where a length is bad.
pub fn frame(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(CUTS));
    let mut decoder = Decoder::default();
    let mut bodies = Vec::new();
    let mut refused = false;
    let mut cuts = cuts.iter().cycle().map(|cut| usize::from(*cut) + 1);
    let mut rest = stream;
    while let Some(cut) = cuts.next().filter(|_| !rest.is_empty() && !refused) {
        let (now, later) = rest.split_at(cut.min(rest.len()));
        rest = later;
        decoder.push(now);
        loop {
            match decoder.next() {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(FrameError::Length(length)) => {
                    assert!(!(1..MAX_BODY).contains(&length));
                    refused = true;
                    break;
                }
                Err(other) => panic!("a decoder knows nothing of {other}"),
            }
        }
    }
    let (expected, expected_refusal) = cut_at_once(stream);
    assert_eq!(bodies, expected);
    assert_eq!(refused, expected_refusal);

    // The blocking reader sees the same stream the same way.
    let mut reader = stream;
    for body in bodies {
        let read = frame::read_frame::<DaemonToController>(&mut reader);
        match DaemonToController::decode(&body[..]) {
            Ok(message) => assert_eq!(read.ok().flatten(), Some(message)),
            Err(_) => {
                assert!(matches!(read, Err(FrameError::Message(_))));
            }
        }
    }
}

/// The bodies of a stream that is there in full, and whether it ends with a length that is refused.
fn cut_at_once(mut stream: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut bodies = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk() {
        let length = u32::from_be_bytes(*header) as usize;
        if length == 0 || length >= MAX_BODY {
            return (bodies, true);
        }
        let Some(body) = rest.get(..length) else {
            break;
        };
        bodies.push(body.to_vec());
        stream = &rest[length..];
    }
    (bodies, false)
}

/// A request that is accepted survives being written and read again; any message can be shown.
pub fn control_message(data: &[u8]) {
    if let Ok(request) = frame::decode_request(data) {
        let framed = frame::encode(&request).expect("it came out of a frame");
        assert_eq!(
            frame::decode_request(&framed[4..]).ok(),
            Some(request.clone())
        );
        let _ = format!("{request:?}");
        let _ = text::print(&request);
    }
    if let Ok(reply) = DaemonToController::decode(data) {
        let _ = text::print(&reply);
    }
    // Only a message that does not say its command is no request.
    if let Ok(message) = ControllerToDaemon::decode(data) {
        let silent = message.command == ControllerToDaemon::default().command;
        assert!(silent || frame::decode_request(data).is_ok());
    }
}

/// A container's configuration.
pub fn container_conf(data: &[u8]) {
    text_form::<ContainerConfig>(data);
}

/// A guest OS's configuration.
pub fn guestos_conf(data: &[u8]) {
    text_form::<GuestOsConfig>(data);
}

/// What is read is written so that it reads the same, in both forms; what is refused names a place.
fn text_form<M: Message + Name + Default + Debug + PartialEq>(data: &[u8]) {
    match text::parse::<M>(data) {
        Ok(message) => {
            let file = text::print_file(&message);
            assert_eq!(
                text::parse(file.as_bytes()).as_ref(),
                Ok(&message),
                "{file}"
            );
            let shown = text::print(&message);
            assert_eq!(
                text::parse(shown.as_bytes()).as_ref(),
                Ok(&message),
                "{shown}"
            );
        }
        Err(error) => {
            let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "{error}");
            assert!((1..=data.len() + 1).contains(&error.column), "{error}");
        }
    }
}
