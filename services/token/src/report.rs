//! What the audit log is told of tokens and keys: whose, and how it went. Never a PIN, a key, or what a token calls
//! itself; so no error's words either.

use cml_bus::{
    api::token::{Holder, TokenError},
    audit::{Did, Note},
    event::Events,
};

/// About the token of a container, or of the device.
fn about(did: Did, holder: Option<&Holder>) -> Note {
    match holder {
        Some(holder) => did.to(holder.container),
        None => did.here(),
    }
}

/// A job with a PIN has ended.
pub fn attempt<T>(events: &Events, holder: Option<&Holder>, result: &Result<T, TokenError>) {
    let Err(error) = result else { return };
    let did = match error {
        TokenError::WrongPin => Did::GiveWrongPin,
        TokenError::LockedTillReboot => Did::FindLocked,
        TokenError::Uninitialised => Did::FindUninitialised,
        TokenError::Unpaired => Did::FindUnpaired,
        TokenError::KeyLost { .. } => Did::UnwrapKey,
        // No token was asked.
        TokenError::BadNewPin(_) => return,
        _ => Did::TryUnlock,
    };
    events.audit(about(did, holder).failed());
}

/// The PIN was right.
pub fn unlocked(events: &Events, holder: &Holder) {
    events.audit(Did::Unlock.to(holder.container));
}

/// A key was handed out, perhaps made for that.
pub fn released(events: &Events, holder: &Holder, new: bool) {
    unlocked(events, holder);
    let steps: &[Did] = match new {
        true => &[Did::MakeKey, Did::WrapKey, Did::StoreKey],
        false => &[Did::ReadKey, Did::UnwrapKey],
    };
    for did in steps {
        events.audit(did.to(holder.container));
    }
}

/// A PIN was changed, or not.
pub fn changed(events: &Events, holder: Option<&Holder>, result: &Result<(), TokenError>) {
    let did = match holder {
        Some(_) => Did::ChangePin,
        None => Did::ChangeDevicePin,
    };
    let note = about(did, holder);
    events.audit(match result {
        Ok(()) => note,
        Err(_) => note.failed(),
    });
}
