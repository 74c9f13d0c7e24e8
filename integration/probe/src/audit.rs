//! A guest that fetches its audit records by the existing protocol (protocol.md 2.7).

use std::os::unix::net::UnixStream;

use cml_wire::{
    frame,
    proto::{
        CmldToServiceMessage, ServiceToCmldMessage, cmld_to_service_message::Code as Told,
        service_to_cmld_message::Code as Ask,
    },
};
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha512};

use crate::guest::SOCKET;

fn acknowledge(stream: &mut UnixStream, hash: &str) {
    let message = ServiceToCmldMessage {
        code: Ask::AuditAck.into(),
        audit_ack: Some(hash.to_owned()),
    };
    frame::write_frame(stream, &message).unwrap();
}

/// The next message that is no notification: those come in between.
fn answer(stream: &mut UnixStream) -> CmldToServiceMessage {
    loop {
        let message: CmldToServiceMessage = frame::read_frame(stream).unwrap().unwrap();
        if message.code() != Told::AuditNotify {
            return message;
        }
    }
}

/// Fetches and acknowledges at most this many records, and tells what they were.
pub fn fetch(most: usize) {
    let mut stream = UnixStream::connect(SOCKET).unwrap();
    let mut hash = "0".repeat(128);
    let mut records = Vec::new();
    let complete = loop {
        acknowledge(&mut stream, &hash);
        let message = answer(&mut stream);
        if message.code() == Told::AuditComplete {
            break true;
        }
        if records.len() == most {
            break false;
        }
        let record = message.audit_record.as_ref().unwrap();
        records.push(json!({"type": record.r#type, "subject": record.subject_id()}));
        hash = hex::encode(Sha512::digest(message.encode_to_vec()));
    };
    println!("{:#}", json!({"records": records, "complete": complete}));
}

/// Acknowledges what it was never sent, again and again, and tells how many different records came of it.
pub fn lie() {
    let mut stream = UnixStream::connect(SOCKET).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..20 {
        acknowledge(&mut stream, &format!("{round:0128x}"));
        seen.insert(answer(&mut stream).encode_to_vec());
    }
    println!("{}", json!({"different": seen.len()}));
}

/// Waits until it is told of a new record, after saying so on standard output.
pub fn wait() {
    let mut stream = UnixStream::connect(SOCKET).unwrap();
    println!("waiting");
    let message: CmldToServiceMessage = frame::read_frame(&mut stream).unwrap().unwrap();
    assert_eq!(message.code(), Told::AuditNotify);
    println!("{}", message.audit_remaining_storage.unwrap());
}
