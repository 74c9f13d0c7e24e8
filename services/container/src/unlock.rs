//! Whether a command about a container may be carried out with this PIN, and what opens its volumes then
//! (protocol.md 3.5, paths B and C).

use std::sync::Arc;

use cml_bus::{
    api::{
        container::ContainerError,
        token::{ReleaseKey, TokenError, Unlock},
    },
    id::ContainerId,
    secret::{Key, Pin},
};
use cml_wire::proto::{ContainerConfig, ContainerTokenType, GuestOsConfig};

use crate::{
    env::Env,
    volumes::spec::{self, has_encrypted},
};

/// Asks the token of the container whether the PIN is right.
pub async fn authorise(
    env: &Env,
    container: ContainerId,
    config: &ContainerConfig,
    pin: Option<Pin>,
) -> Result<(), ContainerError> {
    match (config.token_type(), pin) {
        // Starts and stops without a PIN, whatever the client sends (design.md section 1).
        (ContainerTokenType::None, _) => Ok(()),
        (ContainerTokenType::Soft, Some(pin)) => {
            Ok(env.token.unlock.call(Unlock { container, pin }).await?)
        }
        // A client that sends no parameters at all: only where there is nothing to unlock.
        (ContainerTokenType::Soft, None) => {
            let installed = env.installed(config).await?;
            match has_encrypted(&installed.config, true) {
                true => Err(TokenError::WrongPin.into()),
                false => Ok(()),
            }
        }
        (kind, _) => Err(unavailable(kind)),
    }
}

/// As [`authorise`], for a start: the key of the container's volumes comes back if it has some.
pub async fn unlock(
    env: &Arc<Env>,
    id: ContainerId,
    config: &ContainerConfig,
    setup: bool,
    pin: Option<Pin>,
) -> Result<Option<Key>, ContainerError> {
    let Some(pin) = pin.filter(|_| config.token_type() != ContainerTokenType::None) else {
        return authorise(env, id, config, None).await.map(|()| None);
    };
    let installed = env.installed(config).await?;
    if !has_encrypted(&installed.config, setup) {
        return authorise(env, id, config, Some(pin)).await.map(|()| None);
    }
    let release = ReleaseKey {
        container: id,
        pin,
        create: is_new(env, id, config, installed.config.clone()).await?,
    };
    match env.token.release_key.call(release).await {
        Ok(key) => Ok(Some(key)),
        Err(TokenError::KeyLost { path, reason }) => Err(ContainerError::Damaged {
            id,
            reason: format!("its key `{path}`: {reason}"),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Whether the container has nothing yet that only its key opens.
async fn is_new(
    env: &Arc<Env>,
    id: ContainerId,
    config: &ContainerConfig,
    guestos: Arc<GuestOsConfig>,
) -> Result<bool, ContainerError> {
    let mounts = guestos.mounts.iter().chain(&guestos.mounts_setup);
    let volumes = spec::volumes(mounts, config);
    let volumes = volumes.map_err(|error| ContainerError::BadConfig(error.to_string()))?;
    env.in_turn(id, &env.storage, move |env| {
        !env.volumes.any_encrypted(id, &volumes)
    })
    .await
}

fn unavailable(kind: ContainerTokenType) -> ContainerError {
    ContainerError::BadConfig(format!(
        "token_type {} is not available in this version",
        kind.as_str_name()
    ))
}
