//! From configurations on disk, or on their way there, to containers: read, verified, checked.

use std::sync::Arc;

use cml_bus::{
    api::{
        container::{ContainerError, Create, Signature, UpdateConfig},
        token::{Forget, VerifySignature},
    },
    error::BusError,
    id::ContainerId,
};
use cml_wire::{
    proto::{ContainerConfig, ContainerTrust},
    text,
};

use crate::{check::check, env::Env, launch, one::Reconfigure, record::Found};

/// A configuration that was read, verified and checked.
#[derive(Debug)]
pub struct Loaded {
    /// Whose.
    pub id: ContainerId,
    /// The configuration.
    pub config: Arc<ContainerConfig>,
    /// When it was created, in seconds of Unix time.
    pub created: u64,
    /// Who vouches for its guest OS; `None` when that is not installed.
    pub trust: Option<ContainerTrust>,
}

/// A configuration that was accepted, on its way to the store.
struct Prepared {
    bytes: Vec<u8>,
    signature: Option<Signature>,
    config: Arc<ContainerConfig>,
    trust: Option<ContainerTrust>,
}

impl Env {
    /// Every container of the store whose configuration can be used. The others are reported and left alone,
    /// but one that runs stays known by the configuration that it was started with.
    pub(crate) async fn load_all(self: &Arc<Self>) -> Result<Vec<Loaded>, ContainerError> {
        let env = self.clone();
        let ids = self.storage.run(move || env.store.list()).await;
        let mut all = Vec::new();
        for id in ids.map_err(BusError::from)?? {
            match self.load(id).await {
                Ok(loaded) => all.push(loaded),
                Err(error) => {
                    tracing::warn!(container = %id, %error, "configuration not usable");
                    all.extend(self.load_recorded(id).await);
                }
            }
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
            trust: self.trust(&config).await,
            config: Arc::new(config),
            created,
        })
    }

    /// The container with this identity from its files.
    pub(crate) async fn load(self: &Arc<Self>, id: ContainerId) -> Result<Loaded, ContainerError> {
        let env = self.clone();
        let stored = self.storage.run(move || env.store.read(id)).await;
        let stored = stored.map_err(BusError::from)??;
        let config = self.accept(&stored.config, stored.signature).await?;
        Ok(Loaded {
            id,
            trust: self.trust(&config).await,
            config: Arc::new(config),
            created: stored.created,
        })
    }

    /// The configuration from exactly the bytes whose signature was checked (SEC-09).
    async fn accept(
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
        let config = text::parse(bytes).map_err(|error| bad(error.to_string()))?;
        check(&config).map_err(|error| bad(error.to_string()))?;
        Ok(config)
    }

    /// Who vouches for the guest OS; `None` when it is not installed.
    async fn trust(&self, config: &ContainerConfig) -> Option<ContainerTrust> {
        let found = self.installed(config).await;
        found.ok().map(|installed| installed.trust)
    }

    /// A configuration as it will be stored, with the guest OS that it gets. The version of the guest OS is
    /// written down where nobody signed for the bytes (protocol.md 6.4).
    async fn prepared(
        &self,
        bytes: Vec<u8>,
        signature: Option<Signature>,
    ) -> Result<Prepared, ContainerError> {
        let mut config = self.accept(&bytes, signature.clone()).await?;
        let installed = self.installed(&config).await?;
        let signed = self.settings.signed_configs;
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
            config: Arc::new(config),
            trust: Some(installed.trust),
        })
    }

    /// A new container, stored.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: Create,
    ) -> Result<Loaded, ContainerError> {
        let prepared = self.prepared(request.config, request.signature).await?;
        let id = ContainerId::random();
        let (env, bytes, signature) = (self.clone(), prepared.bytes, prepared.signature);
        let add = move || env.store.add(id, &bytes, signature.as_ref());
        let created = self.storage.run(add).await;
        Ok(Loaded {
            id,
            config: prepared.config,
            created: created.map_err(BusError::from)??,
            trust: prepared.trust,
        })
    }

    /// Another configuration for a container, stored.
    pub(crate) async fn update(
        self: &Arc<Self>,
        request: UpdateConfig,
        present: &ContainerConfig,
    ) -> Result<Reconfigure, ContainerError> {
        let prepared = self.prepared(request.config, request.signature).await?;
        if prepared.config.token_type() != present.token_type() {
            return Err(ContainerError::BadConfig(
                "the token_type of a container cannot be changed in this version; remove it and \
                 create it anew"
                    .into(),
            ));
        }
        let (id, bytes, signature) = (request.id, prepared.bytes, prepared.signature);
        self.in_turn(id, &self.storage, move |env| {
            env.store.replace(id, &bytes, signature.as_ref())
        })
        .await??;
        Ok(Reconfigure {
            config: prepared.config,
            trust: prepared.trust,
        })
    }

    /// Deletes everything that a stopped container has on disk. Its token goes first: without it nothing of
    /// the rest can be read any more.
    pub(crate) async fn delete(self: &Arc<Self>, id: ContainerId) -> Result<(), ContainerError> {
        self.token.forget.call(Forget { container: id }).await?;
        self.in_turn(id, &self.storage, move |env| env.store.remove(id))
            .await?
    }

    /// Cleans up after containers that were removed while their processes were still there.
    pub(crate) async fn clean_up_unknown(self: &Arc<Self>) {
        let env = self.clone();
        let unknown = move || {
            let known = env.store.list()?;
            let mut recorded = env.records.list();
            recorded.retain(|id| !known.contains(id));
            Ok::<_, ContainerError>(recorded)
        };
        let Ok(Ok(unknown)) = self.storage.run(unknown).await else {
            return;
        };
        for id in unknown {
            let forget = move |env: &Env| {
                if let Some(live) = launch::adopt(env, id) {
                    tracing::warn!(container = %id, "ending a container that was removed");
                    launch::clean_up(env, id, live);
                }
            };
            let _ = self.in_turn(id, &self.groups, forget).await;
        }
    }
}
