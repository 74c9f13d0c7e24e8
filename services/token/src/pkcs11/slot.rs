//! The slots of a module: which one has the container's token, how a free one becomes it, and what it says
//! to a PIN.

use cml_bus::{api::token::TokenError, secret::Pin};
use cml_sys::random;
use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    mechanism::MechanismType,
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use zeroize::Zeroizing;

use super::Pkcs11Token;

const BAD_LENGTH: &str = "it is shorter or longer than the token allows";

impl Pkcs11Token {
    /// Every token of the module, also those that are not initialised.
    fn tokens(&self, module: &Pkcs11) -> Result<Vec<(Slot, TokenInfo)>, TokenError> {
        let slots = module.get_slots_with_token();
        let mut tokens = Vec::new();
        for slot in slots.map_err(|error| self.failed(error))? {
            match module.get_token_info(slot) {
                Ok(info) => tokens.push((slot, info)),
                // Pulled out just now, or nothing that the module knows.
                Err(Error::Pkcs11(
                    RvError::TokenNotPresent | RvError::TokenNotRecognized | RvError::SlotIdInvalid,
                    _,
                )) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(tokens)
    }

    /// Where the container's token is now.
    pub(super) fn find(&self, module: &Pkcs11) -> Result<Option<Slot>, TokenError> {
        let label = self.label();
        let mut ours = self.tokens(module)?;
        ours.retain(|(_, info)| info.token_initialized() && info.label() == label);
        match ours[..] {
            [] => Ok(None),
            [(slot, _)] => Ok(Some(slot)),
            _ => Err(self.unusable(format!("more than one token has the label `{label}`"))),
        }
    }

    /// A session that the PIN has opened. It is closed, and so logged out, when it is dropped.
    pub(super) fn log_in(&self, module: &Pkcs11, pin: &Pin) -> Result<Session, TokenError> {
        let slot = self.find(module)?.ok_or_else(|| {
            self.unusable(format!(
                "it has no token with the label `{}`; connect it, or make it by setting the container's \
                 first PIN with `control change_pin`",
                self.label()
            ))
        })?;
        if pin.expose().is_empty() {
            // No token has it, and some modules take it for "ask on the device's own keys".
            return Err(TokenError::WrongPin);
        }
        let opened = module.open_rw_session(slot);
        let session = opened.map_err(|error| self.failed(error))?;
        let logged_in = session.login(UserType::User, Some(&secret(pin)));
        logged_in.map_err(|error| self.refused(error))?;
        Ok(session)
    }

    /// Makes a token of a free slot, with a PIN and without a key.
    pub(super) fn initialise(&self, module: &Pkcs11, pin: &Pin) -> Result<(), TokenError> {
        let mut free = self.tokens(module)?;
        free.retain(|(_, info)| !info.token_initialized());
        let Some((slot, info)) = free.first() else {
            return Err(self.unusable(
                "it has no free slot; remove a token that is not needed with the module's own tool",
            ));
        };
        // Whatever is wrong is better found before the slot is used up.
        let allowed = info.min_pin_length()..=info.max_pin_length();
        if !allowed.contains(&pin.expose().len()) {
            return Err(TokenError::BadNewPin(BAD_LENGTH));
        }
        let offered = module.get_mechanism_list(*slot);
        let offered = offered.map_err(|error| self.failed(error))?;
        for (needed, name) in [
            (MechanismType::AES_KEY_GEN, "CKM_AES_KEY_GEN"),
            (MechanismType::AES_GCM, "CKM_AES_GCM"),
        ] {
            if !offered.contains(&needed) {
                return Err(self.unusable(format!("it does not offer {name}; use another module")));
            }
        }
        let officer = self.officer_pin(info.max_pin_length())?;
        let made = module.init_token(*slot, &officer, &self.label());
        made.map_err(|error| self.failed(error))?;
        let half_made = |error: Error| {
            self.unusable(format!(
                "{error}; the token `{}` is half made, remove it with the module's own tool",
                self.label()
            ))
        };
        // Some modules give a slot another number once it is in use.
        let slot = self.find(module)?.unwrap_or(*slot);
        let session = module.open_rw_session(slot).map_err(half_made)?;
        let officer = session.login(UserType::So, Some(&officer));
        officer.map_err(half_made)?;
        session.init_pin(&secret(pin)).map_err(half_made)
    }

    fn officer_pin(&self, longest: usize) -> Result<AuthPin, TokenError> {
        // 24 bytes are 32 characters of Base64.
        let mut bytes = Zeroizing::new([0; 24]);
        random::fill(&mut *bytes).map_err(|error| self.unusable(error))?;
        let text = Zeroizing::new(openssl::base64::encode_block(&*bytes));
        Ok(AuthPin::from(&text[..text.len().min(longest)]))
    }

    fn label(&self) -> String {
        self.container.to_string().replace('-', "")
    }

    /// What a token says to a PIN that shall open it.
    fn refused(&self, error: Error) -> TokenError {
        match error {
            Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid,
                _,
            ) => TokenError::WrongPin,
            Error::Pkcs11(RvError::PinLocked, _) => TokenError::LockedTillReboot,
            Error::Pkcs11(RvError::UserPinNotInitialized, _) => self.unusable(format!(
                "the token `{}` has no PIN, its making was interrupted; remove it with the module's own tool",
                self.label()
            )),
            error => self.failed(error),
        }
    }

    /// What a token says to a PIN that it shall have.
    pub(super) fn refused_new(&self, error: Error) -> TokenError {
        match error {
            Error::Pkcs11(RvError::PinLenRange, _) => TokenError::BadNewPin(BAD_LENGTH),
            Error::Pkcs11(RvError::PinInvalid, _) => {
                TokenError::BadNewPin("the token does not take its characters")
            }
            Error::Pkcs11(RvError::PinTooWeak, _) => {
                TokenError::BadNewPin("the token finds it too easy to guess")
            }
            error => self.refused(error),
        }
    }
}

/// In the clothes of the module's crate, which wipes it as well.
pub(super) fn secret(pin: &Pin) -> AuthPin {
    AuthPin::from(pin.expose())
}
