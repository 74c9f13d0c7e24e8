use cml_bus::{
    api::container::{ContainerError, Exec, ExecInput, ExecOutput, ExecSession, WindowSize},
    testing::fake,
};
use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
    daemon_to_controller::Response,
};
use tokio::{io::AsyncWriteExt, sync::mpsc, time::timeout};

use super::rig::{Client, OPEN, PATIENCE, Rig, bare, framed, read_reply, system, targeted};
use crate::exec::CHUNK;

fn exec() -> ControllerToDaemon {
    ControllerToDaemon {
        exec_args: vec!["cat".into()],
        exec_pty: Some(false),
        ..targeted(Command::ContainerExecCmd)
    }
}

fn input(data: &[u8]) -> ControllerToDaemon {
    ControllerToDaemon {
        exec_input: Some(data.to_vec()),
        ..targeted(Command::ContainerExecInput)
    }
}

fn eof() -> ControllerToDaemon {
    ControllerToDaemon {
        exec_input_eof: Some(true),
        ..targeted(Command::ContainerExecInput)
    }
}

/// The service's ends of a session.
struct Running {
    exec: Exec,
    input: mpsc::Receiver<ExecInput>,
    output: mpsc::Sender<ExecOutput>,
}

/// A service that starts everything and hands the test its ends.
fn service(rig: &Rig) -> mpsc::UnboundedReceiver<Running> {
    let (tell, running) = mpsc::unbounded_channel();
    rig.container.exec.bind_fn(move |exec| {
        let (input, from_client) = mpsc::channel(4);
        let (to_client, output) = mpsc::channel(4);
        let _ = tell.send(Running {
            exec,
            input: from_client,
            output: to_client,
        });
        std::future::ready(Ok(ExecSession { input, output }))
    });
    running
}

/// A client with a command that runs.
async fn started(rig: &Rig) -> (Client, Running) {
    let mut running = service(rig);
    let mut client = rig.client();
    client.send(&exec()).await;
    (client, running.recv().await.unwrap())
}

#[test]
fn a_mebibyte_of_all_byte_values_goes_through_unchanged() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut running = service(&rig);
        let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i ^ (i >> 8)) as u8).collect();
        let client = rig.client();
        let (mut from, mut to) = client.stream.into_split();
        to.write_all(&framed(&exec())).await.unwrap();
        let Running {
            input: mut stdin,
            output,
            ..
        } = running.recv().await.unwrap();
        let cat = cml_bus::actor::spawn(async move {
            while let Some(item) = stdin.recv().await {
                match item {
                    ExecInput::Data(data) => {
                        assert!(data.len() <= CHUNK);
                        output.send(ExecOutput::Stdout(data)).await.unwrap();
                    }
                    ExecInput::Eof => break,
                    ExecInput::Resize(_) => unreachable!(),
                }
            }
            output.send(ExecOutput::Exit(7)).await.unwrap();
        });
        let sent = data.clone();
        cml_bus::actor::spawn(async move {
            // Pieces of odd sizes, one of them beyond what a connection may buffer for free.
            let (first, rest) = sent.split_at(100_001);
            to.write_all(&framed(&input(first))).await.unwrap();
            for piece in rest.chunks(4097) {
                to.write_all(&framed(&input(piece))).await.unwrap();
            }
            to.write_all(&framed(&eof())).await.unwrap();
            std::future::pending::<()>().await;
        });
        let mut received = Vec::new();
        let end = loop {
            let reply = read_reply(&mut from).await;
            if reply.code() == Code::ExecEnd {
                break reply;
            }
            assert_eq!(reply.code(), Code::ExecOutput);
            assert!(reply.exec_output().len() <= CHUNK);
            received.extend(reply.exec_output.unwrap());
        };
        assert!(received == data);
        assert_eq!(end.exec_status(), 7);
        cat.await.unwrap();
    });
}

#[test]
fn stderr_is_merged_unless_the_client_asks_for_it() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut running = service(&rig);
        let mut client = rig.client();
        for separate in [false, true] {
            let mut request = exec();
            request.exec_separate_output = separate.then_some(true);
            client.send(&request).await;
            let session = running.recv().await.unwrap();
            session
                .output
                .send(ExecOutput::Stderr(b"oh".to_vec()))
                .await
                .unwrap();
            session.output.send(ExecOutput::Exit(0)).await.unwrap();
            let reply = client.reply().await;
            assert_eq!(reply.exec_stderr.is_some(), separate);
            assert_eq!(reply.exec_output.is_some(), !separate);
            assert_eq!(client.reply().await.code(), Code::ExecEnd);
        }
    });
}

#[test]
fn the_command_gets_its_words_and_a_terminal_that_can_be_resized() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut running = service(&rig);
        let mut client = rig.client();
        let mut request = exec();
        request.exec_pty = Some(true);
        request.exec_env = vec!["A=b".into()];
        request.exec_workdir = Some("/tmp".into());
        client.send(&request).await;
        let mut session = running.recv().await.unwrap();
        assert_eq!(
            session.exec.terminal,
            Some(WindowSize { cols: 80, rows: 24 })
        );
        assert_eq!(session.exec.argv, ["cat"]);
        assert_eq!(session.exec.env, ["A=b"]);
        assert_eq!(session.exec.workdir.as_deref(), Some("/tmp"));
        let mut resize = targeted(Command::ContainerExecResize);
        resize.exec_cols = Some(132);
        resize.exec_rows = Some(50);
        client.send(&resize).await;
        let size = WindowSize {
            cols: 132,
            rows: 50,
        };
        assert_eq!(session.input.recv().await, Some(ExecInput::Resize(size)));
    });
}

#[test]
fn input_for_another_container_does_not_reach_the_command() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let (mut client, mut session) = started(&rig).await;
        let mut other = input(b"no");
        other.container_uuids = vec!["00000000-0000-0000-0000-000000000000".into()];
        client.send(&other).await;
        client.send(&input(b"yes")).await;
        assert_eq!(
            session.input.recv().await,
            Some(ExecInput::Data(b"yes".to_vec()))
        );
    });
}

#[test]
fn other_commands_are_answered_after_the_end_and_input_goes_on() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut running = service(&rig);
        let mut client = rig.client();
        client.send(&exec()).await;
        client.send(&bare(Command::GetProvisioned)).await;
        let mut large = bare(Command::CreateContainer);
        large.container_config_file = Some(vec![0; 100_000]);
        client.send(&large).await;
        client.send(&input(b"x")).await;
        let mut session = running.recv().await.unwrap();
        assert_eq!(
            session.input.recv().await,
            Some(ExecInput::Data(b"x".to_vec()))
        );
        session.output.send(ExecOutput::Exit(0)).await.unwrap();
        assert_eq!(client.reply().await.code(), Code::ExecEnd);
        assert_eq!(client.reply().await.code(), Code::DeviceProvisionedState);
        assert_eq!(client.reply().await.response(), Response::CmdFailed);
        let reply = client.ask(&bare(Command::GetProvisioned)).await;
        assert_eq!(reply.code(), Code::DeviceProvisionedState);
    });
}

#[test]
fn the_session_is_dropped_when_the_client_vanishes() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let (client, session) = started(&rig).await;
        drop(client);
        timeout(PATIENCE, session.output.closed()).await.unwrap();
    });
}

#[test]
fn the_session_is_dropped_even_if_the_command_reads_no_input() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let (mut client, session) = started(&rig).await;
        let frame = framed(&input(&[0; 4096]));
        // More than the channel and the socket hold, so that the gateway is stuck in the middle.
        let _ = timeout(std::time::Duration::from_millis(300), async {
            loop {
                client.stream.write_all(&frame).await.unwrap();
            }
        })
        .await;
        drop(client);
        timeout(PATIENCE, session.output.closed()).await.unwrap();
    });
}

#[test]
fn a_reader_that_does_not_read_blocks_nobody_else() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let _ = fake(&rig.container.status, |_| Ok(vec![]));
        let (_deaf, session) = started(&rig).await;
        let output = session.output;
        let flood = cml_bus::actor::spawn(async move {
            while output
                .send(ExecOutput::Stdout(vec![b'y'; 100_000]))
                .await
                .is_ok()
            {}
        });
        let mut other = rig.client();
        for _ in 0..100 {
            let reply = other.ask(&bare(Command::GetContainerStatus)).await;
            assert_eq!(reply.code(), Code::ContainerStatus);
        }
        assert!(!flood.is_finished());
    });
}

#[test]
fn what_cannot_run_ends_at_once() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let _ = fake(&rig.container.exec, |exec| {
            Err(ContainerError::NotRunning(exec.id))
        });
        let mut client = rig.client();
        let reply = client.ask(&exec()).await;
        assert_eq!((reply.code(), reply.exec_status()), (Code::ExecEnd, 126));
        assert!(reply.error_text().contains("not running"));
        let mut request = exec();
        request.exec_args.clear();
        assert_eq!(client.ask(&request).await.code(), Code::ExecEnd);
        let mut request = exec();
        request.exec_pty = None;
        assert_eq!(client.ask(&request).await.response(), Response::CmdFailed);
        let mut request = exec();
        request.container_uuids.clear();
        assert_eq!(client.ask(&request).await.response(), Response::CmdFailed);
    });
}

#[test]
fn a_command_that_is_lost_ends_with_a_reason() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let (mut client, session) = started(&rig).await;
        drop(session);
        let reply = client.reply().await;
        assert_eq!((reply.code(), reply.exec_status()), (Code::ExecEnd, 255));
        assert!(reply.error_text.is_some());
    });
}
