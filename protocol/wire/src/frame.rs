//! Framing: four bytes of length, big endian, then that many bytes of message (protocol.md 1.3).
//!
//! [`Decoder`] is sans-io: it is fed whatever arrived, however little, and hands out whole messages. It
//! never waits, so a peer that stops in the middle of a frame holds up nobody but itself.

use std::io::{self, Read, Write};

use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, decode_key, skip_field},
};
use zeroize::{Zeroize, Zeroizing};

use crate::proto::ControllerToDaemon;

/// Bytes of the header.
const HEADER: usize = 4;

/// Lengths from here on are refused by both sides (protocol.md 1.3).
pub const MAX_BODY: usize = 64 << 20;

/// Number of `ControllerToDaemon.command`, the only required field of a request.
const COMMAND: u32 = 1;

/// Why a frame cannot be used. After any of these the stream is out of step and has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A length that no message has.
    #[error("a frame of {0} bytes: lengths from 1 to {max} are accepted", max = MAX_BODY - 1)]
    Length(usize),
    /// The body is no message of the expected type.
    #[error("the body of a frame is no message: {0}")]
    Message(#[from] DecodeError),
    /// A request without its command.
    #[error("a request names no command")]
    NoCommand,
    /// The stream failed, or ended inside a frame.
    #[error("the stream of frames broke off: {0}")]
    Stream(#[from] io::Error),
}

/// Cuts a byte stream into message bodies. Bytes are overwritten once they are handed out, as there may be
/// a PIN among them.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Zeroizing<Vec<u8>>,
    /// Bytes at the front that were handed out already.
    used: usize,
}

impl Decoder {
    /// Takes more bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        let waiting = self.buffer.len() - self.used;
        if self.used > 0 || self.buffer.capacity() - self.buffer.len() < bytes.len() {
            // A growing vector would leave its old bytes behind in freed memory.
            let mut fresh = Vec::with_capacity((waiting + bytes.len()).next_power_of_two());
            fresh.extend_from_slice(&self.buffer[self.used..]);
            self.buffer = Zeroizing::new(fresh);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete body, if it has arrived.
    ///
    /// # Errors
    /// A length of zero or of [`MAX_BODY`] and more, as soon as the header is there.
    #[allow(clippy::should_implement_trait)] // fallible, and not the end when there is nothing
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let waiting = &mut self.buffer[self.used..];
        let Some((header, rest)) = waiting.split_first_chunk_mut::<HEADER>() else {
            return Ok(None);
        };
        let length = body_length(*header)?;
        let Some(body) = rest.get_mut(..length) else {
            return Ok(None);
        };
        let message = body.to_vec();
        body.zeroize();
        self.used += HEADER + length;
        if self.used == self.buffer.len() {
            *self = Self::default();
        }
        Ok(Some(message))
    }
}

fn body_length(header: [u8; HEADER]) -> Result<usize, FrameError> {
    match u32::from_be_bytes(header) as usize {
        length if (1..MAX_BODY).contains(&length) => Ok(length),
        length => Err(FrameError::Length(length)),
    }
}

/// A message as one frame, header included, so that it can leave in one write.
///
/// # Errors
/// A message of 0 bytes, or of [`MAX_BODY`] and more.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    if !(1..MAX_BODY).contains(&length) {
        return Err(FrameError::Length(length));
    }
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    message.encode_raw(&mut frame);
    Ok(frame)
}

/// Reads a request and refuses one without a command; an unknown command is kept as its number
/// (protocol.md 1.4).
///
/// # Errors
/// A body that is no message, or names no command.
pub fn decode_request(body: &[u8]) -> Result<ControllerToDaemon, FrameError> {
    let request = ControllerToDaemon::decode(body)?;
    // An absent field decodes to the default; only then the bytes themselves have to tell.
    if request.command == ControllerToDaemon::default().command && !names_field(body, COMMAND)? {
        return Err(FrameError::NoCommand);
    }
    Ok(request)
}

fn names_field(mut body: &[u8], number: u32) -> Result<bool, DecodeError> {
    while !body.is_empty() {
        let (tag, wire_type) = decode_key(&mut body)?;
        if tag == number {
            return Ok(true);
        }
        skip_field(wire_type, tag, &mut body, DecodeContext::default())?;
    }
    Ok(false)
}

/// Reads one message from a blocking stream; `None` when it ended between two frames.
///
/// # Errors
/// A broken or cut-off stream, a length out of bounds, a body that is no message.
pub fn read_frame<M: Message + Default>(from: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut header = [0; HEADER];
    let mut have = 0;
    while have < HEADER {
        match from.read(&mut header[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = body_length(header)?;
    // Grows with what really arrives: a length is only a claim.
    let mut body = Vec::new();
    if from.take(length as u64).read_to_end(&mut body)? < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(M::decode(&body[..])?))
}

/// Writes one message to a blocking stream.
///
/// # Errors
/// A message too large for a frame, or a broken stream.
pub fn write_frame<M: Message>(to: &mut impl Write, message: &M) -> Result<(), FrameError> {
    let frame = Zeroizing::new(encode(message)?);
    Ok(to.write_all(&frame)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::{
        DaemonToController, controller_to_daemon::Command, daemon_to_controller::Code,
    };

    fn drain(decoder: &mut Decoder) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    #[test]
    fn the_recorded_list_exchange_has_these_bytes() {
        // wire-samples.md: `list` and its reply when there is no container.
        let request = ControllerToDaemon {
            command: Command::GetContainerStatus as i32,
            ..Default::default()
        };
        let reply = DaemonToController {
            code: Code::ContainerStatus as i32,
            ..Default::default()
        };
        // The sample was taken from a message of the same two bytes in both directions.
        assert_eq!(encode(&request).unwrap(), [0, 0, 0, 2, 8, 3]);
        assert_eq!(encode(&reply).unwrap(), [0, 0, 0, 2, 8, 3]);
        assert_eq!(decode_request(&[8, 3]).unwrap(), request);
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_with_the_header_alone() {
        for length in [0, MAX_BODY as u32, u32::MAX] {
            let mut decoder = Decoder::default();
            decoder.push(&length.to_be_bytes());
            assert!(matches!(decoder.next(), Err(FrameError::Length(l)) if l == length as usize));
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut decoder = Decoder::default();
        decoder.push(&(MAX_BODY as u32 - 1).to_be_bytes());
        assert!(decoder.next().unwrap().is_none());
        assert!(decoder.buffer.capacity() < 64);
    }

    #[test]
    fn a_request_without_a_command_is_refused_and_command_zero_is_not() {
        assert!(matches!(decode_request(&[]), Err(FrameError::NoCommand)));
        // Only field 14.
        assert!(matches!(
            decode_request(&[0x72, 1, b'x']),
            Err(FrameError::NoCommand)
        ));
        assert_eq!(decode_request(&[8, 0]).unwrap().command, 0);
        assert_eq!(decode_request(&[0x72, 1, b'x', 8, 0]).unwrap().command, 0);
    }

    #[test]
    fn nesting_without_end_is_an_error_and_no_overflow() {
        // Field 11 (a message) holding field 3 as a group that opens itself again and again.
        let bomb = vec![0x1b; 200_000];
        assert!(decode_request(&bomb).is_err());
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let whole = [0, 0, 0, 2, 8, 3];
        for cut in 1..whole.len() {
            assert!(read_frame::<DaemonToController>(&mut &whole[..cut]).is_err());
        }
        assert!(
            read_frame::<DaemonToController>(&mut &[][..])
                .unwrap()
                .is_none()
        );
        assert!(
            read_frame::<DaemonToController>(&mut &whole[..])
                .unwrap()
                .is_some()
        );
    }

    proptest! {
        #[test]
        fn every_way_of_cutting_a_stream_gives_the_same_messages(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            cuts in prop::collection::vec(1usize..50, 1..40),
        ) {
            let stream: Vec<u8> = bodies
                .iter()
                .flat_map(|body| (body.len() as u32).to_be_bytes().into_iter().chain(body.iter().copied()))
                .collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                got.extend(drain(&mut decoder));
                rest = later;
            }
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(body)) = decoder.next() {
                let _ = decode_request(&body);
            }
        }
    }
}
