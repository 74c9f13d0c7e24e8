//! `run`: a command in a container, with the user's terminal or with pipes (protocol.md 3.8, 4.5, LIF-11).
//!
//! This thread moves output from the socket to standard output and so stops reading when that is slow;
//! a second one is the only writer of the socket and moves input and window sizes.

use std::{
    io::{self, IsTerminal},
    os::unix::net::UnixStream,
    thread,
};

use cml_wire::proto::{
    ControllerToDaemon, DaemonToController, controller_to_daemon::Command,
    daemon_to_controller::Code,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    stdio,
};
use signal_hook::{consts::SIGWINCH, low_level::pipe};
use zeroize::Zeroizing;

use super::Context;
use crate::{
    cli::{PtyWish, Run},
    client::{self, Client, Sender},
    exit::{self, CliError},
    render,
    resolve::Purpose,
    tty::{self, Guard, Mode, TtyError},
};

/// Most input in one message: what the daemon passes on in one piece.
const CHUNK: usize = 16 * 1024;

/// `run`
pub fn run(context: &Context<'_>, run: &Run) -> Result<u8, CliError> {
    let (wish, argv) = run.split();
    let pty = wants_pty(wish, io::stdin().is_terminal(), io::stdout().is_terminal());
    let (mut client, container) = context.connect_to(&run.container, Purpose::Change)?;
    // Before the first size is taken, so that no change is missed.
    let resized = if pty { Some(watch_size()?) } else { None };
    client.send(request(run, argv, pty, &container.uuid))?;
    let sender = client.sender()?;
    let raw = if pty { Guard::enter(Mode::Raw)? } else { None };
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            Input {
                sender,
                uuid: container.uuid,
                resized,
            }
            .forward()
        })
        .map_err(TtyError::Thread)?;
    let end = output(&mut client);
    drop(raw);
    let end = end?;
    if end.code != i32::from(Code::ExecEnd) {
        let reason = render::printable(&exit::reason(&end));
        exit::complain(&format!("run failed: {reason}"));
        return Ok(exit::REFUSED);
    }
    if let Some(reason) = &end.error_text {
        exit::complain(&format!("run failed: {}", render::printable(reason)));
    }
    Ok(status(&end))
}

/// With a file or a pipe at both ends every byte must pass unchanged, so there is no terminal unless
/// asked for.
fn wants_pty(wish: PtyWish, stdin: bool, stdout: bool) -> bool {
    match wish {
        PtyWish::Yes => true,
        PtyWish::No => false,
        PtyWish::Unsaid => stdin || stdout,
    }
}

fn request(run: &Run, argv: &[String], pty: bool, uuid: &str) -> ControllerToDaemon {
    let size = tty::window_size().filter(|_| pty);
    ControllerToDaemon {
        exec_command: argv.first().cloned(),
        exec_args: argv.to_vec(),
        // Exec is ignored without it (protocol.md 2.1).
        exec_pty: Some(pty),
        exec_cols: size.map(|(cols, _)| cols),
        exec_rows: size.map(|(_, rows)| rows),
        exec_env: run.env.clone(),
        exec_workdir: run.workdir.clone(),
        exec_user: run.user.clone(),
        exec_separate_output: (!pty).then_some(true),
        exec_extended: Some(true),
        ..client::about(Command::ContainerExecCmd, uuid)
    }
}

/// Something to read for every change of the terminal's size.
fn watch_size() -> Result<UnixStream, TtyError> {
    let (read, write) = UnixStream::pair().map_err(TtyError::Signals)?;
    read.set_nonblocking(true).map_err(TtyError::Signals)?;
    pipe::register(SIGWINCH, write).map_err(TtyError::Signals)?;
    Ok(read)
}

/// Passes output on until a message that is none.
fn output(client: &mut Client) -> Result<DaemonToController, CliError> {
    loop {
        let message = client.receive()?;
        if message.code != i32::from(Code::ExecOutput) {
            return Ok(message);
        }
        if let Some(bytes) = &message.exec_output {
            tty::write_all(stdio::stdout(), bytes).map_err(CliError::Output)?;
        }
        if let Some(bytes) = &message.exec_stderr {
            // A command goes on when nobody reads what it says beside its results.
            let _ = tty::write_all(stdio::stderr(), bytes);
        }
    }
}

/// An old daemon tells no status.
fn status(end: &DaemonToController) -> u8 {
    match end.exec_status {
        None => exit::OK,
        Some(status) => u8::try_from(status).unwrap_or(u8::MAX),
    }
}

/// The only writer of the socket from now on.
struct Input {
    sender: Sender,
    uuid: String,
    resized: Option<UnixStream>,
}

impl Input {
    /// Until the daemon is gone, which the other thread notices.
    fn forward(mut self) {
        let mut buffer = Zeroizing::new(vec![0; CHUNK]);
        let mut open = true;
        while open || self.resized.is_some() {
            let Ok((input, resized)) = self.wait(open) else {
                return;
            };
            if resized && self.resize().is_none() {
                return;
            }
            if input {
                // A terminal that hangs up ends with EIO.
                let count = tty::read(stdio::stdin(), &mut buffer).unwrap_or(0);
                open = count > 0;
                if self.input(&buffer[..count]).is_none() {
                    return;
                }
            }
        }
    }

    /// Which of standard input and window size has something.
    fn wait(&self, open: bool) -> Result<(bool, bool), Errno> {
        let mut fds = Vec::with_capacity(2);
        if open {
            fds.push(PollFd::from_borrowed_fd(stdio::stdin(), PollFlags::IN));
        }
        if let Some(resized) = &self.resized {
            fds.push(PollFd::new(resized, PollFlags::IN));
        }
        while let Err(error) = poll(&mut fds, None) {
            if error != Errno::INTR {
                return Err(error);
            }
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let input = open && ready.next().unwrap_or(false);
        Ok((input, ready.next().unwrap_or(false)))
    }

    fn input(&mut self, bytes: &[u8]) -> Option<()> {
        let mut request = client::about(Command::ContainerExecInput, &self.uuid);
        if bytes.is_empty() {
            request.exec_input_eof = Some(true);
        } else {
            request.exec_input = Some(bytes.to_vec());
        }
        self.sender.send(request).ok()
    }

    fn resize(&mut self) -> Option<()> {
        let resized = self.resized.as_ref()?;
        // Many changes, one message: only the last size counts.
        while rustix::io::read(resized, &mut [0; 64]).is_ok_and(|count| count > 0) {}
        let Some((cols, rows)) = tty::window_size() else {
            return Some(());
        };
        let mut request = client::about(Command::ContainerExecResize, &self.uuid);
        request.exec_cols = Some(cols);
        request.exec_rows = Some(rows);
        self.sender.send(request).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_given_to_those_who_have_or_want_one() {
        assert!(wants_pty(PtyWish::Unsaid, true, true));
        assert!(wants_pty(PtyWish::Unsaid, true, false));
        assert!(wants_pty(PtyWish::Unsaid, false, true));
        assert!(!wants_pty(PtyWish::Unsaid, false, false));
        assert!(wants_pty(PtyWish::Yes, false, false));
        assert!(!wants_pty(PtyWish::No, true, true));
    }

    #[test]
    fn the_status_is_the_commands_own() {
        let end = |exec_status| DaemonToController {
            exec_status,
            ..Default::default()
        };
        assert_eq!(status(&end(None)), 0);
        assert_eq!(status(&end(Some(7))), 7);
        assert_eq!(status(&end(Some(137))), 137);
        assert_eq!(status(&end(Some(256))), 255);
        assert_eq!(status(&end(Some(-1))), 255);
    }
}
