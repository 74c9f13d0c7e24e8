//! Whether a command about a container may be carried out with this PIN, and what opens its volumes then
//! (protocol.md 3.5, paths B and C).

use std::sync::Arc;

use cml_bus::{
    api::{
        container::ContainerError,
        token::{Core0Key, EnterPin, Holder, ReleaseKey, TokenError, TokenKind, Unlock},
    },
    id::ContainerId,
    secret::{Key, Pin},
};
use cml_wire::proto::{ContainerConfig, ContainerTokenType, ContainerUsbType, GuestOsConfig};

use crate::{
    env::Env,
    launch::check_encryption,
    volumes::spec::{self, Volume, has_encrypted},
};

/// What protects the container; `None` if nothing does.
pub fn holder(id: ContainerId, config: &ContainerConfig) -> Result<Option<Holder>, ContainerError> {
    let bad = |reason: &str| ContainerError::BadConfig(reason.to_owned());
    // Nobody is there to type a PIN when a device starts (runtime.md 6.8).
    if id.is_core0() {
        return Ok(None);
    }
    let kind = match config.token_type() {
        ContainerTokenType::None => return Ok(None),
        ContainerTokenType::Soft => TokenKind::Soft,
        ContainerTokenType::Pkcs11 => match config.pkcs11_module() {
            "" => return Err(bad("token_type PKCS11 needs a `pkcs11_module`")),
            module => TokenKind::Pkcs11 {
                module: module.to_owned(),
            },
        },
        ContainerTokenType::Usb => {
            return Err(bad("token_type USB is not supported; use PKCS11"));
        }
    };
    let container = id;
    Ok(Some(Holder { container, kind }))
}

/// The PIN: what the client sent, or what is typed on the container's keypad.
async fn obtain(
    env: &Env,
    config: &ContainerConfig,
    sent: Option<Pin>,
) -> Result<Option<Pin>, ContainerError> {
    if !config.usb_pin_entry() {
        return Ok(sent);
    }
    let mut keypads = config.usb_configs.iter();
    let keypad = keypads.find(|usb| usb.r#type() == ContainerUsbType::PinEntry);
    let keypad = keypad.ok_or_else(|| {
        TokenError::Keypad("`usb_pin_entry` needs a `usb_configs` of type PIN_ENTRY".into())
    })?;
    let enter = EnterPin {
        id: keypad.id.clone(),
        serial: keypad.serial.clone(),
    };
    Ok(Some(env.token.enter_pin.call(enter).await?))
}

/// Asks the token of the container whether the PIN is right.
pub async fn authorise(
    env: &Env,
    id: ContainerId,
    config: &ContainerConfig,
    pin: Option<Pin>,
) -> Result<(), ContainerError> {
    // Starts and stops without a PIN, whatever the client sends (design.md section 1).
    let Some(holder) = holder(id, config)? else {
        return Ok(());
    };
    match obtain(env, config, pin).await? {
        Some(pin) => Ok(env.token.unlock.call(Unlock { holder, pin }).await?),
        // A client that sends no parameters at all: only where there is nothing to unlock.
        None => match has_encrypted(&env.installed(config).await?.config, true) {
            true => Err(TokenError::WrongPin.into()),
            false => Ok(()),
        },
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
    let installed = env.installed(config).await?;
    if !has_encrypted(&installed.config, setup) {
        return authorise(env, id, config, pin).await.map(|()| None);
    }
    let volumes = encrypted(config, &installed.config)?;
    let volumes = check_encryption(env, id, volumes).await?;
    if id.is_core0() {
        let create = is_new(env, id, volumes).await?;
        let key = env.token.core0_key.call(Core0Key { create }).await;
        return key.map(Some).map_err(|error| key_error(id, error));
    }
    let holder = holder(id, config)?.ok_or_else(|| ContainerError::Launch {
        id,
        reason: "its volumes must be encrypted, and token_type NONE has no key".into(),
    })?;
    let pin = obtain(env, config, pin)
        .await?
        .ok_or(TokenError::WrongPin)?;
    let create = is_new(env, id, volumes).await?;
    let release = ReleaseKey {
        holder,
        pin,
        create,
    };
    let key = env.token.release_key.call(release).await;
    key.map(Some).map_err(|error| key_error(id, error))
}

fn key_error(id: ContainerId, error: TokenError) -> ContainerError {
    match error {
        TokenError::KeyLost { path, reason } => ContainerError::Damaged {
            id,
            reason: format!("its key `{path}`: {reason}"),
        },
        error => error.into(),
    }
}

/// What the container has, or will have, that only its key opens.
fn encrypted(
    config: &ContainerConfig,
    guestos: &GuestOsConfig,
) -> Result<Vec<Volume>, ContainerError> {
    let mounts = guestos.mounts.iter().chain(&guestos.mounts_setup);
    let mounts = mounts.filter(|mount| spec::is_encrypted(mount));
    let volumes = spec::volumes(mounts, config);
    volumes.map_err(|error| ContainerError::BadConfig(error.to_string()))
}

/// Whether it has nothing of that yet.
async fn is_new(
    env: &Arc<Env>,
    id: ContainerId,
    volumes: Vec<Volume>,
) -> Result<bool, ContainerError> {
    let is_new = move |env: &Env| !env.volumes.any_encrypted(id, &volumes);
    env.in_turn(id, &env.storage, is_new).await
}
