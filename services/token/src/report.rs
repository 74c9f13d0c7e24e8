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
        TokenError::WrongPin | TokenError::WrongPinCounted { .. } => Did::GiveWrongPin,
        TokenError::LockedTillReboot => Did::FindLocked,
        TokenError::Uninitialised => Did::FindUninitialised,
        TokenError::Unpaired => Did::FindUnpaired,
        TokenError::KeyLost { .. } => Did::UnwrapKey,
        // No token was asked.
        TokenError::BadNewPin(_) => return,
        _ => Did::TryUnlock,
    };
    events.audit(about(did, holder).failed());
    let whose = holder.map_or_else(|| "device".into(), |holder| holder.container.to_string());
    match error {
        TokenError::WrongPin => tracing::warn!(whose, "wrong PIN"),
        TokenError::WrongPinCounted { left } => {
            tracing::warn!(whose, left, "wrong PIN; that many more lock the token");
        }
        TokenError::LockedTillReboot => {
            tracing::warn!(whose, "the token is locked until the device is rebooted");
        }
        _ => {}
    }
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

#[cfg(test)]
mod tests {
    use cml_bus::{api::token::TokenKind, audit::Trail, id::ContainerId};

    use super::*;

    #[test]
    fn what_goes_wrong_is_told_by_its_name_and_in_no_words() {
        let trail = Trail::open();
        let events = Events::new(trail.clone());
        let holder = Holder {
            container: ContainerId::random(),
            kind: TokenKind::Soft,
        };
        let unusable = TokenError::Unusable {
            path: "secret-label".into(),
            reason: "secret-label".into(),
        };
        for error in [
            TokenError::WrongPin,
            TokenError::LockedTillReboot,
            TokenError::Unpaired,
            TokenError::BadNewPin("it is empty"),
            unusable,
        ] {
            attempt::<()>(&events, Some(&holder), &Err(error));
        }
        attempt(&events, None, &Ok(()));
        let noted: Vec<_> = trail.take().collect();
        let did: Vec<_> = noted.iter().map(Note::did).collect();
        let expected = [
            Did::GiveWrongPin,
            Did::FindLocked,
            Did::FindUnpaired,
            Did::TryUnlock,
        ];
        assert_eq!(did, expected);
        for note in noted {
            assert_eq!(note.sink(), holder.container);
            let record = note.record();
            assert!(record.r#type.starts_with("FSA.CMLD.TOKEN_MGMT."));
            assert!(!format!("{record:?}").contains("secret-label"));
        }
    }
}
