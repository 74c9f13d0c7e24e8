//! Where the PIN of a command comes from, and what is sent of it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use cml_wire::proto::{
    ContainerState, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};
use common::{Daemon, UUID, bare, response, status_list, text};

#[test]
fn start_takes_the_pin_from_a_pipe() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        let request = peer.expect(Command::ContainerCmldHandlesPin);
        assert_eq!(request.container_uuids, [UUID]);
        peer.send(&DaemonToController {
            container_cmld_handles_pin: Some(false),
            ..bare(Code::ContainerCmldHandlesPin)
        });
        let request = peer.expect(Command::ContainerStart);
        assert_eq!(request.container_uuids, [UUID]);
        let params = request.container_start_params.unwrap();
        assert_eq!(params.key.as_deref(), Some("12 34"));
        assert_eq!(params.setup, None);
        peer.send(&response(Response::ContainerStartTokenUnpaired));
    });
    let output = daemon.run(&["start", "c"], b"12 34\n");
    assert_eq!(
        text(&output.stdout),
        "Password: code: RESPONSE\nresponse: CONTAINER_START_TOKEN_UNPAIRED\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn no_pin_is_asked_for_where_none_is_needed() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        peer.expect(Command::ContainerCmldHandlesPin);
        peer.send(&DaemonToController {
            container_cmld_handles_pin: Some(false),
            pin_required: Some(false),
            ..bare(Code::ContainerCmldHandlesPin)
        });
        let params = peer
            .expect(Command::ContainerStart)
            .container_start_params
            .unwrap();
        assert_eq!((params.key, params.setup), (None, Some(true)));
        peer.send(&response(Response::ContainerStartOk));
    });
    let output = daemon.run(&["start", "c", "--setup"], b"unread\n");
    assert_eq!(
        text(&output.stdout),
        "code: RESPONSE\nresponse: CONTAINER_START_OK\n"
    );
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_pin_reader_is_pointed_out() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        peer.expect(Command::ContainerCmldHandlesPin);
        peer.send(&DaemonToController {
            container_cmld_handles_pin: Some(true),
            ..bare(Code::ContainerCmldHandlesPin)
        });
        let params = peer
            .expect(Command::ContainerStop)
            .container_start_params
            .unwrap();
        assert_eq!(params.key, None);
        peer.send(&response(Response::ContainerStopOk));
        for state in [ContainerState::Shutdown, ContainerState::Stopped] {
            let look = peer.expect(Command::GetContainerStatus);
            assert_eq!(look.container_uuids, [UUID]);
            let mut now = status_list();
            now.container_status[0].set_state(state);
            peer.send(&now);
        }
        assert_eq!(peer.next(), None);
    });
    let output = daemon.run(&["stop", "c", "--key=x"], b"");
    assert_eq!(
        text(&output.stdout),
        "code: RESPONSE\nresponse: CONTAINER_STOP_OK\n"
    );
    assert!(text(&output.stderr).contains("--key is ignored"));
    assert!(text(&output.stderr).contains("enter the PIN at the reader"));
}

#[test]
fn a_key_on_the_command_line_is_sent() {
    for (words, key) in [
        (["start", "c", "--key=pw"], Some("pw")),
        (["start", "c", "-kpw"], Some("pw")),
        (["start", "c", "--key="], Some("")),
        (["start", "c", "--key"], None),
    ] {
        let daemon = Daemon::start(move |peer| {
            peer.resolve();
            peer.expect(Command::ContainerCmldHandlesPin);
            // An answer of another kind: the client goes on (protocol.md 4.4).
            peer.send(&response(Response::CmdFailed));
            let params = peer
                .expect(Command::ContainerStart)
                .container_start_params
                .unwrap();
            assert_eq!(params.key.as_deref(), key);
            peer.send(&response(Response::ContainerStartOk));
        });
        let output = daemon.run(&words, b"");
        assert_eq!(output.status.code(), Some(0), "{words:?}");
    }
}

#[test]
fn json_stays_one_document_when_a_pin_is_asked_for() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        peer.expect(Command::ContainerCmldHandlesPin);
        peer.send(&bare(Code::ContainerCmldHandlesPin));
        let params = peer
            .expect(Command::ContainerStop)
            .container_start_params
            .unwrap();
        assert_eq!(
            params.key.as_deref(),
            Some(""),
            "the end of the input is an empty PIN"
        );
        peer.send(&response(Response::ContainerStopFailedNotRunning));
    });
    let output = daemon.run(&["--format", "json", "stop", "c"], b"");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["response"], "CONTAINER_STOP_FAILED_NOT_RUNNING");
    assert_eq!(text(&output.stderr), "Password: ");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn remove_by_uuid_ignores_a_key() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        assert_eq!(
            peer.expect(Command::RemoveContainer).container_uuids,
            [UUID]
        );
        peer.send(&response(Response::CmdOk));
    });
    let output = daemon.run(&["remove", &UUID.to_uppercase(), "--key=pw"], b"");
    assert_eq!(text(&output.stdout), "code: RESPONSE\nresponse: CMD_OK\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn change_pin_reads_three_lines_and_sends_two() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        let request = peer.expect(Command::ContainerChangeTokenPin);
        assert_eq!(request.container_uuids, [UUID]);
        assert_eq!(request.device_pin.as_deref(), Some("old"));
        assert_eq!(request.device_newpin.as_deref(), Some("new"));
        peer.send(&response(Response::ContainerChangePinSuccessful));
    });
    let output = daemon.run(&["change_pin", "c"], b"old\nnew\nnew\n");
    assert_eq!(
        text(&output.stdout),
        "Current Password: New Password: Re-enter New Password: \
         code: RESPONSE\nresponse: CONTAINER_CHANGE_PIN_SUCCESSFUL\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn change_pin_without_a_container_is_about_the_device() {
    let daemon = Daemon::start(|peer| {
        let request = peer.expect(Command::ChangeDevicePin);
        assert!(request.container_uuids.is_empty());
        peer.send(&response(Response::ContainerChangePinFailed));
    });
    let output = daemon.run(&["change-pin"], b"old\nnew\nnew\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn new_pins_that_differ_are_not_sent() {
    let daemon = Daemon::start(|peer| peer.resolve());
    let output = daemon.run(&["change_pin", "c"], b"old\nnew\nnwe\n");
    assert!(text(&output.stderr).contains("differ"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_change_that_nobody_types_is_not_sent() {
    for input in [&b""[..], b"old\n", b"old\nnew\n"] {
        let daemon = Daemon::start(|peer| {
            peer.resolve();
            assert_eq!(peer.next(), None);
        });
        let output = daemon.run(&["change_pin", "c"], input);
        assert!(text(&output.stderr).contains("nothing was sent"));
        assert_eq!(output.status.code(), Some(1));
    }
}
