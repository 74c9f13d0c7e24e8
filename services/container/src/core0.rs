//! `core0`, the management container of a device (runtime.md 1.9, 6.8): there without a configuration, started with the
//! device, and the device ends with it.

use std::{sync::Arc, time::Duration};

use cml_bus::{
    api::container::{ContainerError, Start},
    event::Event,
    id::ContainerId,
};
use cml_wire::proto::{ContainerConfig, ContainerTokenType};
use tokio::time::{sleep, timeout};

use crate::{entry::Entry, env::Env, fsm::State, load::Loaded};

/// MiB of memory that `core0` may have when nobody has configured it (protocol.md 7.4).
const RAM: u32 = 1024;
/// White and opaque (runtime.md 6.8).
const COLOR: u32 = 0xffff_ff00;
/// The pause after a start that failed. It doubles up to the longest one; the device is of no use meanwhile.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the other containers wait for `core0`, which is their way to the network, before they start without it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What `core0` is when nobody has configured it (protocol.md 7.4).
fn built_in(guestos: &str) -> ContainerConfig {
    ContainerConfig {
        name: "c0".into(),
        guest_os: guestos.into(),
        ram_limit: Some(RAM),
        color: COLOR,
        userns: Some(false),
        netns: Some(true),
        token_type: ContainerTokenType::None.into(),
        ..Default::default()
    }
}

impl Env {
    /// `core0` as it is without a configuration that can be used; `None` where there is no `core0`.
    pub(crate) async fn built_in_core0(self: &Arc<Self>) -> Option<Loaded> {
        let mut config = built_in(self.settings.core0.as_deref()?);
        let newest = self.newest_of(&config).await;
        // Of one that is not installed the start will speak.
        config.guestos_version = newest.ok().map(|installed| installed.config.version);
        Some(Loaded {
            id: ContainerId::CORE0,
            guest: self.guest(ContainerId::CORE0, &config).await,
            config: Arc::new(config),
            created: 0,
        })
    }
}

/// Starts `core0` whenever it has come to nothing, and tells everybody when it has ended otherwise: the device ends with
/// it.
pub async fn keep(env: Arc<Env>, core0: Entry) {
    let mut view = core0.view.clone();
    loop {
        start(&env, &core0).await;
        // Fails when the service is started anew; its successor watches then.
        let rested = view.wait_for(|view| view.state.is_at_rest()).await;
        let Ok(failed) = rested.map(|view| view.failed) else {
            return;
        };
        if env.is_closing() {
            return;
        }
        if !failed {
            tracing::warn!("core0 has ended");
            env.events.publish(Event::Core0Ended);
            return;
        }
        tracing::error!("core0 came to nothing; it is started again");
        sleep(PAUSE).await;
    }
}

/// Waits until `core0` runs, or has not for too long.
pub async fn up(core0: &Entry) {
    let mut view = core0.view.clone();
    let up = view.wait_for(|view| view.state == State::Running);
    if timeout(PATIENCE, up).await.is_err() {
        tracing::error!("core0 does not run yet; the other containers do not wait any longer");
    }
}

/// Insists: without `core0` nobody can operate the device.
async fn start(env: &Arc<Env>, core0: &Entry) {
    let mut pause = PAUSE;
    while !env.is_closing() {
        let request = Start {
            id: core0.id,
            pin: None,
            setup: false,
        };
        match core0.port.start.call(request).await {
            Ok(_) => return tracing::info!("core0 is started"),
            // Taken over from the daemon before this one.
            Err(ContainerError::AlreadyRunning(_)) => return,
            Err(ContainerError::Zombie(_)) => {
                // Nobody else could: whoever may wipe it would have to come in through it.
                tracing::error!(
                    "what core0 has stored is damaged; it is wiped, and core0 begins anew"
                );
                if let Err(error) = core0.wipe().await {
                    tracing::error!(%error, "core0 was not wiped");
                }
            }
            Err(error) => {
                tracing::error!(%error, ?pause, "core0 does not start; it is tried again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
