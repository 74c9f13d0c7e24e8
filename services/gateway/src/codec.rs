//! The seam to the wire crate's framing: everything the gateway uses of it is called here.

use cml_wire::{
    frame,
    proto::{ControllerToDaemon, DaemonToController},
};
use zeroize::Zeroize;

pub use cml_wire::frame::FrameError;

/// Bytes of a frame's header (protocol.md 1.3).
pub const HEADER: usize = 4;

/// Cuts the received bytes into frames.
#[derive(Debug, Default)]
pub struct Splitter(frame::Decoder);

impl Splitter {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next complete message, if it is there. Its bytes are overwritten after decoding, as there may
    /// be a PIN among them.
    ///
    /// # Errors
    /// A length of zero or of 64 MiB and more, as soon as the header is there; a body that is no message.
    pub fn request(&mut self) -> Result<Option<ControllerToDaemon>, FrameError> {
        let Some(mut body) = self.0.next()? else {
            return Ok(None);
        };
        let message = frame::decode_request(&body);
        body.zeroize();
        message.map(Some)
    }
}

/// A reply as one frame, header included, so that it leaves in one write.
///
/// # Errors
/// A reply of 64 MiB or more.
pub fn reply(message: &DaemonToController) -> Result<Vec<u8>, FrameError> {
    frame::encode(message)
}
