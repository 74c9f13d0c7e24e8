//! Guests of different manners: what runs as init in tests of the life cycle.

use std::{
    fs,
    io::{self, Write},
    os::unix::net::UnixStream,
    process::exit,
    thread::park,
};

use cml_wire::{
    frame,
    proto::{
        CmldToServiceMessage, ServiceToCmldMessage, cmld_to_service_message::Code as Told,
        service_to_cmld_message::Code as Ask,
    },
};

pub const SOCKET: &str = "/run/socket/cml-service";

/// Asks for its name and name server, reports (or not), and ends when it is told to shut down.
pub fn serve(report: bool) -> ! {
    let mut stream = UnixStream::connect(SOCKET).unwrap();
    let name = ask(&mut stream, Ask::ContainerCfgNameReq);
    let dns = ask(&mut stream, Ask::ContainerCfgDnsReq);
    fs::write("/run/name", name.container_cfg_name()).unwrap();
    fs::write("/run/dns", dns.container_cfg_dns()).unwrap();
    if report {
        say(&mut stream, Ask::BootCompleted);
    }
    loop {
        let message: CmldToServiceMessage = frame::read_frame(&mut stream).unwrap().unwrap();
        if message.code() == Told::Shutdown {
            exit(0);
        }
    }
}

fn say(stream: &mut UnixStream, code: Ask) {
    let message = ServiceToCmldMessage {
        code: code.into(),
        ..Default::default()
    };
    frame::write_frame(stream, &message).unwrap();
}

fn ask(stream: &mut UnixStream, code: Ask) -> CmldToServiceMessage {
    say(stream, code);
    frame::read_frame(stream).unwrap().unwrap()
}

/// Opens far more service connections than there are places, with half headers and with garbage, and tells
/// how many the socket took.
pub fn flood() {
    let mut open = Vec::new();
    for round in 0..60_u32 {
        let Ok(mut stream) = UnixStream::connect(SOCKET) else {
            continue;
        };
        let garbage = round.to_le_bytes().repeat(1000);
        let bytes = if round % 2 == 0 {
            &garbage[..2]
        } else {
            &garbage
        };
        // The other side may have closed it by now.
        let _ = stream.write_all(bytes);
        open.push(stream);
    }
    println!("{}", open.len());
}

/// As the first process of its namespace it handles no signal, so none reaches it.
pub fn ignore_everything() -> ! {
    loop {
        park();
    }
}

/// Writes this many bytes, every value in turn.
pub fn fill(bytes: usize) {
    let block: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
    let mut out = io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let length = left.min(block.len());
        out.write_all(&block[..length]).unwrap();
        left -= length;
    }
    out.flush().unwrap();
}
