//! `core0`, the management container of a device (runtime.md 1.9, 6.8): there without a configuration, started with the
//! device, and the device ends with it. Whoever could repair it would have to come in through it, so what it ran well with
//! is remembered, and is the way back from an update that comes to nothing.

mod fallback;
mod proven;

use std::{sync::Arc, time::Duration};

use cml_bus::{
    api::container::{ContainerError, Start},
    audit::Did,
    event::Event,
    id::ContainerId,
};
use cml_wire::proto::{ContainerConfig, ContainerTokenType};
use tokio::time::{sleep, timeout};

pub use fallback::{Life, PROOF};

use crate::{
    core0::fallback::{Source, TRIES},
    entry::Entry,
    env::Env,
    fsm::State,
    load::Loaded,
    one::Reconfigure,
    view::View,
};

type Tries = fallback::Tries<Arc<ContainerConfig>>;

/// MiB of memory that `core0` may have when nobody has configured it (protocol.md 7.4).
const RAM: u32 = 1024;
/// White and opaque, as the colours of requirement.md: alpha first. The existing system's has it last (runtime.md 6.8).
const COLOR: u32 = 0xffff_ffff;
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

/// A configuration of `core0` in a word, for the log.
fn told(config: &ContainerConfig) -> String {
    let version = match config.guestos_version {
        Some(version) => format!(" version {version}"),
        None => String::new(),
    };
    format!("`{}` with {}{version}", config.name, config.guest_os)
}

impl Env {
    /// `core0` where what is stored of it cannot be used; `None` where there is no `core0`. `configured`: something is
    /// stored. Nobody has lost anything where nothing is: it is the built-in one then, of the newest guest OS.
    pub(crate) async fn core0_instead(self: &Arc<Self>, configured: bool) -> Option<Loaded> {
        self.settings.core0.as_ref()?;
        let proven = match configured {
            true => self.proven_core0().await,
            false => None,
        };
        let (source, instead) = match proven {
            Some(proven) => (Source::Proven, proven),
            None => (Source::BuiltIn, self.built_in_core0().await?),
        };
        if configured {
            let reason = "its configuration is not usable";
            let (instead, words) = (told(&instead.config), source.words());
            tracing::error!(instead, "core0: {reason}; {words}");
            let note = Did::FallBack.to(ContainerId::CORE0).failed();
            let note = note.meta("reason", reason).meta("instead", instead);
            self.events.audit(note);
        }
        Some(instead)
    }

    /// `core0` as it is without a configuration that can be used; `None` where there is no `core0`.
    async fn built_in_core0(self: &Arc<Self>) -> Option<Loaded> {
        let mut config = built_in(self.settings.core0.as_deref()?);
        let newest = self.newest_of(&config).await;
        // Of one that is not installed the start will speak.
        config.guestos_version = newest.ok().map(|installed| installed.config.version);
        Some(Loaded {
            id: ContainerId::CORE0,
            guest: self.guest(ContainerId::CORE0, &config).await,
            config: Arc::new(config),
            created: 0,
            damage: None,
        })
    }

    /// Every configuration that `core0` can be started with.
    async fn usable_core0s(self: &Arc<Self>) -> Vec<(Source, Loaded)> {
        let stored = self.load(ContainerId::CORE0).await;
        // It was told of when it was loaded the first time.
        let stored = stored.inspect_err(|error| tracing::debug!(%error, "core0 as it is stored"));
        let all = [
            (Source::Stored, stored.ok()),
            (Source::Proven, self.proven_core0().await),
            (Source::BuiltIn, self.built_in_core0().await),
        ];
        let usable = all.into_iter();
        usable
            .filter_map(|(source, loaded)| Some((source, loaded?)))
            .collect()
    }
}

/// Starts `core0` whenever it has come to nothing, and tells everybody when it has ended otherwise: the device ends with
/// it.
pub async fn keep(env: Arc<Env>, core0: Entry) {
    let mut view = core0.view.clone();
    let mut tries = Tries::default();
    cml_bus::actor::spawn(prove(env.clone(), core0.clone()));
    loop {
        start(&env, &core0, &mut tries).await;
        // Fails when the service is started anew; its successor watches then.
        let rested = view.wait_for(|view| view.state.is_at_rest()).await;
        // A copy: as long as it was borrowed, its actor could not go on.
        let Ok(rested) = rested.map(|view| view.clone()) else {
            return;
        };
        if env.is_closing() {
            return;
        }
        if !rested.failed {
            tracing::warn!("core0 has ended");
            env.events.publish(Event::Core0Ended);
            return;
        }
        let reason = rested.last_end.map(|end| end.reason).unwrap_or_default();
        tracing::error!(reason, "core0 came to nothing; it is started again");
        if rested.well {
            tries.ran_well();
        } else if rested.state != State::Zombie {
            came_to_nothing(&env, &core0, &mut tries, rested.config, &reason).await;
        }
        sleep(tries.pause()).await;
    }
}

/// Remembers what `core0` runs with, whenever it has run well. Ends when the service is started anew; its successor looks
/// then.
async fn prove(env: Arc<Env>, core0: Entry) {
    let mut view = core0.view.clone();
    loop {
        let running = view.wait_for(|view| view.state == State::Running).await;
        let Ok(config) = running.map(|view| view.config.clone()) else {
            return;
        };
        // Now, as an update may be stored before it has run for long enough.
        let proven = env.worth_remembering(config.clone()).await;
        let same = |view: &View| Arc::ptr_eq(&view.config, &config);
        let over = |view: &View| view.well || view.state != State::Running || !same(view);
        let over = view.wait_for(over).await;
        let Ok(well) = over.map(|view| view.well && same(&view)) else {
            return;
        };
        if !well {
            continue;
        }
        if let Some(proven) = proven {
            env.remember(proven).await;
        }
        if view.wait_for(|view| !view.well).await.is_err() {
            return;
        }
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
async fn start(env: &Arc<Env>, core0: &Entry, tries: &mut Tries) {
    while !env.is_closing() {
        let config = core0.view.borrow().config.clone();
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
                tracing::error!(%error, "core0 does not start; it is tried again");
                // A service that was busy or died says nothing about the configuration.
                if !matches!(error, ContainerError::Bus(_)) && !env.is_closing() {
                    came_to_nothing(env, core0, tries, config, &error.to_string()).await;
                }
            }
        }
        sleep(tries.pause()).await;
    }
}

/// Gives `core0` another configuration if it has come to nothing too often with this one.
async fn came_to_nothing(
    env: &Arc<Env>,
    core0: &Entry,
    tries: &mut Tries,
    failed: Arc<ContainerConfig>,
    reason: &str,
) {
    if !tries.failed(failed.clone()) {
        return;
    }
    let usable = env.usable_core0s().await;
    let configs = usable.iter();
    let configs: Vec<_> = configs
        .map(|(source, loaded)| (*source, loaded.config.clone()))
        .collect();
    let Some((source, config)) = fallback::next(&configs, &failed) else {
        return tracing::error!("there is nothing else that core0 could be started with");
    };
    let mut loaded = usable.iter().map(|(_, loaded)| loaded);
    let guest = loaded
        .find(|loaded| loaded.config == *config)
        .and_then(|loaded| loaded.guest);
    // Somebody may have given it another one meanwhile.
    if core0.view.borrow().config != failed {
        return;
    }
    let (failed, instead) = (told(&failed), told(config));
    tracing::error!(
        failed,
        reason,
        instead,
        "core0 came to nothing {TRIES} times in a row; {}",
        source.words()
    );
    let note = Did::FallBack.to(core0.id).failed();
    let note = note.meta("reason", reason).meta("failed", failed);
    env.events.audit(note.meta("instead", instead));
    let reconfigure = Reconfigure {
        config: config.clone(),
        guest,
    };
    if let Err(error) = core0.port.reconfigure.call(reconfigure).await {
        tracing::error!(%error, "core0 was not given another configuration");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_wire::text;

    use super::*;

    #[test]
    fn core0_is_white_with_a_configuration_and_without() {
        let device = include_bytes!("../../../images/device/core0.conf");
        let device: ContainerConfig = text::parse(device).unwrap();
        let [alpha, rest @ ..] = built_in("os").color.to_be_bytes();
        assert_eq!((alpha, rest), (0xff, [0xff; 3]));
        assert_eq!(device.color, built_in("os").color);
    }
}
