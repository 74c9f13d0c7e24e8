//! What a person at a terminal is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    process::Stdio,
};

use cml_wire::proto::{
    ContainerConfig, ContainerState, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};
use common::{
    Daemon, Peer, UUID, bare, response, status_list,
    terminal::{at_terminal, terminal},
    text,
};
use rustix::termios::{LocalModes, tcgetattr};

#[test]
fn a_pin_typed_at_a_terminal_is_not_echoed() {
    let (mut master, slave) = terminal();
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        peer.expect(Command::ContainerCmldHandlesPin);
        peer.send(&bare(Code::ContainerCmldHandlesPin));
        let params = peer
            .expect(Command::ContainerStart)
            .container_start_params
            .unwrap();
        assert_eq!(params.key.as_deref(), Some("geheim"));
        peer.send(&response(Response::ContainerStartOk));
    });
    let mut client = at_terminal(&daemon, &["start", "c"], &slave);
    let mut prompt = [0; 10];
    master.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"PIN of c: ");
    master.write_all(b"geheim\n").unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    let mut rest = [0; 200];
    let count = master.read(&mut rest).unwrap();
    assert!(!text(&rest[..count]).contains("geheim"));
    let modes = tcgetattr(&slave).unwrap().local_modes;
    assert!(modes.contains(LocalModes::ECHO));
    daemon.finish();
}

#[test]
fn what_cannot_be_taken_back_is_asked_about() {
    for (word, answer, done) in [
        ("remove", "n\n", false),
        ("remove", "\n", false),
        ("remove", "y\n", true),
        ("wipe", "no\n", false),
        ("wipe", "yes\n", true),
    ] {
        let (mut master, slave) = terminal();
        let daemon = Daemon::start(move |peer| {
            peer.expect(Command::GetContainerStatus);
            let mut running = status_list();
            running.container_status[0].set_state(ContainerState::Running);
            peer.send(&running);
            match peer.next() {
                Some(request) => {
                    assert!(done && request.container_uuids == [UUID]);
                    peer.send(&response(Response::CmdOk));
                }
                None => assert!(!done),
            }
        });
        master.write_all(answer.as_bytes()).unwrap();
        let client = daemon
            .control(&[word, "c"])
            .stdin(slave)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = client.wait_with_output().unwrap();
        let question = text(&output.stderr);
        assert!(question.contains("container c (") && question.contains("RUNNING"));
        assert_eq!(
            output.status.code(),
            Some(i32::from(!done)),
            "{word} {answer}"
        );
        daemon.finish();
    }
}

/// Another configuration of `c`, as an option, and where it was written to.
fn configuration() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.conf");
    std::fs::write(&path, "name: \"c\"\nguest_os: \"os\"\n").unwrap();
    let name = path.to_str().unwrap().to_owned();
    (dir, name)
}

fn refuse_to_wipe(peer: &mut Peer) {
    peer.resolve();
    let request = peer.expect(Command::ContainerUpdateConfig);
    assert_eq!(request.may_wipe, Some(false));
    peer.send(&DaemonToController {
        would_wipe: Some(true),
        ..bare(Code::ContainerConfig)
    });
}

fn updated(peer: &mut Peer) {
    let request = peer.expect(Command::ContainerUpdateConfig);
    assert_eq!(request.may_wipe, None);
    assert!(request.container_config_file.is_some() && request.container_uuids == [UUID]);
    peer.send(&DaemonToController {
        container_uuids: vec![UUID.into()],
        container_configs: vec![ContainerConfig::default()],
        ..bare(Code::ContainerConfig)
    });
}

#[test]
fn an_update_that_deletes_what_is_stored_is_asked_about() {
    for (answer, done) in [("n\n", false), ("\n", false), ("y\n", true)] {
        let (mut master, slave) = terminal();
        let (_dir, conf) = configuration();
        let daemon = Daemon::start(move |peer| {
            refuse_to_wipe(peer);
            match done {
                true => updated(peer),
                false => assert_eq!(peer.next(), None),
            }
        });
        master.write_all(answer.as_bytes()).unwrap();
        let output = daemon
            .control(&["update_config", "c", &conf])
            .stdin(slave)
            .output()
            .unwrap();
        let question = text(&output.stderr);
        assert!(question.contains("Container c ("));
        assert!(question.contains("Delete what it has stored?"));
        assert_eq!(output.status.code(), Some(i32::from(!done)), "{answer}");
        daemon.finish();
    }
}

#[test]
fn a_script_updates_as_it_always_did_and_so_does_who_says_yes() {
    let (_dir, conf) = configuration();
    let script = |peer: &mut Peer| {
        peer.resolve();
        updated(peer);
    };
    let output = Daemon::start(script).run(&["update_config", "c", &conf], b"");
    assert_eq!(output.status.code(), Some(0));
    let (_master, slave) = terminal();
    let daemon = Daemon::start(script);
    let mut client = at_terminal(&daemon, &["update_config", "-y", "c", &conf], &slave);
    assert_eq!(client.wait().unwrap().code(), Some(0));
    daemon.finish();
}

#[test]
fn a_person_who_cannot_be_asked_loses_nothing() {
    let (_master, slave) = terminal();
    let daemon = Daemon::start(|peer| {
        refuse_to_wipe(peer);
        assert_eq!(peer.next(), None);
    });
    let status = daemon
        .control(&["update_config", "c", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(slave)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    daemon.finish();
}

#[test]
fn who_says_yes_beforehand_is_not_asked() {
    let (_master, slave) = terminal();
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        peer.expect(Command::RemoveContainer);
        peer.send(&response(Response::CmdOk));
    });
    let mut client = at_terminal(&daemon, &["remove", "-y", "c"], &slave);
    assert_eq!(client.wait().unwrap().code(), Some(0));
    daemon.finish();
}

#[test]
fn a_person_says_which_of_several_is_to_be_changed() {
    let (_master, slave) = terminal();
    let daemon = Daemon::start(|peer| {
        peer.expect(Command::GetContainerStatus);
        let mut twice = status_list();
        twice
            .container_status
            .push(twice.container_status[0].clone());
        peer.send(&twice);
        assert_eq!(peer.next(), None);
    });
    let output = daemon
        .control(&["freeze", "c"])
        .stdin(slave)
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("`c` means 2 containers"));
    assert_eq!(output.status.code(), Some(1));
    daemon.finish();
}
