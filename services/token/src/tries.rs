//! How many wrong PINs a token has seen, kept on disk so that no restart of the daemon forgets them
//! (crypto.md 9.1, number 6).
//!
//! A try is counted before the PIN is looked at: whoever pulls the plug after seeing "wrong" has used it up
//! all the same. Only a right PIN clears the count, and only a reboot opens a token that is locked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use cml_bus::api::token::TokenError;
use cml_sys::{atomic, file, proc};
use serde::{Deserialize, Serialize};

use crate::softtoken::unusable;

/// Wrong PINs until the token is locked (crypto.md, section 0).
const MOST: u32 = 3;

/// The counter of one token.
#[derive(Debug)]
pub struct Tries {
    path: PathBuf,
    boot_id: String,
}

/// The counter on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    boot_id: String,
    wrong: u32,
}

impl Tries {
    /// The counter beside a token file.
    ///
    /// # Errors
    /// procfs is not mounted.
    pub fn of(token: &Path) -> Result<Self, TokenError> {
        Ok(Self {
            path: token.with_extension("tries"),
            boot_id: proc::boot_id().map_err(|error| unusable(token, error))?,
        })
    }

    /// Carries out one check of a PIN.
    ///
    /// # Errors
    /// `LockedTillReboot` without any check when the count is full, and for the wrong PIN that fills it;
    /// `WrongPinCounted` for one that does not; the error of the check otherwise.
    pub fn spend<T>(&self, check: impl FnOnce() -> Result<T, TokenError>) -> Result<T, TokenError> {
        let before = self.wrong();
        if before >= MOST {
            return Err(TokenError::LockedTillReboot);
        }
        self.count(before + 1)?;
        match check() {
            Ok(opened) => {
                self.clear()?;
                Ok(opened)
            }
            Err(TokenError::WrongPin) if before + 1 >= MOST => Err(TokenError::LockedTillReboot),
            Err(TokenError::WrongPin) => Err(TokenError::WrongPinCounted {
                left: MOST - before - 1,
            }),
            // The token could not be used, whatever the PIN.
            Err(error) => {
                self.count(before)?;
                Err(error)
            }
        }
    }

    /// A counter of an earlier boot counts nothing; one that cannot be read counts as full, as somebody has
    /// been at it.
    fn wrong(&self) -> u32 {
        let on_disk = match file::read(&self.path) {
            Err(error) if error.is_absence() => 0,
            Err(_) => MOST,
            Ok(text) => match serde_json::from_slice::<Stored>(&text) {
                Ok(stored) if stored.boot_id == self.boot_id => stored.wrong,
                Ok(_) => 0,
                Err(_) => MOST,
            },
        };
        on_disk.max(in_memory().get(&self.path).copied().unwrap_or(0))
    }

    /// A full or read-only disk must not keep the right PIN from stopping a container: then this process
    /// counts alone.
    fn count(&self, wrong: u32) -> Result<(), TokenError> {
        if wrong == 0 {
            return self.clear();
        }
        let stored = Stored {
            boot_id: self.boot_id.clone(),
            wrong,
        };
        let text = serde_json::to_vec(&stored).map_err(|error| unusable(&self.path, error))?;
        match atomic::write(&self.path, &text, 0o600) {
            Ok(()) => Ok(()),
            Err(error) if error.is_disk_trouble() => {
                tracing::error!(%error, "wrong PINs are counted in memory only");
                in_memory().insert(self.path.clone(), wrong);
                Ok(())
            }
            Err(error) => Err(unusable(&self.path, error)),
        }
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn clear(&self) -> Result<(), TokenError> {
        in_memory().remove(&self.path);
        match atomic::remove(&self.path) {
            Err(error) if error.is_disk_trouble() => Ok(()),
            other => other.map_err(|error| unusable(&self.path, error)),
        }
    }
}

/// Counts that the disk did not take.
fn in_memory() -> MutexGuard<'static, BTreeMap<PathBuf, u32>> {
    static COUNTS: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn damaged() -> TokenError {
        unusable(Path::new("x"), "damaged")
    }

    fn tries(dir: &Path) -> Tries {
        Tries::of(&dir.join("device.p12")).unwrap()
    }

    #[test]
    fn the_third_wrong_pin_locks_until_reboot_and_the_right_one_does_not_help_then() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = || tries(dir.path()).spend(|| Err::<(), _>(TokenError::WrongPin));
        for left in [2, 1] {
            assert_eq!(wrong(), Err(TokenError::WrongPinCounted { left }));
        }
        assert_eq!(wrong(), Err(TokenError::LockedTillReboot));
        let untouched =
            tries(dir.path()).spend(|| -> Result<(), _> { panic!("the PIN was looked at") });
        assert_eq!(untouched, Err(TokenError::LockedTillReboot));
        let mut rebooted = tries(dir.path());
        rebooted.boot_id = "another".into();
        assert_eq!(rebooted.spend(|| Ok(7)), Ok(7));
    }

    #[test]
    fn a_right_pin_clears_the_count_and_a_damaged_token_does_not_change_it() {
        let dir = tempfile::tempdir().unwrap();
        let tries = tries(dir.path());
        for _ in 0..10 {
            assert_eq!(
                tries.spend(|| Err::<(), _>(TokenError::WrongPin)),
                Err(TokenError::WrongPinCounted { left: 2 })
            );
            assert_eq!(tries.spend(|| Err::<(), _>(damaged())), Err(damaged()));
            assert_eq!(tries.wrong(), 1);
            assert_eq!(tries.spend(|| Ok(())), Ok(()));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_try_is_on_disk_before_the_pin_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let counter = tries(dir.path());
        let _ = counter.spend(|| {
            // What a daemon that is killed here leaves to the next one.
            assert_eq!(tries(dir.path()).wrong(), 1);
            Ok(())
        });
    }

    #[test]
    fn a_counter_that_somebody_has_damaged_locks() {
        let dir = tempfile::tempdir().unwrap();
        let tries = tries(dir.path());
        fs::write(&tries.path, "{").unwrap();
        assert_eq!(tries.spend(|| Ok(())), Err(TokenError::LockedTillReboot));
    }
}
