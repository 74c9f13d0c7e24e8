//! Whose token counts: that of the device, or the one that a container has of its own (design.md section 1).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cml_bus::{
    api::token::{Holder, TokenError, TokenKind},
    id::ContainerId,
    secret::{Key, Pin},
};

use cml_wire::rules::is_component;

use crate::{
    keyring::Keyring,
    keys::Keys,
    pkcs11::{OpenToken, Pkcs11Token},
    softtoken::{FIRST_PIN, Format, Softtoken, unusable},
    tries::Tries,
};

/// The name in the device's token.
const DEVICE: &str = "device";

/// Where tokens and keys lie, and how they are made.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory of tokens.
    pub tokens: PathBuf,
    /// The directory of wrapped keys.
    pub keys: PathBuf,
    /// The directory of PKCS#11 modules.
    pub modules: PathBuf,
    /// How new tokens are stored.
    pub format: Format,
    /// A container does not start with the token of the device.
    pub require_pairing: bool,
}

/// The tokens and keys of a device.
#[derive(Debug, Clone)]
pub struct Tokens {
    dir: PathBuf,
    keys: Keys,
    modules: PathBuf,
    format: Format,
    require_pairing: bool,
    locks: Arc<Locks>,
}

/// Whoever changes the key of a container does so alone. A token that hangs holds up its own container only.
#[derive(Debug, Default)]
struct Locks(Mutex<HashMap<ContainerId, Arc<Mutex<()>>>>);

impl Locks {
    fn of(&self, container: ContainerId) -> Arc<Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(container).or_default().clone()
    }

    fn forget(&self, container: ContainerId) {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.remove(&container);
    }
}

fn hold(lock: &Mutex<()>) -> MutexGuard<'_, ()> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// The tokens and keys in these places.
    pub fn new(places: &Places) -> Self {
        Self {
            dir: places.tokens.clone(),
            keys: Keys::new(&places.keys),
            modules: places.modules.clone(),
            format: places.format,
            require_pairing: places.require_pairing,
            locks: Arc::default(),
        }
    }

    /// The token of the device.
    pub fn device(&self) -> Softtoken {
        Softtoken::new(&self.dir, DEVICE, self.format)
    }

    fn own(&self, container: ContainerId) -> Softtoken {
        Softtoken::new(&self.dir, &container.to_string(), self.format)
    }

    /// Whether the container has a token of its own.
    pub fn has_own(&self, container: ContainerId) -> bool {
        self.own(container).exists()
    }

    /// Whether the container has a key.
    pub fn has_key(&self, container: ContainerId) -> bool {
        self.keys.exists(container)
    }

    /// Whether this needs the token of the device.
    pub fn needs_device(&self, holder: &Holder) -> bool {
        holder.kind == TokenKind::Soft && !self.has_own(holder.container)
    }

    /// Checks the PIN of the token that protects a container.
    ///
    /// # Errors
    /// The PIN is wrong, the token locked, damaged or missing.
    pub fn check(&self, holder: &Holder, pin: &Pin) -> Result<(), TokenError> {
        match self.pkcs11(holder) {
            None => self.open(holder.container, pin).map(drop),
            Some(token) => self.check_pkcs11(&token?, holder.container, pin),
        }
    }

    /// The key under which the volumes of a container are encrypted; a new one if there is none and `create`
    /// says that nothing is lost by that.
    ///
    /// # Errors
    /// As [`Tokens::check`]; `KeyLost` if the key is missing or damaged.
    pub fn release(&self, holder: &Holder, pin: &Pin, create: bool) -> Result<Key, TokenError> {
        let container = holder.container;
        let lock = self.locks.of(container);
        let _held = hold(&lock);
        let key = match self.pkcs11(holder) {
            None => {
                let ring = self.open(container, pin)?;
                self.keys.release(container, &ring, create)
            }
            Some(token) => {
                let token = token?;
                self.check_pkcs11(&token, container, pin)?;
                let open = OpenToken { token: &token, pin };
                self.keys.release(container, &open, create)
            }
        };
        Ok(Key::new(key?))
    }

    /// The key of `core0`.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn core0_key(&self, create: bool) -> Result<Key, TokenError> {
        let lock = self.locks.of(ContainerId::CORE0);
        let _held = hold(&lock);
        Ok(Key::new(self.keys.of_core0(create)?))
    }

    /// The PKCS#11 token of a container, if it is to have one.
    fn pkcs11(&self, holder: &Holder) -> Option<Result<Pkcs11Token, TokenError>> {
        let TokenKind::Pkcs11 { module } = &holder.kind else {
            return None;
        };
        let path = self.modules.join(module);
        Some(match is_component(module) {
            true => Ok(Pkcs11Token::new(&path, holder.container)),
            false => Err(unusable(
                &path,
                "`pkcs11_module` names no file below `pkcs11`",
            )),
        })
    }

    /// Not every token counts wrong PINs itself, so we do (crypto.md 9.1, number 6).
    fn check_pkcs11(
        &self,
        token: &Pkcs11Token,
        container: ContainerId,
        pin: &Pin,
    ) -> Result<(), TokenError> {
        if !token.exists()? {
            return Err(TokenError::Unpaired);
        }
        if pin.expose().is_empty() {
            return Err(TokenError::WrongPin);
        }
        self.tries_of(container)?.spend(|| token.check(pin))
    }

    fn tries_of(&self, container: ContainerId) -> Result<Tries, TokenError> {
        Tries::of(&self.dir.join(container.to_string()))
    }

    /// Destroys the key of a container.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn destroy_key(&self, container: ContainerId) -> Result<(), TokenError> {
        let lock = self.locks.of(container);
        let _held = hold(&lock);
        self.keys.destroy(container)
    }

    fn open(&self, container: ContainerId, pin: &Pin) -> Result<Keyring, TokenError> {
        let own = self.own(container);
        let token = match own.exists() {
            true => own,
            false if self.require_pairing => return Err(TokenError::Unpaired),
            false => self.device(),
        };
        if pin.expose().is_empty() {
            // No token has it, so it is no guess either.
            return Err(TokenError::WrongPin);
        }
        tries(&token)?.spend(|| token.open(pin))
    }

    /// Gives the token of the device another PIN.
    ///
    /// # Errors
    /// As [`Tokens::check`]; the old PIN stays.
    pub fn change_device(&self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        is_good(new)?;
        let token = self.device();
        tries(&token)?.spend(|| token.change(old, new))
    }

    /// Gives the container's own token another PIN. A container without one gets one, and the old PIN is then
    /// that of the device; where pairing is required it is nothing, or the first PIN of every token.
    ///
    /// # Errors
    /// As [`Tokens::check`]; the old PIN stays.
    pub fn change_own(&self, holder: &Holder, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        is_good(new)?;
        let container = holder.container;
        let lock = self.locks.of(container);
        let _held = hold(&lock);
        if let Some(token) = self.pkcs11(holder) {
            return self.change_pkcs11(&token?, container, old, new);
        }
        let token = self.own(container);
        if token.exists() {
            return tries(&token)?.spend(|| token.change(old, new));
        }
        // A key that the device's token has wrapped needs the PIN of that token, whatever the device says.
        if self.require_pairing && !self.keys.exists(container) {
            // Counted as well, on the token that is about to be made.
            tries(&token)?.spend(|| is_first(old))?;
            return token.create(new);
        }
        let device = self.device();
        let from = tries(&device)?.spend(|| device.open(old))?;
        let prepared = token.prepare(new)?;
        self.keys.hand_over(container, &from, &prepared.keyring)?;
        prepared.store()?;
        self.keys.settle(container, &prepared.keyring)
    }

    /// A token that is made anew is made whole, also when an earlier attempt broke off. One that is away must not
    /// be replaced: only it opens the key that is there.
    fn change_pkcs11(
        &self,
        token: &Pkcs11Token,
        container: ContainerId,
        old: &Pin,
        new: &Pin,
    ) -> Result<(), TokenError> {
        let tries = self.tries_of(container)?;
        let has_key = self.keys.exists(container);
        if token.exists()? {
            tries.spend(|| token.change(old, new))?;
            return match has_key {
                true => Ok(()),
                false => token.complete(new),
            };
        }
        if has_key {
            return Err(unusable(
                &self.modules,
                "the token that opens the key of the container is not there; plug it in",
            ));
        }
        tries.spend(|| is_first(old))?;
        token.provision(new)
    }

    /// Destroys the container's key and its own token.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn forget(&self, container: ContainerId) -> Result<(), TokenError> {
        self.destroy_key(container)?;
        let token = self.own(container);
        tries(&token)?.clear()?;
        token.destroy()?;
        self.locks.forget(container);
        Ok(())
    }
}

/// The counter of a token.
fn tries(token: &Softtoken) -> Result<Tries, TokenError> {
    Tries::of(Path::new(&token.path()))
}

/// Whether this is what stands for the PIN of a token that is about to be made (design.md section 1).
fn is_first(old: &Pin) -> Result<(), TokenError> {
    match old.expose() {
        "" | FIRST_PIN => Ok(()),
        _ => Err(TokenError::WrongPin),
    }
}

/// An empty PIN protects nothing, and openssl's strings end at a NUL.
fn is_good(new: &Pin) -> Result<(), TokenError> {
    match new.expose() {
        "" => Err(TokenError::BadNewPin("it is empty")),
        text if text.contains('\0') => Err(TokenError::BadNewPin("it holds a NUL byte")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned())
    }

    fn soft(container: ContainerId) -> Holder {
        let kind = TokenKind::Soft;
        Holder { container, kind }
    }

    fn tokens(dir: &Path, require_pairing: bool) -> Tokens {
        let tokens = Tokens::new(&Places {
            tokens: dir.to_owned(),
            keys: dir.to_owned(),
            modules: dir.to_owned(),
            format: Format::Hardened,
            require_pairing,
        });
        tokens.device().create(&pin(FIRST_PIN)).unwrap();
        tokens
    }

    /// Whether the PIN was wrong, and that counts.
    fn is_wrong<T>(result: &Result<T, TokenError>) -> bool {
        matches!(result, Err(TokenError::WrongPinCounted { .. }))
    }

    #[test]
    fn a_container_uses_the_devices_token_until_it_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let (a, b) = (ContainerId::random(), ContainerId::random());
        assert_eq!(tokens.check(&soft(a), &pin("trustme")), Ok(()));
        assert!(is_wrong(&tokens.change_own(
            &soft(a),
            &pin("guess"),
            &pin("own")
        )));
        assert_eq!(
            tokens.change_own(&soft(a), &pin("trustme"), &pin("own")),
            Ok(())
        );
        assert_eq!(tokens.check(&soft(a), &pin("own")), Ok(()));
        assert!(is_wrong(&tokens.check(&soft(a), &pin("trustme"))));
        assert_eq!(
            tokens.change_device(&pin("trustme"), &pin("device")),
            Ok(())
        );
        assert_eq!(tokens.check(&soft(b), &pin("device")), Ok(()));
        assert_eq!(tokens.check(&soft(a), &pin("own")), Ok(()));
        assert_eq!(
            tokens.change_own(&soft(a), &pin("own"), &pin("newer")),
            Ok(())
        );
        assert_eq!(tokens.check(&soft(a), &pin("newer")), Ok(()));
        tokens.forget(a).unwrap();
        assert_eq!(tokens.check(&soft(a), &pin("device")), Ok(()));
    }

    #[test]
    fn where_pairing_is_required_the_first_pin_is_set_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), true);
        let a = ContainerId::random();
        assert_eq!(
            tokens.check(&soft(a), &pin("trustme")),
            Err(TokenError::Unpaired)
        );
        assert!(is_wrong(&tokens.change_own(
            &soft(a),
            &pin("wrong"),
            &pin("pw")
        )));
        assert_eq!(tokens.change_own(&soft(a), &pin(""), &pin("pw")), Ok(()));
        assert_eq!(tokens.check(&soft(a), &pin("pw")), Ok(()));
        assert!(is_wrong(&tokens.change_own(&soft(a), &pin(""), &pin("x"))));
        assert_eq!(
            tokens.change_own(&soft(ContainerId::random()), &pin("trustme"), &pin("x")),
            Ok(())
        );
    }

    #[test]
    fn guessing_through_change_pin_locks_like_guessing_through_start() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let guess = || tokens.change_device(&pin("guess"), &pin("x"));
        assert!(is_wrong(&guess()));
        let a = ContainerId::random();
        assert!(is_wrong(&tokens.check(&soft(a), &pin("guess"))));
        assert_eq!(guess(), Err(TokenError::LockedTillReboot));
        assert_eq!(
            tokens.check(&soft(a), &pin("trustme")),
            Err(TokenError::LockedTillReboot)
        );
    }

    #[test]
    fn a_new_pin_that_protects_nothing_is_refused_before_anything_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        for bad in ["", "a\0b"] {
            for _ in 0..5 {
                let refused = tokens.change_device(&pin("guess"), &pin(bad));
                assert!(matches!(refused, Err(TokenError::BadNewPin(_))));
            }
        }
        assert_eq!(
            tokens.check(&soft(ContainerId::random()), &pin("trustme")),
            Ok(())
        );
    }

    #[test]
    fn no_pin_at_all_is_wrong_but_no_guess() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let a = ContainerId::random();
        for _ in 0..5 {
            assert_eq!(tokens.check(&soft(a), &pin("")), Err(TokenError::WrongPin));
        }
        assert_eq!(tokens.check(&soft(a), &pin("trustme")), Ok(()));
    }

    #[test]
    fn a_containers_key_survives_every_change_of_its_token() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let a = ContainerId::random();
        let release = |text: &str| {
            let key = tokens.release(&soft(a), &pin(text), false);
            key.map(|key| key.expose().to_vec())
        };
        let key = tokens.release(&soft(a), &pin(FIRST_PIN), true).unwrap();
        tokens
            .change_device(&pin(FIRST_PIN), &pin("device"))
            .unwrap();
        assert_eq!(release("device").unwrap(), key.expose());
        tokens
            .change_own(&soft(a), &pin("device"), &pin("own"))
            .unwrap();
        assert_eq!(release("own").unwrap(), key.expose());
        tokens
            .change_own(&soft(a), &pin("own"), &pin("newer"))
            .unwrap();
        assert_eq!(release("newer").unwrap(), key.expose());
        assert!(is_wrong(&release("device")));
        tokens.forget(a).unwrap();
        let lost = tokens.release(&soft(a), &pin("device"), false);
        assert!(matches!(lost, Err(TokenError::KeyLost { .. })));
    }
}
