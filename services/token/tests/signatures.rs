//! Signatures made by the recipes of `images/`, checked as the daemon checks them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path, process::Command};

use cml_bus::api::token::{TokenError, VerifySignature};
use cml_token::signature::Roots;
use cml_wire::proto::ContainerTrust;

fn run(script: &str, args: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../images")
        .join(script);
    let out = Command::new(script).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn every_signer_gets_the_trust_it_deserves() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    run("pki/make-pki.sh", &[&at("pki"), "rsa:2048"]);
    fs::create_dir(at("tokens")).unwrap();
    for root in ["ssig_rootca.cert", "localca_rootca.cert"] {
        fs::copy(at(&format!("pki/{root}")), at(&format!("tokens/{root}"))).unwrap();
    }
    let check = |signer: &str, tamper: bool, enforce_validity: bool| {
        fs::write(at("c.conf"), "name: \"c\"\n").unwrap();
        let pki = |end: &str| at(&format!("pki/{signer}.{end}"));
        run(
            "sign_config.sh",
            &[
                "-c",
                &at("c.conf"),
                "-k",
                &pki("key"),
                "--cert",
                &pki("cert"),
            ],
        );
        let mut data = fs::read(at("c.conf")).unwrap();
        data[0] ^= u8::from(tamper);
        Roots {
            dir: dir.path().join("tokens"),
            enforce_validity,
        }
        .verify(&VerifySignature {
            data,
            signature: fs::read(at("c.sig")).unwrap(),
            certificate: fs::read(at("c.cert")).unwrap(),
        })
    };
    for signer in ["ssig_cml", "ssig", "ssig_ec"] {
        assert_eq!(
            check(signer, false, true),
            Ok(ContainerTrust::Signed),
            "{signer}"
        );
        assert_eq!(
            check(signer, true, true),
            Err(TokenError::BadSignature),
            "{signer}"
        );
    }
    assert_eq!(
        check("local", false, true),
        Ok(ContainerTrust::LocallySigned)
    );
    assert!(matches!(
        check("rogue", false, true),
        Err(TokenError::BadCertificate(_))
    ));
    assert!(matches!(
        check("ssig_expired", false, true),
        Err(TokenError::BadCertificate(_))
    ));
    assert_eq!(
        check("ssig_expired", false, false),
        Ok(ContainerTrust::Signed)
    );
}
