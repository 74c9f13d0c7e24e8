//! A connection to the daemon: one frame out, one frame in (protocol.md 1.3).

use std::{
    io::{self, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use cml_wire::{
    frame,
    proto::{ControllerToDaemon, DaemonToController, controller_to_daemon::Command},
};
use zeroize::{Zeroize, Zeroizing};

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot reach cmld at {}: {source}; {}", path.display(), advice(source))]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What connecting answered.
        source: io::Error,
    },
    /// The connection ended before the reply.
    #[error("cmld at {} closed the connection without an answer; see its log", .0.display())]
    Closed(PathBuf),
    /// The connection broke, or what came is not a reply.
    #[error("the connection to cmld at {} failed: {source}", path.display())]
    Broken {
        /// The control socket.
        path: PathBuf,
        /// What went wrong.
        source: frame::FrameError,
    },
    /// Writing failed.
    #[error("cannot send to cmld at {}: {source}", path.display())]
    Send {
        /// The control socket.
        path: PathBuf,
        /// What writing answered.
        source: io::Error,
    },
    /// More than a frame holds (64 MiB).
    #[error("the request cannot be sent: {0}")]
    TooLarge(frame::FrameError),
}

/// What the operator can do about a connection that failed.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "only root and the group cml-control may ask it",
        _ => "is it running?",
    }
}

/// A request that is nothing but its command.
pub fn bare(command: Command) -> ControllerToDaemon {
    ControllerToDaemon {
        command: command.into(),
        ..Default::default()
    }
}

/// A request about one container.
pub fn about(command: Command, uuid: &str) -> ControllerToDaemon {
    ControllerToDaemon {
        container_uuids: vec![uuid.to_owned()],
        ..bare(command)
    }
}

/// The connection.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    read: BufReader<UnixStream>,
    write: Sender,
    /// The UUID of the container that is talked about, and what the operator calls it.
    about: Option<(String, String)>,
}

impl Client {
    /// Connects to the control socket.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`]
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        let write = Sender {
            path: path.to_owned(),
            stream: stream.try_clone().map_err(unreachable)?,
        };
        Ok(Self {
            path: path.to_owned(),
            read: BufReader::new(stream),
            write,
            about: None,
        })
    }

    /// What the daemon says about the container with this UUID is said with these words from now on.
    pub fn call_it(&mut self, uuid: &str, words: String) {
        self.about = Some((uuid.to_owned(), words));
    }

    /// Sends the request and waits for the next message. How long a start takes is the daemon's business,
    /// so there is no deadline.
    ///
    /// # Errors
    /// Any but [`ClientError::Unreachable`].
    pub fn call(&mut self, request: ControllerToDaemon) -> Result<DaemonToController, ClientError> {
        self.write.send(request)?;
        self.receive()
    }

    /// The next message.
    ///
    /// # Errors
    /// [`ClientError::Closed`], [`ClientError::Broken`]
    pub fn receive(&mut self) -> Result<DaemonToController, ClientError> {
        match frame::read_frame(&mut self.read) {
            Ok(Some(message)) => Ok(match &self.about {
                Some((uuid, words)) => renamed(message, uuid, words),
                None => message,
            }),
            Ok(None) => Err(ClientError::Closed(self.path.clone())),
            Err(source) => Err(ClientError::Broken {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Sends without waiting for an answer.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::TooLarge`]
    pub fn send(&mut self, request: ControllerToDaemon) -> Result<(), ClientError> {
        self.write.send(request)
    }

    /// Another handle of the sending half. Frames of two handles mix, so only one may be in use.
    ///
    /// # Errors
    /// [`ClientError::Send`]
    pub fn sender(&self) -> Result<Sender, ClientError> {
        let stream = self.write.stream.try_clone();
        Ok(Sender {
            path: self.path.clone(),
            stream: stream.map_err(|source| ClientError::Send {
                path: self.path.clone(),
                source,
            })?,
        })
    }
}

/// With other words for a container in what is meant for people.
fn renamed(mut reply: DaemonToController, uuid: &str, words: &str) -> DaemonToController {
    let texts = [&mut reply.error_text, &mut reply.done_text];
    let texts = texts.into_iter().flatten().chain(&mut reply.warnings);
    for text in texts {
        *text = text.replace(uuid, words);
    }
    reply
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    path: PathBuf,
    stream: UnixStream,
}

impl Sender {
    /// Sends the request; every copy of what it holds is wiped, as it may be a PIN.
    ///
    /// # Errors
    /// [`ClientError::Send`], [`ClientError::TooLarge`]
    pub fn send(&mut self, mut request: ControllerToDaemon) -> Result<(), ClientError> {
        let frame = frame::encode(&request).map(Zeroizing::new);
        if let Some(params) = request.container_start_params.as_mut() {
            params.key.zeroize();
        }
        request.device_pin.zeroize();
        request.device_newpin.zeroize();
        request.exec_input.zeroize();
        self.stream
            .write_all(&frame.map_err(ClientError::TooLarge)?)
            .map_err(|source| ClientError::Send {
                path: self.path.clone(),
                source,
            })
    }
}
