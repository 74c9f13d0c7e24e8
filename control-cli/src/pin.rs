//! Where the PIN of start and stop comes from (protocol.md 4.4).

use std::io::{self, IsTerminal, Write};

use cml_wire::proto::{controller_to_daemon::Command, daemon_to_controller::Code};
use rustix::stdio;
use zeroize::Zeroizing;

use crate::{
    cli::{Key, Secret},
    client::{self, Client, ClientError},
    exit,
    render::{self, Format},
    resolve::Container,
    tty::{self, Guard, Mode, TtyError},
};

/// Longest PIN in bytes. The old client cut at 126; a canonical terminal line has 4095.
const MAX: usize = 4095;

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The daemon could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The echo could not be switched off.
    #[error(transparent)]
    Tty(#[from] TtyError),
    /// Standard input.
    #[error("cannot read the PIN: {0}")]
    Read(#[source] io::Error),
    /// More than [`MAX`] bytes.
    #[error("the PIN is longer than {MAX} bytes")]
    TooLong,
    /// The input ended before anything was given.
    #[error("no PIN was given; nothing was sent to the daemon")]
    NoPin,
    /// A typing mistake.
    #[error("the two new PINs differ; nothing was changed")]
    Mismatch,
    /// The wire carries text.
    #[error("the PIN is not valid UTF-8")]
    NotText,
}

/// What the daemon says about the PIN of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Ask here.
    Here,
    /// The user types at a reader at the device.
    Reader,
    /// None is needed.
    None,
}

/// The PIN to send; `None` means that the field `key` is left out.
///
/// # Errors
/// [`PinError`]
pub fn obtain(
    client: &mut Client,
    container: &Container,
    key: Key,
    format: Format,
) -> Result<Option<Zeroizing<String>>, PinError> {
    match entry(client, container)? {
        Entry::None => Ok(None),
        Entry::Reader => {
            if key.key.is_some() {
                exit::complain("--key is ignored: this container takes its PIN from the reader");
            }
            exit::say("Please enter the PIN at the reader of the device.");
            Ok(None)
        }
        Entry::Here => match key.key {
            Some(given) => Ok(given.map(|Secret(text)| text)),
            // The end of the input is an empty PIN (protocol.md 4.4), what old daemons expect for
            // containers without a token; ours refuses it without counting a try.
            None => match prompt(
                "Password: ",
                &format!("PIN of {}: ", named(container)),
                format,
            ) {
                Err(PinError::NoPin) => Ok(Some(Zeroizing::default())),
                given => given.map(Some),
            },
        },
    }
}

fn entry(client: &mut Client, container: &Container) -> Result<Entry, PinError> {
    let request = client::about(Command::ContainerCmldHandlesPin, &container.uuid);
    let reply = client.call(request)?;
    if reply.code != i32::from(Code::ContainerCmldHandlesPin) {
        // As the old client does: what matters is the answer to the command itself.
        let reason = render::printable(&exit::reason(&reply));
        exit::complain(&format!("cannot tell where the PIN is entered: {reason}"));
        return Ok(Entry::Here);
    }
    Ok(
        match (reply.container_cmld_handles_pin, reply.pin_required) {
            (_, Some(false)) => Entry::None,
            (Some(true), _) => Entry::Reader,
            _ => Entry::Here,
        },
    )
}

fn named(container: &Container) -> String {
    render::printable(&container.name)
}

/// The old PIN and the new one, which is asked for twice; of the device if no container is named.
///
/// # Errors
/// [`PinError`]; [`PinError::Mismatch`] before anything was sent.
pub fn obtain_change(
    of: Option<&Container>,
    format: Format,
) -> Result<(Zeroizing<String>, Zeroizing<String>), PinError> {
    let of = of.map_or_else(|| "the device".to_owned(), named);
    let old = prompt(
        "Current Password: ",
        &format!("Current PIN of {of}: "),
        format,
    )?;
    let new = prompt("New Password: ", &format!("New PIN of {of}: "), format)?;
    let again = prompt("Re-enter New Password: ", "New PIN again: ", format)?;
    if new != again {
        return Err(PinError::Mismatch);
    }
    Ok((old, new))
}

/// Scripts know the old words (protocol.md 4.4), a person is told whose PIN is meant. Standard output must stay one
/// document if it is JSON.
fn prompt(old: &str, words: &str, format: Format) -> Result<Zeroizing<String>, PinError> {
    let words = match io::stdin().is_terminal() {
        true => words.as_bytes(),
        false => old.as_bytes(),
    };
    // Before the prompt, so that nothing typed after it is echoed.
    let hidden = Guard::enter(Mode::Hidden)?;
    let shown = match format {
        Format::Json => io::stderr().write_all(words),
        Format::Text | Format::Table { .. } => {
            let mut out = io::stdout().lock();
            out.write_all(words).and_then(|()| out.flush())
        }
    };
    // Nobody sees the prompt; the PIN may come all the same.
    drop(shown);
    let line = read_line(|buffer| tty::read(stdio::stdin(), buffer));
    drop(hidden);
    line
}

/// One line without its newline; the end of the input ends it too. Byte by byte, so that what follows is
/// left to others, into a buffer that never moves, so that no copy stays behind.
fn read_line(
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<Zeroizing<String>, PinError> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX));
    let mut byte = Zeroizing::new([0]);
    loop {
        match read(&mut *byte).map_err(PinError::Read)? {
            0 if line.is_empty() => return Err(PinError::NoPin),
            1 if *byte != *b"\n" => {}
            _ => break,
        }
        if line.len() == MAX {
            return Err(PinError::TooLong);
        }
        line.push(byte[0]);
    }
    let text = std::str::from_utf8(&line).map_err(|_| PinError::NotText)?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    fn line(mut input: &[u8]) -> Result<String, PinError> {
        read_line(|buffer| input.read(buffer)).map(|text| text.to_string())
    }

    #[test]
    fn only_the_newline_is_cut() {
        assert_eq!(line(b"1234\n").unwrap(), "1234");
        assert_eq!(line(b"1234").unwrap(), "1234");
        assert_eq!(line(b"12 34 \r\nnext").unwrap(), "12 34 \r");
        assert_eq!(line(b"\n").unwrap(), "");
        assert!(matches!(line(b""), Err(PinError::NoPin)));
    }

    #[test]
    fn what_follows_the_line_is_not_read() {
        let mut input: &[u8] = b"one\ntwo\n";
        read_line(|buffer| input.read(buffer)).unwrap();
        assert_eq!(input, b"two\n");
    }

    #[test]
    fn a_pin_has_a_greatest_length_and_is_text() {
        assert_eq!(line(&vec![b'1'; MAX]).unwrap().len(), MAX);
        assert!(matches!(line(&vec![b'1'; MAX + 1]), Err(PinError::TooLong)));
        assert!(matches!(line(b"\xff\n"), Err(PinError::NotText)));
    }
}
