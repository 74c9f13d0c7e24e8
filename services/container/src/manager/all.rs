//! What concerns all containers at once.

use std::time::Duration;

use cml_bus::{
    actor::{Context, Handler, ResponseFuture},
    api::container::{ContainerError, Shutdown, StopAll, StoppedAll, WipeAll},
    audit::Did,
    id::ContainerId,
};
use tokio::{task::JoinHandle, time::Instant};

use super::Manager;
use crate::{
    autostart,
    entry::{Entry, at_once},
    noted,
};

/// How long all containers together may take to stop when the daemon ends: the limit of one and a little
/// (runtime.md 0.5).
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(55);

/// Asks all of these containers to stop; each tells whether it has.
fn halt_all(entries: Vec<Entry>) -> Vec<JoinHandle<(ContainerId, bool)>> {
    let limit = Instant::now() + SHUTDOWN_LIMIT;
    at_once(entries, async move |entry| entry.halt(limit).await)
}

impl Handler<WipeAll> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, _: WipeAll, _: &mut Context<Self>) -> Self::Result {
        // core0 has to end for it, and with it the device: it keeps what it has, which is under no PIN anyway.
        let guests = self.entries.iter().filter(|entry| !entry.id.is_core0());
        let env = self.env.clone();
        let wipe = async move |entry: &Entry| env.wipe_entry(entry).await;
        let wipes = at_once(guests.cloned().collect(), wipe);
        let events = self.env.events.clone();
        Box::pin(async move {
            let mut outcome = Ok(());
            for wipe in wipes {
                if let Ok((id, Err(error))) = wipe.await {
                    tracing::error!(container = %id, %error, "not wiped");
                    outcome = Err(error);
                }
            }
            events.audit(noted::outcome(Did::WipeDevice.here(), &outcome));
            outcome
        })
    }
}

impl Handler<StopAll> for Manager {
    type Result = ResponseFuture<Result<StoppedAll, ContainerError>>;

    fn handle(&mut self, request: StopAll, _: &mut Context<Self>) -> Self::Result {
        self.env.events.audit(Did::Shutdown.here());
        let running = |entry: &&Entry| {
            (request.core0 || !entry.id.is_core0()) && !entry.view.borrow().state.is_at_rest()
        };
        let entries: Vec<_> = self.entries.iter().filter(running).cloned().collect();
        Box::pin(async move {
            let mut all = StoppedAll {
                stopped: 0,
                left: Vec::new(),
            };
            for halt in halt_all(entries) {
                match halt.await {
                    Ok((_, true)) => all.stopped += 1,
                    Ok((id, false)) => all.left.push(id),
                    Err(error) => tracing::error!(%error, "a container was not stopped"),
                }
            }
            Ok(all)
        })
    }
}

impl Handler<Shutdown> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, _: Shutdown, _: &mut Context<Self>) -> Self::Result {
        self.env.close();
        self.env.events.audit(Did::Shutdown.here());
        // What was running comes back with the next daemon.
        autostart::forget(&self.env);
        let entries = self.entries.clone();
        let hierarchies = self.env.hierarchies.clone();
        Box::pin(async move {
            for halt in halt_all(entries) {
                if let Ok((id, false)) = halt.await {
                    tracing::error!(container = %id, "still there; it is left running");
                }
            }
            hierarchies.remove_parent();
            Ok(())
        })
    }
}
