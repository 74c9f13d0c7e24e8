//! CAs that are registered, and what only looks like one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path, process::Command};

use cml_bus::api::token::{TokenError, VerifySignature};
use cml_token::signature::Roots;
use cml_wire::proto::{ContainerTrust, ca_certificate::Kind};

fn openssl(dir: &Path, words: &str) {
    let out = Command::new("openssl")
        .args(words.split_whitespace())
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "openssl {words}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A root, a CA and leaves below it, each with its extensions.
fn pki(dir: &Path) {
    let request = |name: &str, root: &str, extensions: &str| {
        fs::write(dir.join("ext"), format!("[e]\n{extensions}\n")).unwrap();
        openssl(
            dir,
            &format!(
                "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                 -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        let signer = match root {
            "" => format!("-key {name}.key"),
            root => format!("-CA {root}.cert -CAkey {root}.key -CAcreateserial"),
        };
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr {signer} -days 30 -out {name}.cert -extfile ext -extensions e"
            ),
        );
    };
    let ca = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign";
    request("root", "", ca);
    request("sub", "root", ca);
    request("self", "", "basicConstraints=CA:false");
    request(
        "no-sign",
        "",
        "basicConstraints=CA:true\nkeyUsage=digitalSignature",
    );
    request("plain", "root", "basicConstraints=CA:false");
    request("code", "root", "extendedKeyUsage=codeSigning,clientAuth");
    request("any", "root", "extendedKeyUsage=anyExtendedKeyUsage");
    request("server", "root", "extendedKeyUsage=serverAuth");
    request(
        "client",
        "root",
        "extendedKeyUsage=critical,clientAuth,emailProtection",
    );
}

fn roots(dir: &Path) -> Roots {
    Roots {
        dir: dir.join("tokens"),
        enforce_validity: true,
    }
}

#[test]
fn only_roots_and_whole_chains_are_registered_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pki(dir);
    let roots = roots(dir);
    let file = |name: &str| fs::read(dir.join(format!("{name}.cert"))).unwrap();
    let chain = |names: &[&str]| {
        names
            .iter()
            .map(|name| file(name))
            .collect::<Vec<_>>()
            .concat()
    };
    for bad in [
        Vec::new(),
        b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n".into(),
        chain(&["sub"]),
        chain(&["self"]),
        chain(&["no-sign"]),
        chain(&["plain", "root"]),
        chain(&["root", "self"]),
    ] {
        let refused = roots.register(&bad, false);
        assert!(matches!(refused, Err(TokenError::BadCa(_))), "{refused:?}");
    }
    assert!(!dir.join("tokens").exists(), "nothing is written");

    let text = String::from_utf8(file("root")).unwrap();
    assert_eq!(roots.register(text.as_bytes(), false), Ok(true));
    // The same certificate in other clothes.
    for same in [
        text.replace('\n', "\r\n"),
        format!("subject: something\n{text}"),
        text.trim_end().to_owned(),
    ] {
        assert_eq!(roots.register(same.as_bytes(), false), Ok(false), "{same}");
    }
    let stored: Vec<_> = fs::read_dir(dir.join("tokens/ca"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(stored.len(), 1);
    assert_eq!(fs::read(stored[0].path()).unwrap(), file("root"));
    openssl(dir, "dgst -sha1 -r -out sum root.cert");
    let sum = fs::read_to_string(dir.join("sum")).unwrap();
    assert_eq!(stored[0].file_name().to_str(), sum.split(' ').next());
    assert_eq!(roots.register(&chain(&["sub", "root"]), false), Ok(true));
}

#[test]
fn the_local_ca_is_registered_once_and_every_ca_but_the_vendors_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pki(dir);
    let roots = roots(dir);
    let file = |name: &str| fs::read(dir.join(format!("{name}.cert"))).unwrap();
    fs::create_dir(dir.join("tokens")).unwrap();
    fs::copy(dir.join("root.cert"), dir.join("tokens/ssig_rootca.cert")).unwrap();
    roots.register(&file("root"), false).unwrap();
    assert_eq!(roots.register(&file("root"), true), Ok(true));
    assert_eq!(roots.register(&file("root"), true), Ok(false));
    let other = [file("sub"), file("root")].concat();
    assert!(matches!(
        roots.register(&other, true),
        Err(TokenError::BadCa(_))
    ));
    let listed = roots.list().unwrap();
    let kinds: Vec<_> = listed.iter().map(|one| one.kind()).collect();
    assert_eq!(kinds, [Kind::Vendor, Kind::Registered, Kind::Local]);
    assert!(listed.iter().all(|one| one.subject == "CN=root"));
    assert!(listed.iter().all(|one| one.fingerprint.len() == 64));
    assert!(matches!(roots.remove("vendor"), Err(TokenError::BadCa(_))));
    for absent in ["", ".", "..", "../ssig_rootca.cert", "0123"] {
        assert!(matches!(roots.remove(absent), Err(TokenError::NoSuchCa(_))));
    }
    // One that cannot be read stands in the way of every signature, and can be removed.
    fs::write(
        dir.join("tokens/ca/broken"),
        "-----BEGIN CERTIFICATE-----\n",
    )
    .unwrap();
    fs::write(
        dir.join("tokens/ca/.half.new"),
        "-----BEGIN CERTIFICATE-----\nx",
    )
    .unwrap();
    for id in roots.list().unwrap().iter().map(|one| one.id.as_str()) {
        if id != "vendor" {
            roots.remove(id).unwrap();
        }
    }
    assert_eq!(roots.list().unwrap().len(), 1);
    assert!(dir.join("tokens/ssig_rootca.cert").exists());
}

#[test]
fn a_signer_is_one_for_code_and_may_sign_in_either_form() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pki(dir);
    let roots = roots(dir);
    roots
        .register(&fs::read(dir.join("root.cert")).unwrap(), false)
        .unwrap();
    let data = b"name: \"x\"\nversion: 1\nlast".to_vec();
    fs::write(dir.join("data"), &data).unwrap();
    let verify = |signer: &str, data: &[u8], signature: &str| {
        roots.verify(&VerifySignature {
            data: data.to_vec(),
            signature: fs::read(dir.join(signature)).unwrap(),
            certificate: fs::read(dir.join(format!("{signer}.cert"))).unwrap(),
        })
    };
    for (signer, good) in [
        ("plain", true),
        ("code", true),
        ("any", true),
        ("server", false),
        ("client", false),
    ] {
        openssl(
            dir,
            &format!("dgst -sha512 -sign {signer}.key -out sig data"),
        );
        let cms = |more: &str| {
            openssl(
                dir,
                &format!(
                    "cms -sign -md sha512 -in data -signer {signer}.cert -inkey {signer}.key {more}"
                ),
            );
        };
        cms("-outform PEM -out pem");
        cms("-outform DER -binary -nocerts -out der");
        cms("-outform DER -noattr -out noattr");
        for signature in ["sig", "pem", "der", "noattr"] {
            let verdict = verify(signer, &data, signature);
            match good {
                true => assert_eq!(verdict, Ok(ContainerTrust::Signed), "{signer} {signature}"),
                false => assert!(
                    matches!(verdict, Err(TokenError::BadCertificate(_))),
                    "{signer} {signature}: {verdict:?}"
                ),
            }
            if good {
                let refused = verify(signer, b"other", signature);
                assert_eq!(refused, Err(TokenError::BadSignature));
            }
        }
    }
    // The certificate that is trusted must be the signer's own.
    openssl(
        dir,
        "cms -sign -md sha512 -in data -signer self.cert -inkey self.key -outform PEM -out pem",
    );
    assert_eq!(verify("plain", &data, "pem"), Err(TokenError::BadSignature));
}
