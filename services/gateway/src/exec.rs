//! Commands running in a container over a connection (protocol.md 3.8, LIF-11, LIF-12).
//!
//! While the command runs, its output and the client's input move at the same time and neither waits for
//! the other. The [`ExecSession`] is dropped as soon as the client is gone, which ends the command.

use std::pin::pin;

use cml_bus::{
    api::container::{ExecInput, ExecOutput, ExecSession},
    id::ContainerId,
    provisioned::Provisioned,
};
use cml_wire::proto::{DaemonToController, daemon_to_controller::Code};
use tokio::{
    select,
    sync::{mpsc, watch},
};

use crate::{
    inbox::Inbox,
    outbox::Outbox,
    policy::Admission,
    session::{Connection, Deferred, End, closed},
    translate_in::{self, ExecRequest, Refusal, Request},
    translate_out,
};

/// The most bytes of output in one `EXEC_OUTPUT`, and of input in one item for the service.
pub const CHUNK: usize = 16 * 1024;

/// Requests that may wait for the end of the running command. Behind them the socket is not read any
/// more, which holds back input too; a client that wants more opens another connection.
const DEFERRED_MAX: usize = 16;

/// `exec_status` when the daemon shuts down under the command: as if it died of SIGHUP, 128 + 1.
const HUNG_UP: i32 = 129;

/// Runs the command until it ends or the client is gone.
///
/// # Errors
/// [`End`] when the connection cannot go on.
pub async fn run(request: ExecRequest, connection: &mut Connection) -> Result<(), End> {
    let ExecRequest {
        exec,
        separate_output,
    } = request;
    let id = exec.id;
    let session = connection.shared.ports.container.exec.call(exec).await;
    let ExecSession { input, output } = match session {
        Ok(session) => session,
        Err(error) => {
            return connection
                .outbox
                .send(&translate_out::exec_refused(error))
                .await;
        }
    };
    let Connection {
        inbox,
        outbox,
        deferred,
        shared,
        closing,
        ..
    } = connection;
    let hung_up = hang_up(closing, shared.admission.provisioned.clone());
    select! {
        ended = pump_output(output, separate_output, outbox, hung_up) => ended,
        end = pump_input(id, input, inbox, deferred, &shared.admission) => Err(end),
    }
}

/// Returns when no command may run any more, with the reason.
async fn hang_up(closing: &mut watch::Receiver<bool>, mut mode: Provisioned) -> &'static str {
    select! {
        () = closed(closing) => "the daemon is shutting down",
        // Neither profile lets anybody into a container, so nobody stays in one.
        () = mode.entered() => "the device was put into provisioned mode",
    }
}

async fn pump_output(
    mut output: mpsc::Receiver<ExecOutput>,
    separate: bool,
    outbox: &mut Outbox,
    hung_up: impl Future<Output = &'static str>,
) -> Result<(), End> {
    let mut hung_up = pin!(hung_up);
    loop {
        let item = select! {
            biased;
            reason = &mut hung_up => {
                let reason = reason.to_owned();
                return outbox.send(&translate_out::exec_end(HUNG_UP, Some(reason))).await;
            }
            item = output.recv() => item,
        };
        let (data, stderr) = match item {
            Some(ExecOutput::Stdout(data)) => (data, false),
            Some(ExecOutput::Stderr(data)) => (data, separate),
            Some(ExecOutput::Exit(status)) => {
                return outbox.send(&translate_out::exec_end(status, None)).await;
            }
            None => {
                let reason = "the container went away under the command".to_owned();
                let end = translate_out::exec_end(translate_out::END_UNKNOWN, Some(reason));
                return outbox.send(&end).await;
            }
        };
        for chunk in pieces(data) {
            outbox.send(&output_frame(chunk, stderr)).await?;
        }
    }
}

fn output_frame(chunk: Vec<u8>, stderr: bool) -> DaemonToController {
    let mut frame = translate_out::bare(Code::ExecOutput);
    if stderr {
        frame.exec_stderr = Some(chunk);
    } else {
        frame.exec_output = Some(chunk);
    }
    frame
}

/// Ends only with the connection: the end of the command is seen at its output.
async fn pump_input(
    id: ContainerId,
    input: mpsc::Sender<ExecInput>,
    inbox: &mut Inbox,
    deferred: &mut Deferred,
    admission: &Admission,
) -> End {
    loop {
        if deferred.len() >= DEFERRED_MAX {
            inbox.hung_up().await;
            return End::Gone;
        }
        let mut frame = match inbox.next().await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        let number = frame.message.command;
        let items = match translate_in::request(&mut frame.message, admission.now()) {
            Ok(Request::Input(request)) if request.id == id => pieces(request.data)
                .into_iter()
                .map(ExecInput::Data)
                .chain(request.eof.then_some(ExecInput::Eof))
                .collect(),
            Ok(Request::Resize(target, size)) if target == id => vec![ExecInput::Resize(size)],
            // Input needs the same connection and the same container (protocol.md 3.8).
            Ok(Request::Input(_) | Request::Resize(..)) => continue,
            // Must not occupy the shared budget for as long as the command likes to run.
            _ if frame.permit.is_some() => {
                deferred.push_back((number, Err(Refusal::TooLargeToWait(number))));
                continue;
            }
            other => {
                deferred.push_back((number, other));
                continue;
            }
        };
        for item in items {
            select! {
                biased;
                // A command that has closed its input ignores the rest.
                _ = input.send(item) => {}
                () = inbox.hung_up() => return End::Gone,
            }
        }
    }
}

/// The data in pieces of at most [`CHUNK`] bytes, without a copy if it is one piece.
fn pieces(data: Vec<u8>) -> Vec<Vec<u8>> {
    match data.len() {
        0 => Vec::new(),
        1..=CHUNK => vec![data],
        _ => data.chunks(CHUNK).map(<[u8]>::to_vec).collect(),
    }
}
