//! What `stop` says when it waits for the end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use cml_wire::proto::{
    ContainerState, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};
use common::{Daemon, Peer, UUID, bare, response, status_list, text};

fn in_state(state: ContainerState) -> DaemonToController {
    let mut status = status_list();
    status.container_status[0].set_state(state);
    status
}

/// Takes the command, which needs no PIN.
fn begin(peer: &mut Peer) {
    peer.resolve();
    peer.expect(Command::ContainerCmldHandlesPin);
    peer.send(&DaemonToController {
        pin_required: Some(false),
        ..bare(Code::ContainerCmldHandlesPin)
    });
    peer.expect(Command::ContainerStop);
    peer.send(&response(Response::ContainerStopOk));
}

fn look(peer: &mut Peer, answer: &DaemonToController) {
    let look = peer.expect(Command::GetContainerStatus);
    assert_eq!(look.container_uuids, [UUID]);
    peer.send(answer);
}

#[test]
fn what_the_daemon_cannot_tell_is_not_taken_for_the_end() {
    for format in ["text", "table", "json"] {
        let daemon = Daemon::start(|peer| {
            begin(peer);
            look(peer, &in_state(ContainerState::Shutdown));
            look(peer, &response(Response::CmdFailed));
            assert_eq!(peer.next(), None);
        });
        let output = daemon.run(&["--format", format, "stop", "c"], b"");
        assert_eq!(output.status.code(), Some(1), "{format}");
        let said = text(&output.stderr);
        assert!(said.contains("not known whether it has stopped"), "{said}");
        let out = text(&output.stdout);
        assert!(!out.contains("container c stopped"), "{out}");
        if format == "json" {
            let json: serde_json::Value = serde_json::from_str(out).unwrap();
            assert_eq!(json["ok"], false);
        }
    }
}

#[test]
fn one_that_somebody_has_started_again_has_stopped() {
    for now in [
        ContainerState::Starting,
        ContainerState::Running,
        ContainerState::Setup,
        ContainerState::Frozen,
    ] {
        let daemon = Daemon::start(move |peer| {
            begin(peer);
            look(peer, &in_state(now));
            assert_eq!(peer.next(), None);
        });
        let output = daemon.run(&["--format", "table", "stop", "c"], b"");
        assert_eq!(text(&output.stdout), "container c stopped\n");
        assert_eq!(output.status.code(), Some(0), "{now:?}");
    }
}

#[test]
fn one_that_is_gone_has_stopped() {
    let daemon = Daemon::start(|peer| {
        begin(peer);
        look(peer, &bare(Code::ContainerStatus));
        assert_eq!(peer.next(), None);
    });
    let output = daemon.run(&["--format", "table", "stop", "c"], b"");
    assert_eq!(text(&output.stdout), "container c stopped\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_shutdown_that_somebody_else_has_begun_is_waited_for() {
    let daemon = Daemon::start(|peer| {
        peer.expect(Command::GetContainerStatus);
        peer.send(&in_state(ContainerState::Shutdown));
        look(peer, &in_state(ContainerState::Shutdown));
        look(peer, &in_state(ContainerState::Stopped));
        assert_eq!(peer.next(), None);
    });
    let output = daemon.run(&["--format", "table", "stop", "c"], b"");
    assert_eq!(text(&output.stdout), "container c stopped\n");
    assert_eq!(output.status.code(), Some(0));
    let daemon = Daemon::start(|peer| {
        peer.expect(Command::GetContainerStatus);
        peer.send(&in_state(ContainerState::Shutdown));
        assert_eq!(peer.next(), None);
    });
    let output = daemon.run(&["--format", "table", "stop", "c", "--no-wait"], b"");
    assert_eq!(text(&output.stdout), "container c is stopping\n");
    assert_eq!(output.status.code(), Some(0));
}
