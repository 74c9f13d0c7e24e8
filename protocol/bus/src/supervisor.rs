//! Supervision: a service that dies is noticed, recorded and started again, with a throttle (ACT-01, ACT-05).
//!
//! actix restarts nothing after a panic, and `stopped()` runs even then, so the proof of death is the
//! drop of a [`Watch`] that the actor owns and that only an orderly end marks as clean.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use crate::{
    audit::Did,
    event::{Event, Events},
};

/// How often a service may be restarted before the whole process gives up.
#[derive(Debug, Clone, Copy)]
pub struct Throttle {
    /// At most this many restarts …
    pub restarts: usize,
    /// … within this time.
    pub within: Duration,
    /// Pause before each restart, so that a crash loop never eats a core (jefe waits 50 ms).
    pub pause: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            restarts: 5,
            within: Duration::from_secs(10),
            pause: Duration::from_millis(50),
        }
    }
}

/// Owned by an actor; its drop tells the supervisor that the actor is gone.
#[derive(Debug)]
pub struct Watch {
    clean: Arc<AtomicBool>,
    death: mpsc::UnboundedSender<bool>,
}

impl Watch {
    /// Says that the coming end is intended. Without it the service is restarted.
    pub fn ends_cleanly(&self) {
        self.clean.store(true, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.death.send(self.clean.load(Ordering::Relaxed));
    }
}

/// A service was restarted too often; the process should exit and let its own supervisor decide.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service `{service}` died {deaths} times within {} s; giving up", within.as_secs())]
pub struct CrashLoop {
    /// The name of the service.
    pub service: &'static str,
    /// How often it died within the window.
    pub deaths: usize,
    /// The window.
    pub within: Duration,
}

/// Starts a service and keeps it running until it ends cleanly.
///
/// `start` makes a fresh actor around the watch and binds its port; state is rebuilt from disk and
/// kernel, never taken from the dead actor. A panic of `start` itself counts as a death.
///
/// # Errors
/// [`CrashLoop`] when the throttle is exceeded.
pub async fn supervise(
    service: &'static str,
    throttle: Throttle,
    events: Events,
    mut start: impl FnMut(Watch),
) -> Result<(), CrashLoop> {
    let mut deaths: VecDeque<Instant> = VecDeque::new();
    let mut restarted = false;
    loop {
        let (death, mut died) = mpsc::unbounded_channel();
        let watch = Watch {
            clean: Arc::default(),
            death,
        };
        // Unwinding drops the watch, so this death is noticed like any other. What `start` captured is
        // ports and settings, whole at any time.
        let _ = catch_unwind(AssertUnwindSafe(|| start(watch)));
        if restarted {
            // Told afterwards, so that whoever hears it finds the port bound.
            events.publish(Event::ServiceRestarted { service });
            events.audit(Did::RestartService.here().meta("service", service));
        }
        if died.recv().await.unwrap_or(false) {
            return Ok(());
        }
        let now = Instant::now();
        deaths.retain(|at| now.duration_since(*at) < throttle.within);
        deaths.push_back(now);
        tracing::error!(service, deaths = deaths.len(), "service died");
        if deaths.len() > throttle.restarts {
            return Err(CrashLoop {
                service,
                deaths: deaths.len(),
                within: throttle.within,
            });
        }
        tokio::time::sleep(throttle.pause).await;
        restarted = true;
    }
}
