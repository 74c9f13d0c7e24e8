//! The orderly end of the daemon (ACT-06).

use std::time::Duration;

use cml_bus::{
    api::{
        audit::Flush,
        container::Shutdown,
        guestos::{GuestOsPort, Settle, Settled},
    },
    audit::Did,
};
use tokio::{join, time::timeout};

use crate::compose::Services;

/// How long the end waits for a kernel that is being written: as long as it waits for clients and containers. What runs
/// `cmld` has to have more patience (`images/device/root/etc/device/shutdown`, `TimeoutStopSec=` of the unit).
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Clients first, then the containers, and at the same time what is being written outside the store.
pub async fn wind_down(services: &Services) {
    let settled = settle(&services.guestos, SETTLE_LIMIT);
    let (settled, ()) = join!(settled, stop(services));
    services.events.audit(Did::EndDaemon.here());
    if let Err(error) = services.audit.flush.call(Flush).await {
        tracing::error!(%error, "the last audit records are not on the disk");
    }
    // Nobody begins to write any more: the end of the process is next.
    std::mem::forget(settled);
}

async fn stop(services: &Services) {
    let gateway = services.gateway.borrow_mut().take();
    if let Some(gateway) = gateway
        && let Err(error) = gateway.send(cml_gateway::Shutdown).await
    {
        tracing::warn!(%error, "the gateway did not end in an orderly way");
    }
    if let Err(error) = services.container.shutdown.call(Shutdown).await {
        tracing::error!(%error, "containers are left running");
    }
}

/// A block device is written in place, and what could put its old content back is the daemon that this kernel starts.
async fn settle(guestos: &GuestOsPort, limit: Duration) -> Option<Settled> {
    match timeout(limit, guestos.settle.call(Settle)).await {
        Ok(Ok(settled)) => Some(settled),
        Ok(Err(error)) => {
            tracing::error!(%error, "an installation may be cut off");
            None
        }
        Err(_) => {
            tracing::error!(?limit, "an installation takes too long and is cut off");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{cell::RefCell, rc::Rc, sync::Arc};

    use cml_bus::{
        actor::System,
        api::{audit::AuditPort, container::ContainerPort},
        event::Events,
        testing::fake,
    };
    use tokio::{
        pin, select,
        sync::{Notify, mpsc},
        time::sleep,
    };

    use super::*;

    /// Services of which only those that the end asks are there, and one that writes until it is notified.
    fn services() -> (Services, Arc<Notify>) {
        let (container, audit) = (ContainerPort::default(), AuditPort::default());
        let guestos = GuestOsPort::default();
        let _ = fake(&container.shutdown, |_| Ok(()));
        let _ = fake(&audit.flush, |_| Ok(()));
        let written = Arc::new(Notify::new());
        let writer = written.clone();
        guestos.settle.bind_fn(move |_| {
            let writer = writer.clone();
            async move {
                writer.notified().await;
                Ok(Settled::new(()))
            }
        });
        let services = Services {
            container,
            guestos,
            audit,
            events: Events::default(),
            gateway: Rc::new(RefCell::new(None)),
            fatal: mpsc::unbounded_channel().1,
        };
        (services, written)
    }

    #[test]
    fn a_kernel_that_is_being_written_is_finished_before_the_daemon_ends() {
        System::new().block_on(async {
            let (services, written) = services();
            let finish = async {
                sleep(Duration::from_millis(50)).await;
                written.notify_one();
            };
            let end = wind_down(&services);
            pin!(end);
            select! {
                () = &mut end => panic!("it was cut off"),
                () = finish => end.await,
            }
        });
    }

    #[test]
    fn a_kernel_that_is_never_written_holds_the_end_up_for_so_long_only() {
        System::new().block_on(async {
            let (services, written) = services();
            assert!(settle(&services.guestos, Duration::ZERO).await.is_none());
            written.notify_one();
            wind_down(&services).await;
        });
    }
}
