//! Softtokens: ours, and those that the existing system has left.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod service;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use cml_bus::{
    api::token::{Holder, ReleaseKey, TokenError, TokenKind, Unlock},
    id::ContainerId,
    secret::Pin,
};
use cml_token::{
    keyfile,
    softtoken::{Format, Softtoken},
};
use service::with_service;

fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned())
}

fn soft(container: ContainerId) -> Holder {
    let kind = TokenKind::Soft;
    Holder { container, kind }
}

fn golden(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::read(dir.join(name)).unwrap()
}

/// What is wrapped in the golden files.
fn golden_key() -> Vec<u8> {
    (0..96_usize).map(|i| (i * 91 + 17) as u8).collect()
}

fn check(token: &Softtoken, text: &str) -> Result<(), TokenError> {
    token.open(&pin(text)).map(drop)
}

#[test]
fn a_new_token_of_either_format_opens_with_its_pin_and_no_other() {
    for format in [Format::Hardened, Format::P12] {
        let dir = tempfile::tempdir().unwrap();
        let token = Softtoken::new(dir.path(), "device", format);
        token.create(&pin("trustme")).unwrap();
        assert_eq!(check(&token, "trustme"), Ok(()));
        for wrong in ["", "trustm", "trustme ", "trustme\0", "\0", "ä"] {
            assert_eq!(check(&token, wrong), Err(TokenError::WrongPin), "{wrong:?}");
        }
        let mode = fs::metadata(token.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        token.change(&pin("trustme"), &pin("other")).unwrap();
        assert_eq!(check(&token, "trustme"), Err(TokenError::WrongPin));
        assert_eq!(check(&token, "other"), Ok(()));
    }
}

#[test]
fn every_token_of_the_existing_system_opens_and_releases_what_it_has_wrapped() {
    // Modern ciphers; those of OpenSSL 1.1; the single round that a PIN change by the existing system left.
    for name in ["modern.p12", "legacy.p12", "one-round.p12"] {
        let dir = tempfile::tempdir().unwrap();
        let token = Softtoken::new(dir.path(), "a", Format::P12);
        fs::write(token.path(), golden(name)).unwrap();
        assert_eq!(check(&token, "trustm"), Err(TokenError::WrongPin), "{name}");
        let ring = token.open(&pin("trustme")).unwrap();
        let key = keyfile::unwrap(&ring, ContainerId::random(), &golden("envelope.key"));
        assert_eq!(*key.unwrap(), golden_key(), "{name}");
        assert_eq!(fs::read(token.path()).unwrap(), golden(name));
    }
}

#[test]
fn a_key_that_a_smart_card_has_wrapped_is_read() {
    let key = keyfile::unwrap_card(&[0x11; 32], &golden("card.key")).unwrap();
    assert_eq!(*key, golden_key());
    assert!(keyfile::unwrap_card(&[0x12; 32], &golden("card.key")).is_err());
}

#[test]
fn a_key_in_the_old_format_is_the_envelope_of_the_existing_system() {
    let dir = tempfile::tempdir().unwrap();
    let token = Softtoken::new(dir.path(), "a", Format::P12);
    fs::write(token.path(), golden("modern.p12")).unwrap();
    let ring = token.open(&pin("trustme")).unwrap();
    let wrapped = keyfile::wrap(&ring, ContainerId::random(), &golden_key()).unwrap();
    assert_eq!(wrapped.len(), 648);
    assert_eq!(wrapped[..8], golden("envelope.key")[..8]);
}

#[test]
fn opening_a_token_of_the_existing_system_hardens_it_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let token = Softtoken::new(dir.path(), "a", Format::Hardened);
    let p12 = dir.path().join("a.p12");
    fs::write(&p12, golden("legacy.p12")).unwrap();
    assert_eq!(check(&token, "guess"), Err(TokenError::WrongPin));
    assert!(p12.exists() && !dir.path().join("a.tok").exists());
    let envelope = |ring| keyfile::unwrap(&ring, ContainerId::random(), &golden("envelope.key"));
    let ring = token.open(&pin("trustme")).unwrap();
    assert_eq!(*envelope(ring).unwrap(), golden_key());
    assert!(!p12.exists() && dir.path().join("a.tok").exists());
    let ring = token.open(&pin("trustme")).unwrap();
    assert_eq!(*envelope(ring).unwrap(), golden_key());
}

#[test]
fn a_move_to_the_hardened_format_that_was_interrupted_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let token = Softtoken::new(dir.path(), "a", Format::Hardened);
    let p12 = dir.path().join("a.p12");
    fs::write(&p12, golden("modern.p12")).unwrap();
    // Together with a change of the PIN, and the power goes before the old file does.
    token.change(&pin("trustme"), &pin("new")).unwrap();
    fs::write(&p12, golden("modern.p12")).unwrap();
    assert_eq!(check(&token, "trustme"), Err(TokenError::WrongPin));
    assert!(p12.exists());
    assert_eq!(check(&token, "new"), Ok(()));
    assert!(!p12.exists());
}

#[test]
fn a_damaged_or_missing_file_is_not_called_a_wrong_pin() {
    let dir = tempfile::tempdir().unwrap();
    let token = Softtoken::new(dir.path(), "a", Format::P12);
    let unusable = || matches!(check(&token, "pw"), Err(TokenError::Unusable { .. }));
    assert!(unusable());
    let whole = golden("modern.p12");
    for part in [&whole[..whole.len() / 2], b"", b"x"] {
        fs::write(dir.path().join("a.p12"), part).unwrap();
        assert!(unusable());
    }
}

#[test]
fn a_key_of_the_existing_system_is_wrapped_anew_at_its_first_use() {
    let dir = tempfile::tempdir().unwrap();
    let (own, key) = (ContainerId::random(), |own| format!("{own}.key"));
    fs::write(dir.path().join(format!("{own}.p12")), golden("legacy.p12")).unwrap();
    fs::write(dir.path().join(key(own)), golden("envelope.key")).unwrap();
    with_service(dir.path(), async |port| {
        for _ in 0..2 {
            let release = ReleaseKey {
                holder: soft(own),
                pin: pin("trustme"),
                create: false,
            };
            let released = port.release_key.call(release).await.unwrap();
            assert_eq!(released.expose(), golden_key());
            let wrapped = fs::read(dir.path().join(key(own))).unwrap();
            assert!(wrapped.len() < 648, "still the old envelope");
        }
    });
}

#[test]
fn self_provisioning_blocks_nobody_and_the_own_token_works_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let own = ContainerId::random();
    fs::write(dir.path().join(format!("{own}.p12")), golden("modern.p12")).unwrap();
    with_service(dir.path(), async |port| {
        let unlock = |container, text| {
            port.unlock.call(Unlock {
                holder: soft(container),
                pin: pin(text),
            })
        };
        let other = ContainerId::random();
        // Right from the start it says what is the matter, or works.
        let first = unlock(other, "trustme").await;
        assert!(matches!(first, Ok(()) | Err(TokenError::Uninitialised)));
        assert_eq!(unlock(own, "trustme").await, Ok(()));
        while unlock(other, "trustme").await == Err(TokenError::Uninitialised) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(unlock(other, "trustme").await, Ok(()));
        assert_eq!(
            unlock(other, "own").await,
            Err(TokenError::WrongPinCounted { left: 2 })
        );
        assert_eq!(
            unlock(own, "own").await,
            Err(TokenError::WrongPinCounted { left: 2 })
        );
    });
    assert!(dir.path().join("device.tok").exists());
}
