//! A terminal, and the client at it.

use std::{fs::File, os::fd::OwnedFd, process::Child};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::Daemon;

/// A terminal of 100 x 30 characters: both ends.
pub fn terminal() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = Winsize {
        ws_col: 100,
        ws_row: 30,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).unwrap();
    (File::from(master), slave.into())
}

/// The client with its input and output at this terminal.
pub fn at_terminal(daemon: &Daemon, args: &[&str], terminal: &OwnedFd) -> Child {
    daemon
        .control(args)
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .spawn()
        .unwrap()
}
