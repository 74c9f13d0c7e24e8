//! A client that knows only the old protocol drives the whole life of a container.

use cml_integration::{Client, Daemon, eventually};
use cml_wire::proto::{
    ContainerState, ControllerToDaemon,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

fn state(client: &mut Client, uuid: &str) -> ContainerState {
    let reply = client.ask_about(Command::GetContainerStatus, uuid);
    assert_eq!(reply.code(), Code::ContainerStatus);
    reply.container_status[0].state()
}

#[test]
fn create_start_run_stop_and_remove_on_one_connection() {
    let daemon = Daemon::default();
    let mut client = daemon.client();

    let config =
        b"name: \"old\"\nguest_os: \"busybox\"\ncolor: 0\ntype: CONTAINER\ntoken_type: SOFT\n";
    let created = client.ask(&ControllerToDaemon {
        command: Command::CreateContainer.into(),
        container_config_file: Some(config.to_vec()),
        ..Default::default()
    });
    assert_eq!(created.code(), Code::ContainerConfig);
    assert_eq!(created.container_configs[0].name, "old");
    let uuid = created.container_uuids[0].clone();

    let pin_pad = client.ask_about(Command::ContainerCmldHandlesPin, &uuid);
    assert_eq!(pin_pad.container_cmld_handles_pin, Some(false));
    let wrong = client.ask_with_pin(Command::ContainerStart, &uuid, "pw");
    assert_eq!(wrong.response(), Response::ContainerStartPasswdWrong);
    let started = client.ask_with_pin(Command::ContainerStart, &uuid, "trustme");
    assert_eq!(started.response(), Response::ContainerStartOk);
    // The acceptance suite of the existing system fails on anything but these on the way to RUNNING.
    eventually("RUNNING", || match state(&mut client, &uuid) {
        ContainerState::Running => Some(()),
        ContainerState::Starting | ContainerState::Booting => None,
        other => panic!("{other:?} after CONTAINER_START_OK"),
    });

    client.send(&ControllerToDaemon {
        command: Command::ContainerExecCmd.into(),
        container_uuids: vec![uuid.clone()],
        exec_command: Some("cat".into()),
        exec_args: vec!["cat".into()],
        exec_pty: Some(true),
        ..Default::default()
    });
    client.send(&ControllerToDaemon {
        command: Command::ContainerExecInput.into(),
        container_uuids: vec![uuid.clone()],
        exec_input: Some(b"hello\n\x04".to_vec()),
        ..Default::default()
    });
    let mut output = Vec::new();
    loop {
        let reply = client.reply().unwrap();
        match reply.code() {
            Code::ExecOutput => output.extend(reply.exec_output.unwrap()),
            Code::ExecEnd => break,
            other => panic!("{other:?}"),
        }
    }
    // The terminal's echo, then the line itself; no NUL bytes in between.
    assert_eq!(String::from_utf8(output).unwrap(), "hello\r\nhello\r\n");

    let again = client.ask_with_pin(Command::ContainerStart, &uuid, "trustme");
    assert_eq!(again.response(), Response::ContainerStartEexist);
    let stopped = client.ask_with_pin(Command::ContainerStop, &uuid, "trustme");
    assert_eq!(stopped.response(), Response::ContainerStopOk);
    eventually("STOPPED", || {
        (state(&mut client, &uuid) == ContainerState::Stopped).then_some(())
    });
    let again = client.ask_with_pin(Command::ContainerStop, &uuid, "trustme");
    assert_eq!(again.response(), Response::ContainerStopFailedNotRunning);
    let removed = client.ask_about(Command::RemoveContainer, &uuid);
    assert_eq!(removed.response(), Response::CmdOk);
    let all = client.ask_bare(Command::GetContainerStatus);
    assert!(all.container_status.is_empty());
}

#[test]
fn a_client_that_sends_no_start_parameters_starts_and_stops_without_a_pin() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"old\"\nguest_os: \"busybox\"\n");
    let mut client = daemon.client();
    let started = client.ask_about(Command::ContainerStart, &uuid);
    assert_eq!(started.response(), Response::ContainerStartOk);
    let stopped = client.ask_about(Command::ContainerStop, &uuid);
    assert_eq!(stopped.response(), Response::ContainerStopOk);
}

#[test]
fn a_client_that_leaves_before_the_answer_harms_nobody() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"old\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let mut leaver = daemon.client();
    leaver.send(&ControllerToDaemon {
        command: Command::ContainerStart.into(),
        container_uuids: vec![uuid],
        ..Default::default()
    });
    drop(leaver);
    // Whoever comes next gets the answers to its own questions only.
    let mut client = daemon.client();
    let reply = client.ask_bare(Command::GetContainerStatus);
    assert_eq!(reply.code(), Code::ContainerStatus);
    daemon.wait_for("old", "RUNNING");
}
