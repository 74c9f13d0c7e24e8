//! Containers that start with the device: `allow_autostart`, in the order of `autostart_order` (runtime.md 1.9;
//! in hosted mode as well).
//!
//! It happens once after the device was booted, and again after a daemon that has ended in order, as that one
//! has stopped everything. A daemon that takes over from a crashed one starts nothing: what was stopped
//! meanwhile was stopped on purpose.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cml_bus::api::container::{ContainerError, Start};
use cml_sys::{atomic, file, proc};
use cml_wire::proto::ContainerTokenType;
use tokio::time::sleep;

use crate::{entry::Entry, env::Env};

/// How often a start that fails is tried again, and the pause before the first of these; it doubles each time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Holds the identity of the boot in which containers were started.
fn mark(env: &Env) -> PathBuf {
    env.settings.run.join("autostarted")
}

/// Everything is stopped: the next daemon starts it again.
pub fn forget(env: &Env) {
    let _ = atomic::remove(&mark(env));
}

/// Starts what is to be started, unless that has been done.
pub async fn run(env: Arc<Env>, entries: Vec<Entry>) {
    let Ok(boot) = proc::boot_id() else { return };
    if file::read(&mark(&env)).is_ok_and(|done| done == boot.as_bytes()) {
        return;
    }
    let mut wanted: Vec<_> = entries.into_iter().filter(wants).collect();
    // Stable: of the same number the oldest first.
    wanted.sort_by_key(|entry| entry.view.borrow().config.autostart_order());
    for entry in wanted {
        start(&env, &entry).await;
    }
    // A daemon that ends has stopped what was started and forgets the mark: the next one starts everything.
    if env.is_closing() {
        return;
    }
    // Only now: a daemon that dies meanwhile has the rest done by the next one.
    if let Err(error) = atomic::write_volatile(&mark(&env), boot.as_bytes(), 0o600) {
        tracing::warn!(%error, "containers may be started again by the next daemon");
    }
}

fn wants(entry: &Entry) -> bool {
    let view = entry.view.borrow();
    view.config.allow_autostart() && view.state.is_at_rest()
}

/// Starts a container. One that cannot be started at once is tried again without holding up the next ones.
async fn start(env: &Arc<Env>, entry: &Entry) {
    if entry.view.borrow().config.token_type() != ContainerTokenType::None {
        tracing::warn!(container = %entry.id, name = entry.name(), "it is not started by itself: it needs its PIN");
        return;
    }
    if try_once(entry, 1).await {
        return;
    }
    let (env, entry) = (env.clone(), entry.clone());
    cml_bus::actor::spawn(async move {
        for attempt in 2..=TRIES {
            sleep(PAUSE * 2_u32.pow(attempt - 2)).await;
            // Somebody may have started it by hand, removed it, or changed his mind.
            if env.is_closing() || !wants(&entry) || try_once(&entry, attempt).await {
                return;
            }
        }
        tracing::error!(container = %entry.id, name = entry.name(), "it was not started by itself; start it by hand");
    });
}

/// Whether there is nothing left to be done.
async fn try_once(entry: &Entry, attempt: u32) -> bool {
    let request = Start {
        id: entry.id,
        pin: None,
        setup: false,
    };
    match entry.port.start.call(request).await {
        Ok(_) => {
            tracing::info!(container = %entry.id, name = entry.name(), "started by itself");
            true
        }
        Err(ContainerError::AlreadyRunning(_)) => true,
        Err(error) => {
            tracing::warn!(container = %entry.id, name = entry.name(), %error, attempt, "not started by itself");
            false
        }
    }
}
