//! The end of the device: asked for by `reboot`, or because `core0` has ended (runtime.md 1.9).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cml_bus::{
    api::{
        container::{ContainerPort, StopAll, StoppedAll},
        guestos::{GuestOsPort, Settle},
    },
    blocking::Pool,
    event::{Event, Events},
};
use cml_sys::power::Power;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Ends the machine, and returns only if that fails.
#[derive(Clone)]
pub struct EndMachine(Arc<dyn Fn(Power) -> cml_sys::Result<()> + Send + Sync>);

impl EndMachine {
    /// By this function, which blocks.
    pub fn new(end: impl Fn(Power) -> cml_sys::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(end))
    }
}

impl fmt::Debug for EndMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndMachine(..)")
    }
}

/// What a reboot of the device is.
#[derive(Debug, Clone)]
pub enum Machine {
    /// The machine is somebody else's: its containers stop, and that is all (protocol.md 7.5).
    Host,
    /// The machine should be the device, but the daemon has no right to end it (docs/adr/0060-device.md).
    NoMaster,
    /// The machine is the device.
    Own(EndMachine),
}

/// Takes the device down, once.
#[derive(Debug, Clone)]
pub struct Descent {
    end: EndMachine,
    guestos: GuestOsPort,
    container: ContainerPort,
    files: Pool,
    /// Somebody does it already.
    begun: Arc<AtomicBool>,
}

impl Descent {
    /// For a device whose containers and power are these.
    pub fn new(
        end: EndMachine,
        (guestos, container): (GuestOsPort, ContainerPort),
        files: Pool,
    ) -> Self {
        Self {
            end,
            guestos,
            container,
            files,
            begun: Arc::default(),
        }
    }

    /// Claims the end of the device for whoever asks first: a reboot that was asked for must not be overtaken by the end of
    /// `core0`, which is a part of it.
    pub fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }

    /// Has a kernel that is being written finished, and stops what still runs, `core0` last: it is the way of the others to
    /// the network. Then ends the machine.
    pub async fn finish(&self, power: Power) {
        // Kept to the end. If the machine runs on, whoever waits to write may do so again.
        let settled = self.guestos.settle.call(Settle).await;
        if let Err(error) = &settled {
            tracing::error!(%error, "an installation is cut off");
        }
        for core0 in [false, true] {
            match self.container.stop_all.call(StopAll { core0 }).await {
                // What does not stop must not keep a device from its end (protocol.md 8.3, F24).
                Ok(StoppedAll { left, .. }) if !left.is_empty() => {
                    let left: Vec<_> = left.iter().map(ToString::to_string).collect();
                    tracing::error!(containers = left.join(", "), "cut off");
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "containers are cut off"),
            }
        }
        tracing::info!(?power, "the device ends");
        let end = self.end.clone();
        let outcome = self.files.run(move || (end.0)(power)).await;
        // Another attempt may be luckier.
        self.begun.store(false, Ordering::Relaxed);
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, ?power, "the machine runs on"),
            Err(error) => tracing::error!(%error, ?power, "the machine runs on"),
        }
        drop(settled);
    }

    /// Switches the device off when `core0` has ended.
    pub async fn follow(self, events: Events) {
        let mut events = events.subscribe();
        while core0_ended(&mut events).await {
            if self.begin() {
                tracing::warn!("core0 has ended: the device is switched off");
                self.finish(Power::Off).await;
            }
        }
    }
}

/// Tells the operator of a machine that stays when `core0` has ended.
pub async fn follow_without_right(events: Events) {
    let mut events = events.subscribe();
    while core0_ended(&mut events).await {
        tracing::error!(
            "core0 has ended, and the machine runs on, as its first program has not started cmld with --device; start \
             cmld again for another core0"
        );
    }
}

/// Waits for the end of `core0`; false when nobody can tell any more.
async fn core0_ended(events: &mut Receiver<Event>) -> bool {
    loop {
        match events.recv().await {
            Ok(Event::Core0Ended) => return true,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return false,
        }
    }
}
