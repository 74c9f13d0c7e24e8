//! A daemon that answers from a script, and the client run against it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod terminal;

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use cml_wire::proto::{
    ContainerStatus, ControllerToDaemon, DaemonToController, controller_to_daemon as request,
    daemon_to_controller::{Code, Response},
};
use prost::Message;
use tempfile::TempDir;

/// The container that the fake daemon knows.
pub const UUID: &str = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";

/// The other end of a client's connection.
#[derive(Debug)]
pub struct Peer(UnixStream);

impl Peer {
    /// The next request; `None` at the end.
    pub fn next(&mut self) -> Option<ControllerToDaemon> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut body).unwrap();
        Some(ControllerToDaemon::decode(&body[..]).unwrap())
    }

    /// The next request, which must be this command.
    pub fn expect(&mut self, command: request::Command) -> ControllerToDaemon {
        let request = self.next().expect("a request");
        assert_eq!(request.command, i32::from(command));
        request
    }

    /// Header and body apart, as the old daemon writes them (protocol.md 1.3). A client that has gone is
    /// not the daemon's problem.
    pub fn send(&mut self, reply: &DaemonToController) -> bool {
        let body = reply.encode_to_vec();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        self.0
            .write_all(&length)
            .and_then(|()| self.0.write_all(&body))
            .is_ok()
    }

    /// Answers the look-up of the container.
    pub fn resolve(&mut self) {
        self.expect(request::Command::GetContainerStatus);
        self.send(&status_list());
    }
}

/// Listens on a socket of its own and serves one connection.
#[derive(Debug)]
pub struct Daemon {
    dir: TempDir,
    thread: JoinHandle<()>,
}

impl Daemon {
    /// Starts it with its script.
    pub fn start(script: impl FnOnce(&mut Peer) + Send + 'static) -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            script(&mut Peer(stream));
        });
        Self { dir, thread }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The client, to be run against it.
    pub fn control(&self, words: &[&str]) -> Command {
        let mut command = control();
        command.arg("-s").arg(self.socket()).args(words);
        command
    }

    /// Runs the client with this input and checks that the script went as expected.
    pub fn run(self, words: &[&str], input: &[u8]) -> Output {
        let mut client = self
            .control(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = thread::spawn(move || {
            // The client need not read it all.
            let _ = stdin.write_all(&input);
        });
        let output = client.wait_with_output().unwrap();
        feeder.join().unwrap();
        self.finish();
        output
    }

    /// Fails if the script did.
    pub fn finish(self) {
        self.thread.join().expect("the daemon's script");
    }
}

/// The client.
pub fn control() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control"));
    command.env_remove("CML_SOCKET");
    command
}

/// A reply that is nothing but its code.
pub fn bare(code: Code) -> DaemonToController {
    DaemonToController {
        code: code.into(),
        ..Default::default()
    }
}

/// `RESPONSE`
pub fn response(response: Response) -> DaemonToController {
    DaemonToController {
        response: Some(response.into()),
        ..bare(Code::Response)
    }
}

/// One container named `c`.
pub fn status_list() -> DaemonToController {
    DaemonToController {
        container_status: vec![ContainerStatus {
            uuid: UUID.into(),
            name: "c".into(),
            r#type: 1,
            state: 1,
            uptime: 0,
            created: 1_795_480_601,
            guestos: "minios".into(),
            trust_level: 1,
            cryptfs_mode: 4,
            audio: None,
            last_end: None,
            damage: None,
        }],
        ..bare(Code::ContainerStatus)
    }
}

/// What was printed.
pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
