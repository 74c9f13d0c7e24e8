//! Whose signatures of pushed guest OSes are believed: CAs that are registered and removed, forms of signatures.

use std::{fs, process::Command};

use cml_integration::{
    Daemon, eventually,
    http::Server,
    kit::{kit, run},
    package::Package,
};

use crate::guestos_install::{empty, setup, versions};

/// Signs the configuration of a package in CMS.
fn cms(daemon: &Daemon, stem: &str, signer: &str, options: &str) {
    let [key, cert] =
        [kit().key(signer), kit().certificate(signer)].map(|path| path.display().to_string());
    let words = format!(
        "cms -sign -in {stem}.conf -signer {cert} -inkey {key} {options} -outform PEM -out {stem}.sig"
    );
    let mut openssl = Command::new("openssl");
    run(openssl
        .args(words.split(' '))
        .current_dir(daemon.path("packages")));
}

#[test]
fn a_registered_ca_vouches_until_it_is_removed() {
    let server = Server::good();
    let daemon = empty(&server.base);
    let control = daemon.control();
    let package = Package::new(&daemon, "customers", 1, |_| {});
    package.sign("rogue");
    assert!(package.refused(&daemon).contains("ca_register"));
    let leaf = kit().certificate("rogue").display().to_string();
    control.refused(&["ca_register", &leaf], "GUESTOS_MGR_REGISTER_CA_ERROR");
    let text = fs::read_to_string(kit().certificate("rogue_rootca")).unwrap();
    let root = daemon.path("root.cert").display().to_string();
    fs::write(
        &root,
        format!("Certificate:\r\n{}", text.replace('\n', "\r\n")),
    )
    .unwrap();
    for _ in 0..2 {
        let done = control.ok(&["ca_register", &root]);
        assert_eq!(done.value("response"), "GUESTOS_MGR_REGISTER_CA_OK");
    }
    package.pushed(&daemon);
    daemon.create("name: \"web\"\nguest_os: \"customers\"\ntoken_type: NONE\n");
    assert_eq!(control.ok(&["state", "web"]).value("trust_level"), "SIGNED");
    let listed: serde_json::Value =
        serde_json::from_str(&control.ok(&["--format", "json", "ca_list"]).out).unwrap();
    let cas = listed["cas"].as_array().unwrap();
    assert_eq!((cas.len(), &cas[0]["kind"]), (2, &"VENDOR".into()));
    let id = cas[1]["id"].as_str().unwrap();
    assert!(daemon.base().join("tokens/ca").join(id).is_file());
    control.refused(&["ca_remove", "vendor"], "CMD_FAILED");
    control.refused(&["ca_remove", "0123"], "CMD_FAILED");
    control.ok(&["ca_remove", id]);
    eventually("the guest OS is not trusted any more", || {
        (control.ok(&["state", "web"]).value("trust_level") == "UNSIGNED").then_some(())
    });
    assert!(versions(&daemon).is_empty());
    control.refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    control.ok(&["ca_register", &root]);
    eventually("the guest OS is trusted again", || {
        (control.ok(&["state", "web"]).value("trust_level") == "SIGNED").then_some(())
    });
}

#[test]
fn a_cms_signature_is_as_good_as_a_raw_one() {
    let server = Server::good();
    let mut daemon = empty(&server.base);
    let package = Package::new(&daemon, "os", 1, |_| {});
    cms(
        &daemon,
        "os-1",
        "ssig_cml",
        "-md sha512 -keyopt rsa_padding_mode:pss",
    );
    package.pushed(&daemon);
    daemon.stop();
    daemon.start();
    assert_eq!(versions(&daemon), ["1"]);
    for weak in ["sha1", "md5", "sha256"] {
        let package = Package::new(&daemon, "weak", 1, |_| {});
        cms(&daemon, "weak-1", "ssig", &format!("-md {weak}"));
        fs::copy(kit().certificate("ssig"), package.part("cert")).unwrap();
        assert!(package.refused(&daemon).contains("signature"), "{weak}");
    }
}

#[test]
fn a_damaged_ca_vouches_for_nobody_and_takes_nothing_from_the_others() {
    let server = Server::good();
    let mut daemon = Daemon::prepared(setup(&server.base));
    let cas = daemon.base().join("tokens/ca");
    fs::create_dir_all(&cas).unwrap();
    let damaged = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";
    fs::write(cas.join("0".repeat(40)), damaged).unwrap();
    daemon.start();
    Package::new(&daemon, "os", 1, |_| {}).pushed(&daemon);
    let rogue = Package::new(&daemon, "rogue", 1, |_| {});
    rogue.sign("rogue");
    assert!(rogue.refused(&daemon).contains("not trusted"));
    daemon.control().ok(&["ca_remove", &"0".repeat(40)]);
}
