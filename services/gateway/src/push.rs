//! An installation over a connection: `INSTALL_STARTED`, then exactly one final reply (protocol.md 6.5).
//!
//! The installation goes on when the client is gone; what came of it is in `list_guestos` and in the log.

use std::time::Duration;

use cml_bus::{
    api::guestos::{GuestOsError, Installation, Push},
    error::BusError,
};
use cml_wire::proto::daemon_to_controller::Response;
use tokio::{select, time::sleep};

use crate::{
    session::{Connection, End, closed},
    translate_in::PushRequest,
    translate_out,
};

/// The least time between two reports of progress.
const BETWEEN_REPORTS: Duration = Duration::from_millis(200);

/// Installs, and answers until the end of it.
///
/// # Errors
/// [`End`] when the connection cannot go on.
pub async fn run(request: PushRequest, connection: &mut Connection) -> Result<(), End> {
    let PushRequest { push, progress } = request;
    let Connection {
        outbox,
        shared,
        closing,
        peer,
        ..
    } = connection;
    let push = Push {
        caller: *peer,
        ..push
    };
    let begun = shared.ports.guestos.push.call(push).await;
    let Installation {
        progress: mut at,
        mut outcome,
    } = match begun {
        Ok(installation) => installation,
        Err(error) => return outbox.send(&translate_out::installed(Err(error))).await,
    };
    let started = translate_out::response(Response::GuestosMgrInstallStarted);
    outbox.send(&started).await?;
    let died = || GuestOsError::Bus(BusError::ServerDeath("guestos"));
    loop {
        select! {
            biased;
            () = closed(closing) => {
                let reason = "the daemon is shutting down; push it again later";
                let end = translate_out::failure(Response::GuestosMgrInstallFailed, reason);
                return outbox.send(&end).await;
            }
            ended = &mut outcome => {
                let ended = ended.unwrap_or_else(|_| Err(died()));
                return outbox.send(&translate_out::installed(ended)).await;
            }
            true = changed(&mut at), if progress => {
                let now = at.borrow_and_update().clone();
                outbox.send(&translate_out::installing(now)).await?;
            }
        }
    }
}

/// Waits for progress, and at least [`BETWEEN_REPORTS`].
async fn changed(at: &mut tokio::sync::watch::Receiver<cml_wire::proto::Progress>) -> bool {
    sleep(BETWEEN_REPORTS).await;
    match at.changed().await {
        Ok(()) => true,
        // The outcome is on its way.
        Err(_) => std::future::pending().await,
    }
}
