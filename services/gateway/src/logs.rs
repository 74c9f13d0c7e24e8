//! Log files on their way to a client, and their deletion when it has them (protocol.md 3.4).
//!
//! A client of ours asks for the deletion itself, by name, once the files are on its disk. One that only sets
//! `remove_logs` cannot say what it has: its files are deleted when all of them were taken from our hands and it is
//! still there.

use std::time::Duration;

use cml_bus::api::provisioning::{LogItem, Logs, RemoveLogs};
use cml_wire::proto::daemon_to_controller::Response;
use tokio::{select, time::timeout};

use crate::{
    session::{Connection, End, closed},
    translate_in::LogsRequest,
    translate_out,
};

/// A hang-up is noticed within this time.
const SETTLE: Duration = Duration::from_millis(20);

/// Answers a `GET_LAST_LOG`.
///
/// # Errors
/// [`End`] when the connection cannot go on; nothing is deleted then.
pub async fn run(request: LogsRequest, connection: &mut Connection) -> Result<(), End> {
    let reply = match request {
        LogsRequest::Send { remove } => {
            let names = match send(connection).await? {
                Ok(names) => names,
                Err(reason) => {
                    let reply = translate_out::failure(Response::CmdFailed, reason);
                    return connection.outbox.send(&reply).await;
                }
            };
            match (names.is_empty(), remove) {
                (true, _) => translate_out::failure(Response::CmdFailed, "there is no log file"),
                (false, false) => translate_out::device(Ok(())),
                (false, true) if hung_up(connection).await => {
                    let reason = "the client is gone; no log file was deleted";
                    translate_out::failure(Response::CmdFailed, reason)
                }
                (false, true) => removed(connection, names).await,
            }
        }
        LogsRequest::Remove(names) => removed(connection, names).await,
    };
    connection.outbox.send(&reply).await
}

/// Sends all files; comes back with the names of those that were sent whole, or with the reason why none was.
async fn send(connection: &mut Connection) -> Result<Result<Vec<String>, String>, End> {
    let logs = connection.shared.ports.provisioning.logs.call(Logs).await;
    let mut logs = match logs {
        Ok(logs) => logs,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut names = Vec::new();
    loop {
        let item = select! {
            biased;
            () = closed(&mut connection.closing) => return Err(End::Closing),
            item = logs.parts.recv() => item,
        };
        match item {
            Some(LogItem::Part(part)) => {
                let reply = translate_out::log_part(part, logs.device.clone());
                connection.outbox.send(&reply).await?;
            }
            Some(LogItem::Done(name)) => names.push(name),
            None => return Ok(Ok(names)),
        }
    }
}

/// Whether the client has hung up meanwhile.
async fn hung_up(connection: &Connection) -> bool {
    timeout(SETTLE, connection.inbox.hung_up()).await.is_ok()
}

async fn removed(
    connection: &Connection,
    names: Vec<String>,
) -> cml_wire::proto::DaemonToController {
    let remove = RemoveLogs { names };
    let removed = connection
        .shared
        .ports
        .provisioning
        .remove_logs
        .call(remove);
    translate_out::device(removed.await)
}
