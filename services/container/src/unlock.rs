//! Whether a command about a container may be carried out with this PIN (protocol.md 3.5, paths B and C).

use cml_bus::{
    api::{
        container::ContainerError,
        token::{TokenError, Unlock},
    },
    id::ContainerId,
    secret::Pin,
};
use cml_wire::proto::{ContainerConfig, ContainerTokenType};

use crate::{env::Env, plan::has_encrypted_volumes};

/// Asks the token of the container.
pub async fn unlock(
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
            match has_encrypted_volumes(&installed.config) {
                true => Err(TokenError::WrongPin.into()),
                false => Ok(()),
            }
        }
        (kind, _) => Err(ContainerError::BadConfig(format!(
            "token_type {} is not available in this version",
            kind.as_str_name()
        ))),
    }
}
