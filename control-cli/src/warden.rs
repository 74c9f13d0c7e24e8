//! A second process that puts the terminal's modes back when `control` ends by what no program can catch:
//! `kill -9`, or the kernel being out of memory (LIF-11).
//!
//! It is this program again, in a session of its own, where no signal of the terminal reaches it. It waits at a
//! socket: a byte says that all is well, the end without one that nobody is left to put the modes back.

use std::{
    env::{self, ArgsOs},
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
};

use rustix::{
    stdio,
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

use crate::tty::Mode;

/// The first word of the second process's arguments; the second one is the mode.
const WORD: &str = "--restore-terminal";
/// This very program, also when its file has been replaced meanwhile.
const MYSELF: &str = "/proc/self/exe";

/// Holds the second process. Dropping it says that the modes are back.
#[derive(Debug)]
pub struct Warden {
    link: UnixStream,
    process: Child,
}

impl Warden {
    /// Has standard input's modes put back if this process ends without dropping what is returned. Must be called
    /// before they are changed to `mode`.
    ///
    /// # Errors
    /// There is no procfs, or no room for a process.
    pub fn start(mode: Mode) -> io::Result<Self> {
        let (mut link, theirs) = UnixStream::pair()?;
        let terminal = stdio::stdin().try_clone_to_owned()?;
        let word = match mode {
            Mode::Raw => "raw",
            Mode::Hidden => "hidden",
        };
        let process = Command::new(MYSELF)
            .args([WORD, word])
            .env_clear()
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(terminal)
            .stderr(Stdio::null())
            .spawn()?;
        // Until it has seen the modes.
        link.read_exact(&mut [0])?;
        Ok(Self { link, process })
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        let _ = self.link.write_all(b".");
        let _ = self.process.wait();
    }
}

/// The life of the second process; `None` in any other.
pub fn serve(mut args: ArgsOs) -> Option<()> {
    if args.nth(1).as_deref() != Some(OsStr::new(WORD)) {
        return None;
    }
    let mode = match args.next().as_deref().and_then(OsStr::to_str) {
        Some("raw") => Mode::Raw,
        _ => Mode::Hidden,
    };
    // Whatever fails, nobody is there to be told, and the terminal stays what it is.
    let _ = watch(mode);
    Some(())
}

fn watch(mode: Mode) -> io::Result<()> {
    rustix::process::setsid()?;
    env::set_current_dir("/")?;
    let mut link = UnixStream::from(stdio::stdin().try_clone_to_owned()?);
    let original = tcgetattr(stdio::stdout())?;
    link.write_all(b".")?;
    if matches!(link.read(&mut [0]), Ok(0) | Err(_)) {
        // A shell that has put things right by itself meanwhile is not disturbed.
        let now = tcgetattr(stdio::stdout())?;
        if same(&now, &mode.of(&original)) {
            tcsetattr(stdio::stdout(), OptionalActions::Now, &original)?;
        }
    }
    Ok(())
}

fn same(one: &Termios, other: &Termios) -> bool {
    one.input_modes == other.input_modes
        && one.output_modes == other.output_modes
        && one.local_modes == other.local_modes
}
