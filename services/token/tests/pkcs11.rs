//! PKCS#11 tokens, with SoftHSM.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use cml_bus::{api::token::TokenError, id::ContainerId, secret::Pin};
use cml_token::{
    pkcs11::Pkcs11Token,
    softtoken::{Format, Softtoken},
};

/// What SoftHSM reads to find its tokens.
const CONF: &str = "SOFTHSM2_CONF";

/// Marks the process that a test runs in.
const INSIDE: &str = "CML_TEST_SOFTHSM";

/// A container key.
const KEY: [u8; 96] = [0x5a; 96];

fn module() -> PathBuf {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
    ];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("SoftHSM is missing; install the package softhsm2 (`make deps`)")
}

/// Runs the test of this name in a process of its own that has an empty directory for SoftHSM's tokens. The
/// module knows the directory only from its environment, reads that once, and a process must not change its
/// environment once it has threads.
fn with_softhsm(test: &str, body: impl FnOnce(&Path)) {
    let module = module();
    if env::var_os(INSIDE).is_some() {
        return body(&module);
    }
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("softhsm2.conf");
    let tokens = dir.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let text = format!("directories.tokendir = {}\n", tokens.display());
    fs::write(&conf, text).unwrap();
    run(test, |command| command.env(CONF, &conf).env(INSIDE, "1"));
}

/// Runs the test of this name in another process.
fn run(test: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    let ran = prepare(&mut command).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let trouble = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}{trouble}");
    assert!(said.contains("1 passed"), "no test is called {test}");
}

fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned())
}

/// A new container with a token of this PIN.
fn provisioned(module: &Path, text: &str) -> Pkcs11Token {
    let token = Pkcs11Token::new(module, ContainerId::random());
    token.provision(&pin(text)).unwrap();
    token
}

fn why<T>(refused: Result<T, impl std::fmt::Display>) -> String {
    match refused {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_new_token_opens_with_its_pin_and_no_other() {
    with_softhsm("a_new_token_opens_with_its_pin_and_no_other", |module| {
        let token = Pkcs11Token::new(module, ContainerId::random());
        assert_eq!(token.exists(), Ok(false));
        assert!(why(token.check(&pin("1234"))).contains("change_pin"));
        token.provision(&pin("1234")).unwrap();
        assert_eq!(token.exists(), Ok(true));
        for wrong in ["", "1", "123", "12345", "1234\0", &"1".repeat(300)] {
            let refused = token.check(&pin(wrong));
            assert_eq!(refused, Err(TokenError::WrongPin), "{wrong:?}");
        }
        // A login that went before must not open it for a wrong one.
        for _ in 0..3 {
            assert_eq!(token.check(&pin("1234")), Ok(()));
            assert_eq!(token.check(&pin("4321")), Err(TokenError::WrongPin));
        }
    });
}

#[test]
fn a_pin_that_the_token_does_not_take_uses_up_no_slot() {
    with_softhsm(
        "a_pin_that_the_token_does_not_take_uses_up_no_slot",
        |module| {
            let token = Pkcs11Token::new(module, ContainerId::random());
            for bad in ["", "1", "123", &"1".repeat(256)] {
                let refused = token.provision(&pin(bad));
                assert!(matches!(refused, Err(TokenError::BadNewPin(_))), "{bad:?}");
                assert_eq!(token.exists(), Ok(false));
            }
            token.provision(&pin(&"ä".repeat(100))).unwrap();
            assert_eq!(token.check(&pin(&"ä".repeat(100))), Ok(()));
        },
    );
}

#[test]
fn a_container_gets_one_token_only() {
    with_softhsm("a_container_gets_one_token_only", |module| {
        let token = provisioned(module, "1234");
        let wrapped = token.wrap(&pin("1234"), &KEY).unwrap();
        assert!(why(token.provision(&pin("1234"))).contains("already"));
        assert_eq!(token.provision(&pin("4321")), Err(TokenError::WrongPin));
        assert_eq!(*token.unwrap(&pin("1234"), &wrapped).unwrap(), KEY);
    });
}

#[test]
fn a_changed_pin_counts_from_then_on_and_the_key_stays() {
    with_softhsm(
        "a_changed_pin_counts_from_then_on_and_the_key_stays",
        |module| {
            let token = provisioned(module, "1234");
            let wrapped = token.wrap(&pin("1234"), &KEY).unwrap();
            assert_eq!(token.change(&pin("1234"), &pin("56789")), Ok(()));
            assert_eq!(token.check(&pin("1234")), Err(TokenError::WrongPin));
            assert_eq!(*token.unwrap(&pin("56789"), &wrapped).unwrap(), KEY);
            for wrong in ["", "1", "1234"] {
                let refused = token.change(&pin(wrong), &pin("0000"));
                assert_eq!(refused, Err(TokenError::WrongPin), "{wrong:?}");
            }
            for bad in ["", "1", &"1".repeat(256)] {
                let refused = token.change(&pin("56789"), &pin(bad));
                assert!(matches!(refused, Err(TokenError::BadNewPin(_))), "{bad:?}");
            }
            assert_eq!(token.check(&pin("56789")), Ok(()));
        },
    );
}

#[test]
fn a_wrapped_key_comes_back_and_never_looks_the_same() {
    with_softhsm(
        "a_wrapped_key_comes_back_and_never_looks_the_same",
        |module| {
            let token = provisioned(module, "1234");
            let first = token.wrap(&pin("1234"), &KEY).unwrap();
            let second = token.wrap(&pin("1234"), &KEY).unwrap();
            assert_ne!(first, second);
            // Header, nonce, key, tag: nothing of the key in clear.
            assert_eq!(first.len(), 4 + 12 + 96 + 16);
            assert!(!first.windows(8).any(|bytes| bytes == &KEY[..8]));
            for wrapped in [&first, &second] {
                assert_eq!(*token.unwrap(&pin("1234"), wrapped).unwrap(), KEY);
            }
            let wrong = pin("4321");
            assert_eq!(token.wrap(&wrong, &KEY), Err(TokenError::WrongPin));
            let refused = token.unwrap(&wrong, &first);
            assert_eq!(refused.map(drop), Err(TokenError::WrongPin.into()));
        },
    );
}

#[test]
fn a_damaged_key_is_told_apart_whichever_bit_it_is() {
    with_softhsm(
        "a_damaged_key_is_told_apart_whichever_bit_it_is",
        |module| {
            let token = provisioned(module, "1234");
            let wrapped = token.wrap(&pin("1234"), &KEY).unwrap();
            for at in 0..wrapped.len() {
                let mut flipped = wrapped.clone();
                flipped[at] ^= 1 << (at % 8);
                let reason = why(token.unwrap(&pin("1234"), &flipped));
                assert!(reason.contains("damaged"), "{at}: {reason}");
            }
            let longer = [&wrapped[..], &[0]].concat();
            for other in [
                &[][..],
                &wrapped[..4],
                &wrapped[..31],
                &wrapped[..127],
                &longer,
            ] {
                let reason = why(token.unwrap(&pin("1234"), other));
                assert!(reason.contains("damaged"), "{}: {reason}", other.len());
            }
            assert_eq!(*token.unwrap(&pin("1234"), &wrapped).unwrap(), KEY);
        },
    );
}

#[test]
fn another_containers_token_does_not_unwrap() {
    with_softhsm("another_containers_token_does_not_unwrap", |module| {
        let (a, b) = (provisioned(module, "1111"), provisioned(module, "2222"));
        let wrapped = a.wrap(&pin("1111"), &KEY).unwrap();
        assert!(why(b.unwrap(&pin("2222"), &wrapped)).contains("damaged"));
        assert_eq!(a.check(&pin("2222")), Err(TokenError::WrongPin));
        assert_eq!(*a.unwrap(&pin("1111"), &wrapped).unwrap(), KEY);
    });
}

#[test]
fn containers_whose_uuids_differ_in_the_last_digit_have_two_tokens() {
    with_softhsm(
        "containers_whose_uuids_differ_in_the_last_digit_have_two_tokens",
        |module| {
            let token = |uuid: &str| Pkcs11Token::new(module, uuid.parse().unwrap());
            let a = token("00000000-0000-0000-0000-000000000001");
            let b = token("00000000-0000-0000-0000-000000000002");
            a.provision(&pin("1111")).unwrap();
            assert_eq!(b.exists(), Ok(false));
        },
    );
}

#[test]
fn a_forgotten_token_unwraps_nothing_even_with_a_new_key() {
    with_softhsm(
        "a_forgotten_token_unwraps_nothing_even_with_a_new_key",
        |module| {
            let token = provisioned(module, "1234");
            let wrapped = token.wrap(&pin("1234"), &KEY).unwrap();
            assert_eq!(token.forget(&pin("4321")), Err(TokenError::WrongPin));
            assert_eq!(*token.unwrap(&pin("1234"), &wrapped).unwrap(), KEY);
            token.forget(&pin("1234")).unwrap();
            assert!(why(token.unwrap(&pin("1234"), &wrapped)).contains("lost its key"));
            token.forget(&pin("1234")).unwrap();
            token.provision(&pin("1234")).unwrap();
            assert!(why(token.unwrap(&pin("1234"), &wrapped)).contains("damaged"));
            let never = Pkcs11Token::new(module, ContainerId::random());
            assert_eq!(never.forget(&pin("1234")), Ok(()));
        },
    );
}

#[test]
fn the_key_cannot_be_read_out_by_other_tools() {
    with_softhsm("the_key_cannot_be_read_out_by_other_tools", |module| {
        use cryptoki::{
            context::Pkcs11,
            object::{Attribute, AttributeType},
            session::UserType,
            types::AuthPin,
        };
        let token = provisioned(module, "1234");
        token.check(&pin("1234")).unwrap();
        // The module is initialised, as this is the same process.
        let raw = Pkcs11::new(module).unwrap();
        let slot = raw.get_slots_with_initialized_token().unwrap()[0];
        let session = raw.open_ro_session(slot).unwrap();
        let everything = [Attribute::Token(true)];
        assert_eq!(session.find_objects(&everything).unwrap(), []);
        let known = AuthPin::from("1234");
        session.login(UserType::User, Some(&known)).unwrap();
        let [key] = session.find_objects(&everything).unwrap()[..] else {
            panic!("one key is expected");
        };
        let value = session.get_attributes(key, &[AttributeType::Value]);
        assert!(value.is_err() || value.unwrap().is_empty());
        let facts = [
            AttributeType::NeverExtractable,
            AttributeType::AlwaysSensitive,
        ];
        assert_eq!(
            session.get_attributes(key, &facts).unwrap(),
            [
                Attribute::NeverExtractable(true),
                Attribute::AlwaysSensitive(true)
            ]
        );
    });
}

#[test]
fn a_token_whose_making_was_interrupted_is_named_and_never_opens() {
    with_softhsm(
        "a_token_whose_making_was_interrupted_is_named_and_never_opens",
        |module| {
            let container = ContainerId::random();
            let token = Pkcs11Token::new(module, container);
            assert_eq!(token.exists(), Ok(false));
            let raw = cryptoki::context::Pkcs11::new(module).unwrap();
            let free = raw.get_slots_with_token().unwrap()[0];
            let officer = cryptoki::types::AuthPin::from("12345678");
            let label = container.to_string().replace('-', "");
            raw.init_token(free, &officer, &label).unwrap();
            assert_eq!(token.exists(), Ok(true));
            for reason in [
                why(token.check(&pin("1234"))),
                why(token.provision(&pin("1234"))),
            ] {
                assert!(reason.contains("interrupted"), "{reason}");
                assert!(reason.contains(&label), "{reason}");
            }
        },
    );
}

#[test]
fn softtokens_work_beside_a_module_that_has_an_openssl_too() {
    with_softhsm(
        "softtokens_work_beside_a_module_that_has_an_openssl_too",
        |module| {
            let dir = tempfile::tempdir().unwrap();
            let soft = Softtoken::new(dir.path(), "device", Format::P12);
            let token = provisioned(module, "1234");
            soft.create(&pin("trustme")).unwrap();
            assert!(soft.open(&pin("trustme")).is_ok());
            assert_eq!(token.check(&pin("1234")), Ok(()));
            let refused = soft.open(&pin("1234")).map(drop);
            assert_eq!(refused, Err(TokenError::WrongPin));
        },
    );
}

#[test]
fn a_restart_finds_the_token_and_its_key() {
    /// Names the file with what the process before has wrapped.
    const LEFT: &str = "CML_TEST_LEFT";
    let test = "a_restart_finds_the_token_and_its_key";
    with_softhsm(test, |module| {
        if let Some(left) = env::var_os(LEFT) {
            let left = fs::read(left).unwrap();
            let (uuid, wrapped) = left.split_at(36);
            let container = std::str::from_utf8(uuid).unwrap().parse().unwrap();
            let token = Pkcs11Token::new(module, container);
            assert_eq!(token.exists(), Ok(true));
            assert_eq!(*token.unwrap(&pin("1234"), wrapped).unwrap(), KEY);
            return;
        }
        let container = ContainerId::random();
        let token = Pkcs11Token::new(module, container);
        token.provision(&pin("1234")).unwrap();
        let wrapped = token.wrap(&pin("1234"), &KEY).unwrap();
        let left = tempfile::NamedTempFile::new().unwrap();
        let bytes = [container.to_string().as_bytes(), &wrapped].concat();
        fs::write(left.path(), bytes).unwrap();
        run(test, |command| command.env(LEFT, left.path()));
    });
}

#[test]
fn many_at_once_do_not_open_each_others_tokens() {
    with_softhsm("many_at_once_do_not_open_each_others_tokens", |module| {
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    let right = format!("{number}{number}{number}{number}");
                    let token = provisioned(module, &right);
                    for _ in 0..10 {
                        let wrapped = token.wrap(&pin(&right), &KEY).unwrap();
                        assert_eq!(token.check(&pin("9999")), Err(TokenError::WrongPin));
                        assert_eq!(*token.unwrap(&pin(&right), &wrapped).unwrap(), KEY);
                    }
                });
            }
        });
    });
}

#[test]
fn a_missing_module_is_named_and_told_what_to_do_about() {
    let absent = Path::new("/var/lib/cml/pkcs11/absent.so");
    let token = Pkcs11Token::new(absent, ContainerId::random());
    let Err(TokenError::Unusable { path, reason }) = token.exists() else {
        panic!("there is no such module");
    };
    assert_eq!(path, absent.display().to_string());
    assert!(reason.contains("install"), "{reason}");
}
