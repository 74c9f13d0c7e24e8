//! Containers whose stored configuration cannot be used: they can be seen, wiped and removed, and nothing else.

use std::sync::Arc;

use cml_bus::{api::container::ContainerError, id::ContainerId};
use cml_wire::{proto::ContainerConfig, rules};

use crate::{entry::Entry, env::Env, load::Loaded};

impl Env {
    /// The container as its files have it, or what is left of it; `None` if it has none. `core0` does without (`core0.rs`).
    pub(crate) async fn load_or_tell(self: &Arc<Self>, id: ContainerId) -> Option<Loaded> {
        match self.load(id).await {
            Ok(loaded) => Some(loaded),
            Err(error) => self.damaged(id, &error).await,
        }
    }

    /// What is known of a container whose configuration cannot be used for this reason.
    pub(crate) async fn damaged(
        self: &Arc<Self>,
        id: ContainerId,
        error: &ContainerError,
    ) -> Option<Loaded> {
        let env = self.clone();
        let read = move || {
            let text = env.store.has(id).then(|| env.store.read(id))?;
            let text = text.map(|stored| stored.config).unwrap_or_default();
            Some((
                rules::check::<ContainerConfig>(&text).config,
                env.store.created(id),
            ))
        };
        let (found, created) = self.storage.run(read).await.ok().flatten()?;
        // For whoever looks for it; nothing else of such a text is believed.
        let config = ContainerConfig {
            name: match found.name.is_empty() {
                true => id.to_string(),
                false => found.name,
            },
            guest_os: found.guest_os,
            ..ContainerConfig::default()
        };
        let reason = match error {
            ContainerError::BadConfig(reason) => reason.clone(),
            error => error.to_string(),
        };
        let loaded = Loaded {
            id,
            config: Arc::new(config),
            created,
            guest: None,
            damage: Some(reason),
        };
        (!id.is_core0()).then_some(loaded)
    }

    /// Deletes what the container has stored, after ending whatever runs of it.
    pub(crate) async fn wipe_entry(self: &Arc<Self>, entry: &Entry) -> Result<(), ContainerError> {
        match entry.usable() {
            Ok(()) => entry.wipe().await,
            // It has no actor that could.
            Err(_) => self.wipe(entry.id).await,
        }
    }
}

impl Entry {
    /// Whether there is a configuration that can be used.
    pub fn usable(&self) -> Result<(), ContainerError> {
        let id = self.id;
        match self.view.borrow().damage.clone() {
            None => Ok(()),
            Some(reason) => Err(ContainerError::Unusable { id, reason }),
        }
    }
}
