//! Tokens behind a PKCS#11 module: an HSM, a smart card or SoftHSM (crypto.md 1.2). The key that wraps the
//! container's key never leaves the token.
//!
//! A module is somebody else's code and may wait for its hardware: everything here belongs on a blocking
//! pool.

mod module;
mod slot;

use std::{
    path::{Path, PathBuf},
    sync::PoisonError,
};

use cml_bus::{api::token::TokenError, id::ContainerId, secret::Pin};
use cml_sys::random;
use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use zeroize::Zeroizing;

use self::slot::secret;
use crate::{
    keyfile::{ContainerKey, KEY_LENGTH, KeyError, Wraps},
    softtoken::unusable,
};

/// The label of the wrapping key.
const KEY_LABEL: &[u8] = b"cml container key";

/// What a wrapped key starts with: whose format it is, and which version of it. The nonce follows, and what
/// AES-256-GCM makes of the key, tag last.
const HEADER: &[u8] = b"P11\x01";

/// As AES-GCM has them by default.
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// The container's token behind a PKCS#11 module.
///
/// It is the one whose label is the container's uuid without its dashes. That fills the 32 bytes of a label
/// exactly; cut to them with its dashes, the uuids of two containers could be the same. Nothing else is
/// remembered of the token, so it may come and go with its hardware.
#[derive(Debug, Clone)]
pub struct Pkcs11Token {
    module: PathBuf,
    container: ContainerId,
}

impl Pkcs11Token {
    /// The container's token in this module. Nothing is loaded yet.
    pub fn new(module: &Path, container: ContainerId) -> Self {
        Self {
            module: module.to_owned(),
            container,
        }
    }

    /// Whether the module has a token for the container.
    ///
    /// # Errors
    /// `Unusable`: the module cannot be loaded or asked.
    pub fn exists(&self) -> Result<bool, TokenError> {
        self.within(|module| Ok(self.find(module)?.is_some()))
    }

    /// Makes the container's token in a free slot, with this PIN and a new wrapping key. A token that has
    /// this PIN but no key, because its making was interrupted or it was forgotten, gets a key.
    ///
    /// The PIN of the security officer is random and nobody learns it. It could replace the PIN and so open
    /// the key: kept on the device, it would be worth as much as the PIN.
    ///
    /// # Errors
    /// `BadNewPin` when the token does not take the PIN, and nothing has been made then; `WrongPin` when
    /// there is a token with another one; `Unusable` when there is a whole one, or no free slot.
    pub fn provision(&self, pin: &Pin) -> Result<(), TokenError> {
        if pin.expose().is_empty() {
            return Err(TokenError::BadNewPin("it is empty"));
        }
        self.within(|module| {
            if self.find(module)?.is_none() {
                self.initialise(module, pin)?;
            }
            let session = self.log_in(module, pin)?;
            match self.keys(&session)?.is_empty() {
                true => self.make_key(&session),
                false => Err(self.unusable("the container has a token already")),
            }
        })
    }

    /// Makes the key of a token that was not made completely; of a whole one nothing changes.
    ///
    /// # Errors
    /// As [`Pkcs11Token::check`].
    pub fn complete(&self, pin: &Pin) -> Result<(), TokenError> {
        self.within(|module| {
            let session = self.log_in(module, pin)?;
            match self.keys(&session)?.is_empty() {
                true => self.make_key(&session),
                false => Ok(()),
            }
        })
    }

    /// Whether the PIN opens the token.
    ///
    /// # Errors
    /// `WrongPin`; `LockedTillReboot` when the token counts wrong PINs itself and has seen too many, and a
    /// reboot does not always help then; `Unusable`.
    pub fn check(&self, pin: &Pin) -> Result<(), TokenError> {
        self.within(|module| self.log_in(module, pin).map(drop))
    }

    /// Gives the token another PIN. The key stays, and with it what it has wrapped.
    ///
    /// # Errors
    /// As [`Pkcs11Token::check`] for the old PIN, and `BadNewPin`; the old PIN stays.
    pub fn change(&self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        if new.expose().is_empty() {
            return Err(TokenError::BadNewPin("it is empty"));
        }
        self.within(|module| {
            // First of all the old PIN alone: a token does not say which of two is too short.
            let session = self.log_in(module, old)?;
            let changed = session.set_pin(&secret(old), &secret(new));
            changed.map_err(|error| self.refused_new(error))
        })
    }

    /// Encrypts the key of the container under that of the token, bound to the container's identity.
    ///
    /// # Errors
    /// As [`Pkcs11Token::check`], or the token lacks its key or AES-GCM.
    pub fn wrap(&self, pin: &Pin, key: &[u8]) -> Result<Vec<u8>, TokenError> {
        let mut nonce = [0; NONCE_BYTES];
        random::fill(&mut nonce).map_err(|error| self.unusable(error))?;
        let sealed = self.within(|module| {
            let session = self.log_in(module, pin)?;
            let with = self.key(&session)?;
            let bound_to = self.identity();
            // The token may insist on a nonce of its own and then says so in ours.
            let gcm = self.gcm(&mut nonce, &bound_to)?;
            let sealed = session.encrypt(&Mechanism::AesGcm(gcm), with, key);
            sealed.map_err(|error| self.failed(error))
        })?;
        Ok([HEADER, &nonce, &sealed].concat())
    }

    /// Decrypts what [`Pkcs11Token::wrap`] has made.
    ///
    /// # Errors
    /// `Damaged` when bits have changed, or the bytes were wrapped for another container or with a key that is
    /// gone; otherwise as [`Pkcs11Token::wrap`].
    pub fn unwrap(&self, pin: &Pin, wrapped: &[u8]) -> Result<ContainerKey, KeyError> {
        let (nonce, sealed) = wrapped
            .strip_prefix(HEADER)
            .and_then(<[u8]>::split_first_chunk::<NONCE_BYTES>)
            .filter(|(_, sealed)| sealed.len() >= TAG_BYTES)
            .ok_or(KeyError::Damaged)?;
        let mut nonce = *nonce;
        match self.decrypt(pin, &mut nonce, sealed)? {
            Decrypted::Key(key) => Ok(key),
            Decrypted::Refused => Err(KeyError::Damaged),
            // It says so of wrong tags, and maybe of anything else: does it work at all just now?
            Decrypted::Trouble => {
                let probe = self.wrap(pin, &[0; KEY_LENGTH])?;
                let probe = probe.strip_prefix(HEADER).unwrap_or_default();
                let (nonce, sealed) = probe
                    .split_first_chunk::<NONCE_BYTES>()
                    .ok_or_else(|| self.unusable("it does not encrypt"))?;
                match self.decrypt(pin, &mut nonce.clone(), sealed)? {
                    Decrypted::Key(_) => Err(KeyError::Damaged),
                    _ => Err(self.unusable("it does not decrypt just now").into()),
                }
            }
        }
    }

    fn decrypt(
        &self,
        pin: &Pin,
        nonce: &mut [u8; NONCE_BYTES],
        sealed: &[u8],
    ) -> Result<Decrypted, TokenError> {
        self.within(|module| {
            let session = self.log_in(module, pin)?;
            let with = self.key(&session)?;
            let bound_to = self.identity();
            let gcm = self.gcm(nonce, &bound_to)?;
            match session.decrypt(&Mechanism::AesGcm(gcm), with, sealed) {
                Ok(key) => Ok(Decrypted::Key(Zeroizing::new(key))),
                Err(Error::Pkcs11(
                    RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange,
                    _,
                )) => Ok(Decrypted::Refused),
                // SoftHSM knows nothing better for a wrong tag.
                Err(Error::Pkcs11(RvError::GeneralError, _)) => Ok(Decrypted::Trouble),
                Err(error) => Err(self.failed(error)),
            }
        })
    }

    /// Destroys everything on the token, the wrapping key first of all: what it has wrapped is lost.
    ///
    /// Without the PIN none of this is possible: what is private is not even visible, and a token is only
    /// initialised anew with the PIN of the security officer, which nobody has. Whoever removes a container
    /// without its PIN deletes the wrapped key instead. The empty token keeps its slot and its PIN until the
    /// module's own tool removes it, for SoftHSM `softhsm2-util --delete-token`.
    ///
    /// # Errors
    /// As [`Pkcs11Token::check`]. No token is no error.
    pub fn forget(&self, pin: &Pin) -> Result<(), TokenError> {
        self.within(|module| {
            if self.find(module)?.is_none() {
                return Ok(());
            }
            let session = self.log_in(module, pin)?;
            let destroy = |objects: Vec<ObjectHandle>| {
                let mut each = objects.into_iter();
                let destroyed = each.try_for_each(|object| session.destroy_object(object));
                destroyed.map_err(|error| self.failed(error))
            };
            destroy(self.keys(&session)?)?;
            let rest = session.find_objects(&[Attribute::Token(true)]);
            destroy(rest.map_err(|error| self.failed(error))?)
        })
    }

    /// Does something with the module while nobody else does. Sessions must end within.
    fn within<T>(
        &self,
        work: impl FnOnce(&Pkcs11) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let module = module::load(&self.module).map_err(|reason| self.unusable(reason))?;
        let alone = module.lock().unwrap_or_else(PoisonError::into_inner);
        work(&alone)
    }

    fn make_key(&self, session: &Session) -> Result<(), TokenError> {
        // Not for wrapping objects of the token: who may also decrypt would read them.
        let mut template = key_template();
        template.extend([
            Attribute::ValueLen(Ulong::new(32)),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
        ]);
        let made = session.generate_key(&Mechanism::AesKeyGen, &template);
        made.map(drop).map_err(|error| self.failed(error))
    }

    fn keys(&self, session: &Session) -> Result<Vec<ObjectHandle>, TokenError> {
        let found = session.find_objects(&key_template());
        found.map_err(|error| self.failed(error))
    }

    fn key(&self, session: &Session) -> Result<ObjectHandle, TokenError> {
        match self.keys(session)?[..] {
            [key] => Ok(key),
            [] => {
                Err(self.unusable("the token has lost its key, and with it what that has wrapped"))
            }
            _ => Err(self.unusable("the token has more than one key of ours")),
        }
    }

    fn gcm<'a>(
        &self,
        nonce: &'a mut [u8],
        bound_to: &'a [u8],
    ) -> Result<GcmParams<'a>, TokenError> {
        let tag_bits = Ulong::new(128);
        GcmParams::new(nonce, bound_to, tag_bits).map_err(|error| self.failed(error))
    }

    /// What a wrapped key is bound to.
    fn identity(&self) -> Vec<u8> {
        [HEADER, self.container.to_string().as_bytes()].concat()
    }

    fn unusable(&self, reason: impl ToString) -> TokenError {
        unusable(&self.module, reason)
    }

    fn failed(&self, error: Error) -> TokenError {
        self.unusable(error)
    }
}

/// What the wrapping key is known by. A key that could be read out does not count, whatever its label.
fn key_template() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(KEY_LABEL.to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
    ]
}

/// What a module made of a wrapped key.
enum Decrypted {
    Key(ContainerKey),
    /// The bytes are damaged.
    Refused,
    /// It does not say why not.
    Trouble,
}

/// A token with the PIN that opens it, for one piece of work.
#[derive(Debug)]
pub struct OpenToken<'a> {
    /// The token.
    pub token: &'a Pkcs11Token,
    /// Its PIN.
    pub pin: &'a Pin,
}

impl Wraps for OpenToken<'_> {
    fn wrap(&self, _: ContainerId, key: &[u8]) -> Result<Vec<u8>, String> {
        let wrapped = self.token.wrap(self.pin, key);
        wrapped.map_err(|error| error.to_string())
    }

    fn unwrap(&self, _: ContainerId, bytes: &[u8]) -> Result<ContainerKey, KeyError> {
        self.token.unwrap(self.pin, bytes)
    }

    fn is_current(&self, _: &[u8]) -> bool {
        true
    }
}
