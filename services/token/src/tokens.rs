//! The softtokens of a device: its own, and those that containers have of their own (design.md section 1).

use std::path::PathBuf;

use cml_bus::{api::token::TokenError, id::ContainerId, secret::Pin};
use cml_sys::atomic;

use crate::{
    softtoken::{self, FIRST_PIN, unusable},
    tries::Tries,
};

/// The name in the device's token.
pub const DEVICE: &str = "device";

/// The token directory.
#[derive(Debug, Clone)]
pub struct Tokens {
    dir: PathBuf,
    /// A container does not start with the token of the device.
    require_pairing: bool,
}

impl Tokens {
    /// The tokens in this directory.
    pub fn new(dir: PathBuf, require_pairing: bool) -> Self {
        Self {
            dir,
            require_pairing,
        }
    }

    /// The token of the device.
    pub fn device(&self) -> PathBuf {
        self.dir.join("device.p12")
    }

    fn own(&self, container: ContainerId) -> PathBuf {
        self.dir.join(format!("{container}.p12"))
    }

    /// Whether the container has a token of its own.
    pub fn has_own(&self, container: ContainerId) -> bool {
        self.own(container).exists()
    }

    /// Checks the PIN of the token that protects a container.
    ///
    /// # Errors
    /// The PIN is wrong, the token locked, damaged or missing.
    pub fn check(&self, container: ContainerId, pin: &Pin) -> Result<(), TokenError> {
        let path = match self.has_own(container) {
            true => self.own(container),
            false if self.require_pairing => return Err(TokenError::Unpaired),
            false => self.device(),
        };
        if pin.expose().is_empty() {
            // No token has it, so it is no guess either.
            return Err(TokenError::WrongPin);
        }
        Tries::of(&path)?.spend(|| softtoken::check(&path, pin))
    }

    /// Gives the token of the device another PIN.
    ///
    /// # Errors
    /// As [`Tokens::check`]; the old PIN stays.
    pub fn change_device(&self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        is_good(new)?;
        let path = self.device();
        Tries::of(&path)?.spend(|| softtoken::change(&path, DEVICE, old, new))
    }

    /// Gives the container's own token another PIN. A container without one gets one, and the old PIN is then
    /// that of the device; where pairing is required it is nothing, or the first PIN of every token.
    ///
    /// # Errors
    /// As [`Tokens::check`]; the old PIN stays.
    pub fn change_own(
        &self,
        container: ContainerId,
        old: &Pin,
        new: &Pin,
    ) -> Result<(), TokenError> {
        is_good(new)?;
        let (path, name) = (self.own(container), container.to_string());
        if path.exists() {
            return Tries::of(&path)?.spend(|| softtoken::change(&path, &name, old, new));
        }
        if self.require_pairing {
            // Counted as well, on the token that is about to be made.
            Tries::of(&path)?.spend(|| match old.expose() {
                "" | FIRST_PIN => Ok(()),
                _ => Err(TokenError::WrongPin),
            })?;
        } else {
            let device = self.device();
            Tries::of(&device)?.spend(|| softtoken::check(&device, old))?;
        }
        softtoken::create(&path, &name, new)
    }

    /// Deletes the container's own token.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn forget(&self, container: ContainerId) -> Result<(), TokenError> {
        let path = self.own(container);
        Tries::of(&path)?.clear()?;
        atomic::remove(&path).map_err(|error| unusable(&path, error))
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
    use std::path::Path;

    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned())
    }

    fn tokens(dir: &Path, require_pairing: bool) -> Tokens {
        let tokens = Tokens::new(dir.to_owned(), require_pairing);
        softtoken::create(&tokens.device(), "device", &pin(FIRST_PIN)).unwrap();
        tokens
    }

    #[test]
    fn a_container_uses_the_devices_token_until_it_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let (a, b) = (ContainerId::random(), ContainerId::random());
        assert_eq!(tokens.check(a, &pin("trustme")), Ok(()));
        assert_eq!(
            tokens.change_own(a, &pin("guess"), &pin("own")),
            Err(TokenError::WrongPin)
        );
        assert_eq!(tokens.change_own(a, &pin("trustme"), &pin("own")), Ok(()));
        assert_eq!(tokens.check(a, &pin("own")), Ok(()));
        assert_eq!(tokens.check(a, &pin("trustme")), Err(TokenError::WrongPin));
        assert_eq!(
            tokens.change_device(&pin("trustme"), &pin("device")),
            Ok(())
        );
        assert_eq!(tokens.check(b, &pin("device")), Ok(()));
        assert_eq!(tokens.check(a, &pin("own")), Ok(()));
        assert_eq!(tokens.change_own(a, &pin("own"), &pin("newer")), Ok(()));
        assert_eq!(tokens.check(a, &pin("newer")), Ok(()));
        tokens.forget(a).unwrap();
        assert_eq!(tokens.check(a, &pin("device")), Ok(()));
    }

    #[test]
    fn where_pairing_is_required_the_first_pin_is_set_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), true);
        let a = ContainerId::random();
        assert_eq!(tokens.check(a, &pin("trustme")), Err(TokenError::Unpaired));
        assert_eq!(
            tokens.change_own(a, &pin("wrong"), &pin("pw")),
            Err(TokenError::WrongPin)
        );
        assert_eq!(tokens.change_own(a, &pin(""), &pin("pw")), Ok(()));
        assert_eq!(tokens.check(a, &pin("pw")), Ok(()));
        assert_eq!(
            tokens.change_own(a, &pin(""), &pin("x")),
            Err(TokenError::WrongPin)
        );
        assert_eq!(
            tokens.change_own(ContainerId::random(), &pin("trustme"), &pin("x")),
            Ok(())
        );
    }

    #[test]
    fn guessing_through_change_pin_locks_like_guessing_through_start() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let guess = || tokens.change_device(&pin("guess"), &pin("x"));
        assert_eq!(guess(), Err(TokenError::WrongPin));
        let a = ContainerId::random();
        assert_eq!(tokens.check(a, &pin("guess")), Err(TokenError::WrongPin));
        assert_eq!(guess(), Err(TokenError::LockedTillReboot));
        assert_eq!(
            tokens.check(a, &pin("trustme")),
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
        assert_eq!(tokens.check(ContainerId::random(), &pin("trustme")), Ok(()));
    }

    #[test]
    fn no_pin_at_all_is_wrong_but_no_guess() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path(), false);
        let a = ContainerId::random();
        for _ in 0..5 {
            assert_eq!(tokens.check(a, &pin("")), Err(TokenError::WrongPin));
        }
        assert_eq!(tokens.check(a, &pin("trustme")), Ok(()));
    }
}
