//! From configurations on disk, or on their way there, to containers: read, verified, checked.

use std::sync::Arc;

use cml_bus::{
    api::{
        container::{ContainerError, Create, Signature, UpdateConfig},
        network,
        token::{DestroyKey, Forget, VerifySignature},
    },
    audit::Did,
    error::BusError,
    id::ContainerId,
};
use cml_wire::{
    proto::{ContainerConfig, ContainerTrust, GuestOsConfig},
    rules, text,
};

use crate::{
    env::Env, launch, noted, one::Reconfigure, record::Found, remarks, unlock::holder, view::Guest,
    volumes::spec,
};

/// A configuration that was read, verified and checked.
#[derive(Debug)]
pub struct Loaded {
    /// Whose.
    pub id: ContainerId,
    /// The configuration.
    pub config: Arc<ContainerConfig>,
    /// When it was created, in seconds of Unix time.
    pub created: u64,
    /// What its guest OS makes of it; `None` when that is not installed.
    pub guest: Option<Guest>,
    /// Why its configuration cannot be used.
    pub damage: Option<String>,
}

/// A configuration that was accepted, on its way to the store.
struct Prepared {
    bytes: Vec<u8>,
    signature: Option<Signature>,
    config: Arc<ContainerConfig>,
    guest: Option<Guest>,
    remarks: Vec<String>,
}

impl Env {
    /// Every container of the store. One whose configuration cannot be used is left alone, but if it runs, it stays known
    /// by the configuration that it was started with.
    pub(crate) async fn load_all(self: &Arc<Self>) -> Result<Vec<Loaded>, ContainerError> {
        let env = self.clone();
        let ids = self.storage.run(move || env.store.list()).await;
        let ids = ids.map_err(BusError::from)??;
        let has_core0 = ids.iter().any(|id| id.is_core0());
        let mut all = Vec::new();
        for id in ids {
            if id.is_core0() && self.settings.core0.is_none() {
                tracing::warn!("there is no core0 in hosted mode; its configuration is left alone");
                continue;
            }
            match self.load(id).await {
                Ok(loaded) => all.push(loaded),
                Err(error) => {
                    tracing::warn!(container = %id, %error, "configuration not usable");
                    all.extend(match self.load_recorded(id).await {
                        Some(running) => Some(running),
                        None => self.damaged(id, &error).await,
                    });
                }
            }
        }
        if !all.iter().any(|loaded| loaded.id.is_core0()) {
            all.extend(self.core0_instead(has_core0).await);
        }
        Ok(all)
    }

    async fn load_recorded(self: &Arc<Self>, id: ContainerId) -> Option<Loaded> {
        let env = self.clone();
        let read = move || {
            let Found::Record(record) = env.records.read(id) else {
                return None;
            };
            let config = text::parse(record.running?.config.as_bytes()).ok()?;
            Some((config, env.store.created(id)))
        };
        let (config, created) = self.storage.run(read).await.ok().flatten()?;
        Some(Loaded {
            id,
            guest: self.guest(id, &config).await,
            config: Arc::new(config),
            created,
            damage: None,
        })
    }

    /// The container with this identity from its files.
    pub(crate) async fn load(self: &Arc<Self>, id: ContainerId) -> Result<Loaded, ContainerError> {
        let env = self.clone();
        let stored = self.storage.run(move || env.store.read(id)).await;
        let stored = stored.map_err(BusError::from)??;
        let accepted = self.accept(&stored.config, stored.signature).await;
        let mut config = self.accepted(id, accepted)?;
        self.follow_newest(id, &mut config).await;
        Ok(Loaded {
            id,
            guest: self.guest(id, &config).await,
            config: Arc::new(config),
            created: stored.created,
            damage: None,
        })
    }

    /// Writes the newest version of its guest OS down where nobody signed for another one: an update takes effect
    /// when the daemon starts again, or containers are reloaded (protocol.md 6.4, 6.5).
    async fn follow_newest(self: &Arc<Self>, id: ContainerId, config: &mut ContainerConfig) {
        if self.settings.signed_configs {
            return;
        }
        // Of one that is not installed a start will speak.
        let Ok(newest) = self.newest(config).await else {
            return;
        };
        let version = newest.config.version;
        if config.guestos_version == Some(version) {
            return;
        }
        config.guestos_version = Some(version);
        let text = text::print_file(config);
        let write = move |env: &Self| env.store.replace(id, text.as_bytes(), None, false);
        let written = self.in_turn(id, &self.storage, write).await;
        match written.and_then(|written| written) {
            Ok(()) => tracing::info!(container = %id, version, "moved to the newest guest OS"),
            Err(error) => {
                tracing::warn!(container = %id, %error, "the version is not written down")
            }
        }
    }

    /// Tells the audit log who vouched for a configuration. Not in the container's own log: it may never exist.
    pub(crate) fn accepted(
        &self,
        id: ContainerId,
        accepted: Result<ContainerConfig, ContainerError>,
    ) -> Result<ContainerConfig, ContainerError> {
        if self.settings.signed_configs {
            let note = Did::VerifyConfig.with(id);
            self.events.audit(noted::outcome(note, &accepted));
        }
        accepted
    }

    /// The configuration from exactly the bytes whose signature was checked (SEC-09).
    pub(crate) async fn accept(
        &self,
        bytes: &[u8],
        signature: Option<Signature>,
    ) -> Result<ContainerConfig, ContainerError> {
        let bad = |reason: String| ContainerError::BadConfig(reason);
        if self.settings.signed_configs {
            let signature = signature.ok_or_else(|| {
                bad(
                    "it is not signed, and device.conf demands signatures (`signed_configs`)"
                        .into(),
                )
            })?;
            let verify = VerifySignature {
                data: bytes.to_vec(),
                signature: signature.signature,
                certificate: signature.certificate,
            };
            // The local CA does not count here (protocol.md 6.3).
            if self.token.verify_signature.call(verify).await? != ContainerTrust::Signed {
                return Err(bad("only the local CA vouches for its signature".into()));
            }
        }
        rules::read(bytes).map_err(|error| bad(error.to_string()))
    }

    /// What the guest OS makes of the container; `None` when it is not installed.
    pub(crate) async fn guest(
        self: &Arc<Self>,
        id: ContainerId,
        config: &ContainerConfig,
    ) -> Option<Guest> {
        let installed = self.installed(config).await.ok()?;
        let mounts = &installed.config.mounts;
        // Of volumes that cannot be a start will speak.
        let volumes = spec::volumes(mounts.iter(), config).unwrap_or_default();
        let env = self.clone();
        let mode = move || env.volumes.mode(id, &volumes);
        Some(Guest {
            trust: installed.trust,
            cryptfs: self.storage.run(mode).await.ok()?,
        })
    }

    /// A configuration as it will be stored, with the guest OS that it gets. The version of the guest OS is
    /// written down where nobody signed for the bytes (protocol.md 6.4).
    async fn prepared(
        self: &Arc<Self>,
        id: ContainerId,
        bytes: Vec<u8>,
        signature: Option<Signature>,
    ) -> Result<Prepared, ContainerError> {
        let accepted = self.accept(&bytes, signature.clone()).await;
        let mut config = self.accepted(id, accepted)?;
        let installed = self.newest(&config).await?;
        self.check_volumes(id, &config, &installed.config).await?;
        let signed = self.settings.signed_configs;
        if !signed {
            self.complete_interfaces(id, &mut config).await;
        }
        let bytes = match signed {
            true => bytes,
            false => {
                config.guestos_version = Some(installed.config.version);
                text::print_file(&config).into_bytes()
            }
        };
        Ok(Prepared {
            bytes,
            signature: signature.filter(|_| signed),
            guest: self.guest(id, &config).await,
            remarks: remarks::of(&config, &installed.config),
            config: Arc::new(config),
        })
    }

    /// Whether the volumes that the container would have can be, and there is room for them.
    async fn check_volumes(
        self: &Arc<Self>,
        id: ContainerId,
        config: &ContainerConfig,
        guestos: &GuestOsConfig,
    ) -> Result<(), ContainerError> {
        let bad = |reason: String| ContainerError::BadConfig(reason);
        let volumes = spec::volumes(guestos.mounts.iter(), config);
        let volumes = volumes.map_err(|error| bad(error.to_string()))?;
        let check = move |env: &Self| env.volumes.check_room(id, &volumes);
        self.in_turn(id, &self.storage, check).await?.map_err(bad)
    }

    /// A new container, stored.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: Create,
    ) -> Result<(Loaded, Vec<String>), ContainerError> {
        let id = ContainerId::random();
        let prepared = self.prepared(id, request.config, request.signature);
        let prepared = prepared.await.inspect_err(|_| self.forget(id))?;
        let (env, bytes, signature) = (self.clone(), prepared.bytes, prepared.signature);
        let add = move || env.store.add(id, &bytes, signature.as_ref());
        let created = self.storage.run(add).await;
        let created = Loaded {
            id,
            config: prepared.config,
            created: created.map_err(BusError::from)??,
            guest: prepared.guest,
            damage: None,
        };
        Ok((created, prepared.remarks))
    }

    /// Another configuration for a container, stored. What the one token has protected the other cannot open
    /// (runtime.md 3.9): where that changes, the container is marked as to be wiped.
    pub(crate) async fn update(
        self: &Arc<Self>,
        request: UpdateConfig,
        present: &ContainerConfig,
    ) -> Result<(Reconfigure, Vec<String>), ContainerError> {
        let prepared = self.prepared(request.id, request.config, request.signature);
        let prepared = prepared.await?;
        let (id, bytes, signature) = (request.id, prepared.bytes, prepared.signature);
        let wipes = holder(id, &prepared.config)? != holder(id, present).unwrap_or_default();
        if wipes && !request.may_wipe {
            return Err(ContainerError::WouldWipe(id));
        }
        self.in_turn(id, &self.storage, move |env| {
            env.store.replace(id, &bytes, signature.as_ref(), wipes)
        })
        .await??;
        let mut remarks = prepared.remarks;
        remarks.extend(remarks::of_change(present, &prepared.config, wipes));
        let reconfigure = Reconfigure {
            config: prepared.config,
            guest: prepared.guest,
        };
        Ok((reconfigure, remarks))
    }

    /// Deletes everything that a stopped container has on disk. It exists until the first of these steps is
    /// done; its key and token go next, without which nothing of the rest can be read any more.
    pub(crate) async fn delete(self: &Arc<Self>, id: ContainerId) -> Result<(), ContainerError> {
        let begin = move |env: &Self| {
            launch::settle(env, id)?;
            env.store.begin_removal(id)
        };
        self.in_turn(id, &self.storage, begin).await??;
        self.token.forget.call(Forget { container: id }).await?;
        // Its subnet; another container gets one all the same.
        if let Err(error) = self.network.forget.call(network::Forget { id }).await {
            tracing::warn!(container = %id, %error, "its subnet is still kept for it");
        }
        self.in_turn(id, &self.storage, move |env| env.store.remove(id))
            .await?
    }

    /// Finishes removals that were interrupted. What is left is in nobody's way meanwhile.
    pub(crate) async fn finish_removals(self: &Arc<Self>) {
        let env = self.clone();
        let found = self.storage.run(move || env.store.half_removed()).await;
        for id in found.ok().and_then(Result::ok).unwrap_or_default() {
            match self.delete(id).await {
                Ok(()) => tracing::info!(container = %id, "an interrupted removal is finished"),
                Err(error) => tracing::warn!(container = %id, %error, "not removed completely"),
            }
        }
    }

    /// Deletes what a container has stored; it keeps its configuration and its PIN. Its key goes first:
    /// without it nothing of the rest can be read any more.
    pub(crate) async fn wipe(self: &Arc<Self>, id: ContainerId) -> Result<(), ContainerError> {
        let wiped = self.wipe_stored(id).await;
        self.events.audit(noted::outcome(Did::Wipe.to(id), &wiped));
        wiped
    }

    async fn wipe_stored(self: &Arc<Self>, id: ContainerId) -> Result<(), ContainerError> {
        let begin = move |env: &Self| {
            launch::settle(env, id)?;
            env.store.begin_wipe(id)
        };
        self.in_turn(id, &self.storage, begin).await??;
        self.token
            .destroy_key
            .call(DestroyKey { container: id })
            .await?;
        self.in_turn(id, &self.storage, move |env| {
            env.volumes
                .wipe(id)
                .map_err(|error| ContainerError::Store {
                    path: id.to_string(),
                    reason: error.to_string(),
                })?;
            env.store.end_wipe(id)
        })
        .await??;
        tracing::info!(container = %id, "wiped: its key and its volumes are gone");
        Ok(())
    }

    /// Cleans up after containers that were removed while their processes were still there.
    pub(crate) async fn clean_up_unknown(self: &Arc<Self>) {
        let env = self.clone();
        let unknown = move || {
            let known = env.store.list()?;
            let mut recorded = env.records.list();
            let built_in = |id: &ContainerId| id.is_core0() && env.settings.core0.is_some();
            recorded.retain(|id| !known.contains(id) && !built_in(id));
            Ok::<_, ContainerError>(recorded)
        };
        let Ok(Ok(unknown)) = self.storage.run(unknown).await else {
            return;
        };
        for id in unknown {
            let forget = move |env: &Env| {
                if let Some(live) = launch::adopt(env, id) {
                    tracing::warn!(container = %id, "ending a container that was removed");
                    launch::clean_up(env, id, live, false);
                }
            };
            let _ = self.in_turn(id, &self.groups, forget).await;
        }
    }
}
