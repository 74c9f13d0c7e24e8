//! Softtokens: ours, and those that the openssl program makes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod service;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use cml_bus::{
    api::token::{TokenError, Unlock},
    id::ContainerId,
    secret::Pin,
};
use cml_token::softtoken;
use service::with_service;

fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned())
}

fn openssl(args: &[&str]) {
    let out = Command::new("openssl").args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A token made by the openssl program, with a small key because its size does not matter here.
fn foreign_token(dir: &Path, name: &str, pass: &str) {
    let at = |name: &str| dir.join(name).display().to_string();
    let (key, cert) = (at("key.pem"), at("cert.pem"));
    openssl(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", &key, "-out",
        &cert,
    ]);
    let pass = format!("pass:{pass}");
    openssl(&[
        "pkcs12",
        "-export",
        "-inkey",
        &key,
        "-in",
        &cert,
        "-passout",
        &pass,
        "-out",
        &at(name),
    ]);
}

#[test]
fn a_new_token_opens_with_its_pin_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.p12");
    softtoken::create(&path, "device", &pin("trustme")).unwrap();
    assert_eq!(softtoken::check(&path, &pin("trustme")), Ok(()));
    for wrong in ["", "trustm", "trustme ", "trustme\0", "\0", "ä"] {
        assert_eq!(
            softtoken::check(&path, &pin(wrong)),
            Err(TokenError::WrongPin),
            "{wrong:?}"
        );
    }
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_token_of_the_openssl_program_is_read() {
    let dir = tempfile::tempdir().unwrap();
    foreign_token(dir.path(), "x.p12", "pw");
    let path = dir.path().join("x.p12");
    assert_eq!(softtoken::check(&path, &pin("pw")), Ok(()));
    assert_eq!(
        softtoken::check(&path, &pin("wp")),
        Err(TokenError::WrongPin)
    );
}

#[test]
fn a_damaged_or_missing_file_is_not_called_a_wrong_pin() {
    let dir = tempfile::tempdir().unwrap();
    foreign_token(dir.path(), "x.p12", "pw");
    let path = dir.path().join("x.p12");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let unusable = |path| {
        matches!(
            softtoken::check(path, &pin("pw")),
            Err(TokenError::Unusable { .. })
        )
    };
    assert!(unusable(&path));
    fs::write(&path, "").unwrap();
    assert!(unusable(&path));
    assert!(unusable(&dir.path().join("absent.p12")));
}

#[test]
fn self_provisioning_blocks_nobody_and_the_own_token_works_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let own = ContainerId::random();
    foreign_token(dir.path(), &format!("{own}.p12"), "own");
    with_service(dir.path(), async |port| {
        let unlock = |container, text| {
            port.unlock.call(Unlock {
                container,
                pin: pin(text),
            })
        };
        let other = ContainerId::random();
        assert_eq!(unlock(own, "own").await, Ok(()));
        // The key of the device takes a second or more, the call above milliseconds.
        assert_eq!(
            unlock(other, "trustme").await,
            Err(TokenError::Uninitialised)
        );
        while unlock(other, "trustme").await == Err(TokenError::Uninitialised) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(unlock(other, "trustme").await, Ok(()));
        assert_eq!(unlock(other, "own").await, Err(TokenError::WrongPin));
        assert_eq!(unlock(own, "trustme").await, Err(TokenError::WrongPin));
    });
    assert!(dir.path().join("device.p12").exists());
}
