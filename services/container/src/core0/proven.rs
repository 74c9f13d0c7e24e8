//! What `core0` last ran well with: the way back when an update of it turns out to be bad.
//!
//! One file beside its configuration, replaced as a whole and only when something has changed. It holds the exact bytes of
//! the configuration with its signature, which is verified again before it is used (SEC-09), and pins the version of the
//! guest OS, which the purge of obsolete versions therefore keeps.

use std::{path::PathBuf, sync::Arc};

use cml_bus::{
    api::container::{ContainerError, Signature},
    error::BusError,
    id::ContainerId,
};
use cml_sys::{atomic, file};
use cml_wire::{proto::ContainerConfig, rules, text};
use serde::{Deserialize, Serialize};

use super::built_in;
use crate::{env::Env, load::Loaded};

/// A configuration with which `core0` has run well, as it lies on disk. The next version of the daemon reads it as well: a
/// field that is added gets `#[serde(default)]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The exact bytes, which are text.
    config: String,
    /// Who vouches for them; nobody for the built-in one, and where nobody has to.
    signed: Option<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    #[serde(with = "hex")]
    signature: Vec<u8>,
    #[serde(with = "hex")]
    certificate: Vec<u8>,
}

impl Proven {
    /// From what is stored, or from the built-in configuration.
    fn of(bytes: Vec<u8>, signature: Option<Signature>) -> Option<Self> {
        Some(Self {
            config: String::from_utf8(bytes).ok()?,
            signed: signature.map(|signature| Signed {
                signature: signature.signature,
                certificate: signature.certificate,
            }),
        })
    }

    /// The signature to be verified, if there is one.
    fn signature(&self) -> Option<Signature> {
        self.signed.as_ref().map(|signed| Signature {
            signature: signed.signature.clone(),
            certificate: signed.certificate.clone(),
        })
    }
}

impl Env {
    fn proven_file(&self) -> PathBuf {
        let name = format!("{}.proven", ContainerId::CORE0);
        self.settings.base.join("containers").join(name)
    }

    fn read_proven(&self) -> Result<Option<Proven>, ContainerError> {
        let path = self.proven_file();
        let unusable = |reason: String| ContainerError::Store {
            path: path.display().to_string(),
            reason,
        };
        match file::read(&path) {
            Ok(bytes) => {
                let proven = serde_json::from_slice(&bytes);
                Ok(Some(proven.map_err(|error| unusable(error.to_string()))?))
            }
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(unusable(error.source.to_string())),
        }
    }

    /// The configuration whose guest OS must stay for the way back.
    pub(crate) fn config_of_way_back(&self) -> Option<ContainerConfig> {
        self.settings.core0.as_ref()?;
        let proven = self.read_proven().ok().flatten()?;
        text::parse(proven.config.as_bytes()).ok()
    }

    /// What there is to be remembered of a `core0` that runs with this configuration. Nothing of one that is on its way
    /// back: what is stored, or the built-in one where nothing is stored, is remembered and nothing else.
    pub(super) async fn worth_remembering(
        self: &Arc<Self>,
        config: Arc<ContainerConfig>,
    ) -> Option<Proven> {
        let env = self.clone();
        let find = move || match env.store.list().ok()?.contains(&ContainerId::CORE0) {
            true => {
                let stored = env.store.read(ContainerId::CORE0).ok()?;
                // An update may lie there that it has not taken yet.
                let same = rules::read::<ContainerConfig>(&stored.config).ok()? == *config;
                let signature = stored.signature.filter(|_| env.settings.signed_configs);
                same.then(|| Proven::of(stored.config, signature)).flatten()
            }
            false => {
                let text = text::print_file(&*config).into_bytes();
                let found = env.is_built_in(&config).then(|| Proven::of(text, None));
                found.flatten()
            }
        };
        self.storage.run(find).await.ok().flatten()
    }

    /// Remembers it, unless that is what is remembered already.
    pub(super) async fn remember(self: &Arc<Self>, proven: Proven) {
        let env = self.clone();
        let write = move || -> Result<bool, ContainerError> {
            // What cannot be read is replaced.
            if env.read_proven().ok().flatten().as_ref() == Some(&proven) {
                return Ok(false);
            }
            let path = env.proven_file();
            let failed = |reason: String| ContainerError::Store {
                path: path.display().to_string(),
                reason,
            };
            let text = serde_json::to_vec(&proven).map_err(|error| failed(error.to_string()))?;
            let written = atomic::write(&path, &text, 0o600);
            written.map_err(|error| failed(error.source.to_string()))?;
            Ok(true)
        };
        let written = self.storage.run(write).await.map_err(BusError::from);
        match written
            .map_err(ContainerError::from)
            .and_then(|written| written)
        {
            Ok(true) => tracing::info!("core0 runs well; what it runs with is remembered"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "what core0 runs well with is not remembered"),
        }
    }

    /// `core0` as it last ran well, if that is remembered and can be used.
    pub(super) async fn proven_core0(self: &Arc<Self>) -> Option<Loaded> {
        let config = self.proven_config().await;
        let config = config
            .inspect_err(|error| tracing::error!(%error, "what core0 ran well with is not usable"))
            .ok()
            .flatten()?;
        Some(Loaded {
            id: ContainerId::CORE0,
            guest: self.guest(ContainerId::CORE0, &config).await,
            created: self.store.created(ContainerId::CORE0),
            config: Arc::new(config),
            damage: None,
        })
    }

    async fn proven_config(self: &Arc<Self>) -> Result<Option<ContainerConfig>, ContainerError> {
        let env = self.clone();
        let read = self.storage.run(move || env.read_proven()).await;
        let Some(proven) = read.map_err(BusError::from)?? else {
            return Ok(None);
        };
        // The one that nobody signed, as the device has it; only its version was chosen, and a vendor signed for that.
        if proven.signed.is_none()
            && let Ok(config) = rules::read(proven.config.as_bytes())
            && self.is_built_in(&config)
        {
            return Ok(Some(config));
        }
        let accepted = self.accept(proven.config.as_bytes(), proven.signature());
        let accepted = accepted.await;
        Ok(Some(self.accepted(ContainerId::CORE0, accepted)?))
    }

    /// Whether it is the configuration that the device has, with whatever version of its guest OS.
    fn is_built_in(&self, config: &ContainerConfig) -> bool {
        self.settings.core0.as_deref().is_some_and(|guestos| {
            let built_in = ContainerConfig {
                guestos_version: config.guestos_version,
                ..built_in(guestos)
            };
            built_in == *config
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_daemon_has_remembered_the_next_version_of_it_understands() {
        let written =
            r#"{"config":"name: \"c\"\n","signed":{"signature":"0aff","certificate":"2d2d"}}"#;
        let proven: Proven = serde_json::from_str(written).unwrap();
        assert_eq!(proven.config, "name: \"c\"\n");
        let signature = proven.signature().unwrap();
        assert_eq!(signature.signature, [0x0a, 0xff]);
        assert_eq!(signature.certificate, b"--");
        assert_eq!(serde_json::to_string(&proven).unwrap(), written);
        let unsigned: Proven = serde_json::from_str(r#"{"config":"","signed":null}"#).unwrap();
        assert_eq!(Proven::of(vec![], None), Some(unsigned));
    }

    #[test]
    fn what_is_no_text_is_no_configuration() {
        assert_eq!(Proven::of(vec![0xff], None), None);
    }
}
