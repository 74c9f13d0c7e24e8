//! The first use of openssl in a process, from several threads at once. A test of its own, as there is only
//! one first time per process.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod service;

use std::{fs, path::Path, process::Command};

use cml_bus::api::token::VerifySignature;
use cml_wire::proto::ContainerTrust;
use service::with_service;

#[test]
fn a_good_signature_is_good_while_the_first_key_is_being_made() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
    let run = |script: &str, args: &[&str]| {
        let output = Command::new(images.join(script))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run("pki/make-pki.sh", &[&text("pki"), "rsa:2048"]);
    fs::write(at("x.conf"), "name: \"x\"\n").unwrap();
    run(
        "sign_config.sh",
        &[
            &text("x.conf"),
            &text("pki/ssig_cml.key"),
            &text("pki/ssig_cml.cert"),
        ],
    );
    fs::create_dir(at("tokens")).unwrap();
    fs::copy(at("pki/ssig_rootca.cert"), at("tokens/ssig_rootca.cert")).unwrap();
    let request = || VerifySignature {
        data: fs::read(at("x.conf")).unwrap(),
        signature: fs::read(at("x.sig")).unwrap(),
        certificate: fs::read(at("x.cert")).unwrap(),
    };
    // There is no token yet, so the service begins to make a key at once.
    with_service(&at("tokens"), async |port| {
        for _ in 0..20 {
            let verdict = port.verify_signature.call(request()).await;
            assert_eq!(verdict, Ok(ContainerTrust::Signed));
        }
    });
}
