//! `run` with pipes and with a terminal (protocol.md 4.5, LIF-11).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::mpsc,
};

use cml_wire::proto::{
    ControllerToDaemon, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};
use common::{
    Daemon, Peer, UUID, bare, response,
    terminal::{at_terminal, terminal},
    text,
};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

fn output(bytes: &[u8]) -> DaemonToController {
    DaemonToController {
        exec_output: Some(bytes.into()),
        ..bare(Code::ExecOutput)
    }
}

fn end(status: i32) -> DaemonToController {
    DaemonToController {
        exec_status: Some(status),
        ..bare(Code::ExecEnd)
    }
}

fn exec(peer: &mut Peer) -> ControllerToDaemon {
    peer.resolve();
    peer.expect(Command::ContainerExecCmd)
}

/// All input until the client says that there is no more.
fn input(peer: &mut Peer) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let request = peer.expect(Command::ContainerExecInput);
        assert_eq!(request.container_uuids, [UUID]);
        all.extend(request.exec_input.unwrap_or_default());
        if request.exec_input_eof == Some(true) {
            return all;
        }
    }
}

#[test]
fn output_and_status_are_those_of_the_command() {
    let daemon = Daemon::start(|peer| {
        let request = exec(peer);
        assert_eq!(request.exec_command.as_deref(), Some("sh"));
        assert_eq!(request.exec_args, ["sh", "-c", "exit 7"]);
        assert_eq!(request.exec_pty, Some(false));
        assert_eq!(request.exec_separate_output, Some(true));
        assert_eq!(request.exec_env, ["A=b=c"]);
        assert_eq!(request.exec_workdir.as_deref(), Some("/srv"));
        peer.send(&output(b"one\0\xff"));
        peer.send(&DaemonToController {
            exec_stderr: Some(b"warning\n".into()),
            ..bare(Code::ExecOutput)
        });
        peer.send(&output(b"two"));
        peer.send(&end(7));
    });
    let words = [
        "run", "-e", "A=b=c", "-w", "/srv", "c", "sh", "-c", "exit 7",
    ];
    let output = daemon.run(&words, b"");
    assert_eq!(output.stdout, b"one\0\xfftwo");
    assert_eq!(output.stderr, b"warning\n");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn every_byte_of_the_input_passes_and_then_its_end() {
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let expected = bytes.clone();
    let daemon = Daemon::start(move |peer| {
        exec(peer);
        let all = input(peer);
        assert!(all == expected);
        for chunk in all.chunks(1023) {
            peer.send(&output(chunk));
        }
        peer.send(&end(0));
    });
    let output = daemon.run(&["run", "c", "cat"], &bytes);
    assert!(output.stdout == bytes);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn input_that_is_not_read_does_not_hold_back_output() {
    let daemon = Daemon::start(|peer| {
        exec(peer);
        for _ in 0..1000 {
            peer.send(&output(&[b'x'; 16 * 1024]));
        }
        peer.send(&end(0));
    });
    let output = daemon.run(&["run", "c", "yes"], &vec![0; 8 << 20]);
    assert_eq!(output.stdout.len(), 1000 * 16 * 1024);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_ends_it_like_sigpipe() {
    let daemon = Daemon::start(|peer| {
        exec(peer);
        while peer.send(&output(&[b'x'; 16 * 1024])) {}
    });
    let mut client = daemon
        .control(&["run", "c", "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut [0; 10])
        .unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(141));
    daemon.finish();
}

#[test]
fn a_refusal_is_status_1_with_its_reason() {
    let daemon = Daemon::start(|peer| {
        exec(peer);
        peer.send(&response(Response::CmdUnsupported));
    });
    let output = daemon.run(&["run", "c", "ls"], b"");
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("CMD_UNSUPPORTED"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_command_that_cannot_run_says_why() {
    let daemon = Daemon::start(|peer| {
        exec(peer);
        peer.send(&DaemonToController {
            error_text: Some("not running".into()),
            ..end(126)
        });
    });
    let output = daemon.run(&["run", "c", "ls"], b"");
    assert_eq!(text(&output.stderr), "control: run failed: not running\n");
    assert_eq!(output.status.code(), Some(126));
}

#[test]
fn an_old_daemon_tells_no_status() {
    let daemon = Daemon::start(|peer| {
        exec(peer);
        peer.send(&bare(Code::ExecEnd));
    });
    assert_eq!(
        daemon.run(&["run", "c", "nopty", "ls"], b"").status.code(),
        Some(0)
    );
}

#[test]
fn a_daemon_that_goes_away_is_status_125() {
    let daemon = Daemon::start(|peer| {
        exec(peer);
        peer.send(&output(b"half"));
    });
    let output = daemon.run(&["run", "c", "ls"], b"");
    assert_eq!(output.stdout, b"half");
    assert_eq!(output.status.code(), Some(125));
}

fn is_raw(terminal: &OwnedFd) -> bool {
    let modes = tcgetattr(terminal).unwrap().local_modes;
    !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

#[test]
fn a_terminal_is_raw_while_the_command_runs_and_restored_afterwards() {
    let (mut master, slave) = terminal();
    let seen = slave.try_clone().unwrap();
    let daemon = Daemon::start(move |peer| {
        let request = exec(peer);
        assert_eq!(request.exec_pty, Some(true));
        assert_eq!(
            (request.exec_cols, request.exec_rows),
            (Some(100), Some(30))
        );
        assert_eq!(request.exec_separate_output, None);
        peer.send(&output(b"go"));
        // Ctrl-C is a byte like any other; with a carriage return nothing else changes either.
        let mut all = Vec::new();
        while all.len() < 3 {
            all.extend(peer.expect(Command::ContainerExecInput).exec_input.unwrap());
        }
        assert_eq!(all, b"a\x03\r");
        assert!(is_raw(&seen));
        peer.send(&end(0));
    });
    let mut client = at_terminal(&daemon, &["run", "c", "sh"], &slave);
    let mut go = [0; 2];
    master.read_exact(&mut go).unwrap();
    assert_eq!(&go, b"go");
    master.write_all(b"a\x03\r").unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
    daemon.finish();
}

/// A command that runs until its client has gone, whose terminal is raw by now; the other side of the terminal is
/// held open.
fn in_raw_mode() -> (Daemon, Child, OwnedFd, impl Sized) {
    let (master, slave) = terminal();
    let (running, is_running) = mpsc::channel();
    let seen = slave.try_clone().unwrap();
    let daemon = Daemon::start(move |peer| {
        exec(peer);
        while !is_raw(&seen) {
            std::thread::yield_now();
        }
        running.send(()).unwrap();
        while peer.next().is_some() {}
    });
    let client = daemon
        .control(&["run", "-t", "c", "sh"])
        .stdin(slave.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    is_running.recv().unwrap();
    (daemon, client, slave, master)
}

#[test]
fn a_signal_restores_the_terminal() {
    let (daemon, mut client, slave, _master) = in_raw_mode();
    let pid = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = client.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(15)
    );
    assert!(!is_raw(&slave));
    daemon.finish();
}

/// By a second process of the client, which holds no connection to the daemon.
#[test]
fn a_client_that_is_killed_leaves_a_sane_terminal() {
    let (daemon, mut client, slave, _master) = in_raw_mode();
    client.kill().unwrap();
    client.wait().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while is_raw(&slave) && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!is_raw(&slave));
    daemon.finish();
}

#[test]
fn a_new_window_size_is_told() {
    let (_master, slave) = terminal();
    let (running, is_running) = mpsc::channel();
    let daemon = Daemon::start(move |peer| {
        exec(peer);
        running.send(()).unwrap();
        let request = peer.expect(Command::ContainerExecResize);
        assert_eq!(request.container_uuids, [UUID]);
        assert_eq!(
            (request.exec_cols, request.exec_rows),
            (Some(132), Some(50))
        );
        peer.send(&end(0));
    });
    let mut client = at_terminal(&daemon, &["run", "c", "sh"], &slave);
    is_running.recv().unwrap();
    let size = Winsize {
        ws_col: 132,
        ws_row: 50,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).unwrap();
    // The terminal is not the client's controlling one, so the kernel does not send it by itself.
    let pid = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    daemon.finish();
}
