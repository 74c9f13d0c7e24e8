//! The user's terminal: modes, and their restoration on every way out (LIF-11).
//!
//! The original modes are kept in one place of the process, because the guard, the panic hook and the
//! thread that sees fatal signals must all be able to put them back.

use std::{
    io::{self, IsTerminal, stdin},
    panic,
    sync::{Mutex, Once, PoisonError},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::AsFd,
    io::Errno,
    stdio,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};
use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use crate::warden::Warden;

/// The terminal does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum TtyError {
    /// Its modes.
    #[error("cannot change the modes of the terminal: {0}")]
    Modes(#[source] io::Error),
    /// The signals that would leave it in a bad mode.
    #[error("cannot watch signals: {0}")]
    Signals(#[source] io::Error),
    /// What moves the input.
    #[error("cannot start a thread: {0}; raise the limit of processes")]
    Thread(#[source] io::Error),
}

/// How the terminal shall behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every byte goes to the remote terminal: no signals, no lines, no echo, no output processing.
    Raw,
    /// Lines as usual, but only the newline is echoed.
    Hidden,
}

impl Mode {
    /// What becomes of these modes.
    pub fn of(self, original: &Termios) -> Termios {
        let mut modes = original.clone();
        match self {
            Self::Raw => modes.make_raw(),
            Self::Hidden => {
                modes.local_modes -= LocalModes::ECHO;
                modes.local_modes |= LocalModes::ECHONL;
            }
        }
        modes
    }
}

struct Modes {
    original: Termios,
    ours: Termios,
}

static CHANGED: Mutex<Option<Modes>> = Mutex::new(None);

/// While it lives, standard input has another mode.
#[derive(Debug)]
pub struct Guard {
    /// Without one the terminal is only safe from what can be caught.
    _warden: Option<Warden>,
}

impl Guard {
    /// Changes the mode of standard input; does nothing if that is not a terminal.
    ///
    /// # Errors
    /// [`TtyError`]
    pub fn enter(mode: Mode) -> Result<Option<Self>, TtyError> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let original = tcgetattr(stdio::stdin()).map_err(modes)?;
        let ours = mode.of(&original);
        watch_signals()?;
        let guard = Self {
            _warden: Warden::start(mode).ok(),
        };
        let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
        tcsetattr(stdio::stdin(), OptionalActions::Now, &ours).map_err(modes)?;
        *changed = Some(Modes { original, ours });
        drop(changed);
        Ok(Some(guard))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

fn modes(error: Errno) -> TtyError {
    TtyError::Modes(error.into())
}

/// Puts the original modes back. `Now`, as the terminal's output may be stopped for ever.
fn restore() {
    let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(modes) = changed.take() {
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &modes.original);
    }
}

/// After `fg` a shell leaves the modes as it likes them.
fn apply_again() {
    let changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(modes) = changed.as_ref() {
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &modes.ours);
    }
}

/// A panic in any thread leaves a usable terminal and a legible message.
pub fn restore_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}

/// Fatal signals restore the terminal first and then do what they always do.
fn watch_signals() -> Result<(), TtyError> {
    static WATCHED: Once = Once::new();
    let mut result = Ok(());
    WATCHED.call_once(|| result = start_watch());
    result.map_err(TtyError::Signals)
}

fn start_watch() -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCONT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGCONT {
                    apply_again();
                } else {
                    restore();
                    let _ = emulate_default_handler(signal);
                }
            }
        })?;
    Ok(())
}

/// Columns and rows of the user's terminal; `None` if there is none or it does not know.
pub fn window_size() -> Option<(u32, u32)> {
    [stdio::stdin(), stdio::stdout(), stdio::stderr()]
        .into_iter()
        .filter_map(|fd| tcgetwinsize(fd).ok())
        .find(|size| size.ws_col > 0 && size.ws_row > 0)
        .map(|size| (size.ws_col.into(), size.ws_row.into()))
}

/// Reads once, also from a descriptor that another process has made non-blocking. 0 is the end.
///
/// # Errors
/// Those of read(2).
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(&fd, &mut *buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(&fd, PollFlags::IN)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes everything, waiting for a slow reader; nothing is buffered here.
///
/// # Errors
/// Those of write(2).
pub fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(&fd, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(fd: &impl AsFd, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
