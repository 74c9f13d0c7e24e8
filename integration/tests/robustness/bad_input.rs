//! Everything that can be wrong with what is pushed, created or registered: each mistake has its answer, and nothing
//! is left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command as Program,
};

use cml_integration::{
    Daemon, Host, Setup,
    http::{Answer, Server},
    kit::{kit, run},
    package::Package,
};
use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Response,
};

const CONTAINER: &str =
    "name: \"web\"\nguest_os: \"busybox\"\nguestos_version: 1\ntoken_type: NONE\n";

/// A leaf of the vendor's root, with these extensions; `None` as issuer: of itself.
fn signer(dir: &Path, extensions: &str, issuer: Option<&str>) -> (PathBuf, PathBuf) {
    let (key, cert) = (dir.join("signer.key"), dir.join("signer.cert"));
    let mut request = Program::new("openssl");
    request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
    request.args([
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=signer",
    ]);
    for extension in extensions.lines() {
        request.args(["-addext", extension]);
    }
    request.arg("-keyout").arg(&key).arg("-out").arg(&cert);
    run(&mut request);
    if let Some(issuer) = issuer {
        let file = dir.join("extensions");
        fs::write(&file, extensions).unwrap();
        let mut sign = Program::new("openssl");
        sign.args(["x509", "-in"])
            .arg(&cert)
            .args(["-days", "2", "-set_serial", "9", "-clrext"]);
        // Without what it says of itself as its own issuer.
        sign.arg("-CA").arg(kit().certificate(issuer));
        sign.arg("-CAkey")
            .arg(kit().key(issuer))
            .arg("-extfile")
            .arg(&file);
        let output = sign.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::write(&cert, output.stdout).unwrap();
    }
    (key, cert)
}

/// A configuration with its signature and certificate.
struct Signed {
    config: Vec<u8>,
    signature: Vec<u8>,
    certificate: Vec<u8>,
}

impl Signed {
    fn by_kit(dir: &Path, text: &str, name: &str) -> Self {
        let conf = dir.join("x.conf");
        fs::write(&conf, text).unwrap();
        kit().sign(&conf, name);
        let read = |suffix| fs::read(conf.with_extension(suffix)).unwrap();
        Self {
            config: read("conf"),
            signature: read("sig"),
            certificate: read("cert"),
        }
    }

    fn by(dir: &Path, text: &str, extensions: &str, issuer: Option<&str>) -> Self {
        let (key, cert) = signer(dir, extensions, issuer);
        let conf = dir.join("x.conf");
        fs::write(&conf, text).unwrap();
        let mut sign = Program::new("openssl");
        sign.args(["dgst", "-sha512", "-sign"]).arg(key).arg(conf);
        let output = sign.output().unwrap();
        assert!(output.status.success());
        Self {
            config: text.into(),
            signature: output.stdout,
            certificate: fs::read(cert).unwrap(),
        }
    }

    fn push(self) -> ControllerToDaemon {
        ControllerToDaemon {
            command: Command::PushGuestosConfig.into(),
            guestos_config_file: Some(self.config),
            guestos_config_signature: Some(self.signature),
            guestos_config_certificate: Some(self.certificate),
            ..Default::default()
        }
    }

    fn create(self) -> ControllerToDaemon {
        ControllerToDaemon {
            command: Command::CreateContainer.into(),
            container_config_file: Some(self.config),
            container_config_signature: Some(self.signature),
            container_config_certificate: Some(self.certificate),
            ..Default::default()
        }
    }
}

/// All ways to sign a text wrongly, each with words of the answer.
fn wrongly_signed(dir: &Path, text: &str) -> Vec<(&'static str, Signed, &'static str)> {
    let good = || Signed::by_kit(dir, text, "ssig_cml");
    let leaf = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature";
    let server = format!("{leaf}\nextendedKeyUsage=serverAuth");
    let mut tampered = good();
    tampered.config.extend(b"# more\n");
    let mut bad = good();
    bad.signature[5] ^= 1;
    let mut truncated = good();
    truncated.certificate.truncate(600);
    let mut alone = good();
    let certificate = String::from_utf8(alone.certificate).unwrap();
    let end = "-----END CERTIFICATE-----";
    let first = certificate.find(end).unwrap() + end.len();
    alone.certificate = certificate[..first].into();
    let mut swapped = good();
    std::mem::swap(&mut swapped.signature, &mut swapped.certificate);
    let mut mixed = good();
    mixed.config = Signed::by_kit(dir, &format!("{text}# other\n"), "ssig_cml").config;
    let mut others = good();
    others.certificate = fs::read(kit().certificate("ssig")).unwrap();
    vec![
        (
            "expired",
            Signed::by_kit(dir, text, "ssig_expired"),
            "not trusted",
        ),
        (
            "wrong key usage",
            Signed::by(dir, text, &server, Some("ssig_rootca")),
            "code",
        ),
        (
            "wrong chain",
            Signed::by_kit(dir, text, "rogue"),
            "not trusted",
        ),
        (
            "self-signed leaf",
            Signed::by(dir, text, leaf, None),
            "not trusted",
        ),
        ("no intermediate", alone, "not trusted"),
        ("tampered", tampered, "signature"),
        ("bad signature", bad, "signature"),
        ("truncated", truncated, "certificate"),
        ("swapped", swapped, "certificate"),
        ("mixed up", mixed, "signature"),
        ("the certificate of another key", others, "signature"),
    ]
}

/// A daemon that can reach servers of the tests.
fn beside_servers() -> Setup {
    Setup {
        host: Host::TheMachine,
        ..Setup::default()
    }
}

fn demanding() -> Setup {
    let setup = Setup::default();
    let demanding = "signed_configs: true";
    Setup {
        device_conf: setup
            .device_conf
            .replace("signed_configs: false", demanding),
        ..setup
    }
}

/// A daemon that has made everything that it makes at its first start.
fn settled(setup: Setup) -> Daemon {
    let daemon = Daemon::new(setup);
    daemon.wait_for_log("the device has its identity");
    daemon.wait_for_log("containers loaded");
    daemon.wait_for_log("guest OSes loaded");
    daemon
}

/// Names of everything below a directory.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.push(entry.path());
    }
    found.sort();
    found
}

#[test]
fn whatever_is_wrong_with_a_signature_is_said_and_nothing_is_stored() {
    let daemon = settled(demanding());
    let dir = tempfile::tempdir().unwrap();
    let guest = fs::read_to_string(kit().store.join("busybox-1.conf")).unwrap();
    let guest = guest.replace("version: 1", "version: 9");
    let before = tree(&daemon.store());
    let mut client = daemon.client();
    for (what, signed, says) in wrongly_signed(dir.path(), &guest) {
        let reply = client.ask(&signed.push());
        assert_eq!(
            reply.response(),
            Response::GuestosMgrInstallFailed,
            "{what}"
        );
        assert!(
            reply.error_text().contains(says),
            "{what}: {}",
            reply.error_text()
        );
        assert_eq!(tree(&daemon.store()), before, "{what}");
    }
    let containers = daemon.base().join("containers");
    for (what, signed, says) in wrongly_signed(dir.path(), CONTAINER) {
        let reply = client.ask(&signed.create());
        assert!(reply.container_uuids.is_empty(), "{what}");
        assert!(
            reply.error_text().contains(says),
            "{what}: {}",
            reply.error_text()
        );
        assert!(tree(&containers).is_empty(), "{what}");
    }
    let good = Signed::by_kit(dir.path(), CONTAINER, "ssig_cml");
    assert_eq!(client.ask(&good.create()).container_uuids.len(), 1);
}

#[test]
fn names_with_tricks_are_refused_with_their_place_and_nothing_is_stored() {
    let daemon = settled(Setup::default());
    let before = tree(&daemon.base());
    let mut client = daemon.client();
    let longest = "x".repeat(256);
    let names = [
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\000b",
        "a\\nb",
        "",
        ".",
        "..",
        &longest,
    ];
    for name in names {
        for (field, line) in [
            (format!("name: \"{name}\"\nguest_os: \"busybox\""), 1),
            (format!("name: \"c\"\nguest_os: \"{name}\""), 2),
            (
                format!("name: \"c\"\nguest_os: \"busybox\"\nfifos: \"{name}\""),
                3,
            ),
            (
                format!(
                    "name: \"c\"\nguest_os: \"busybox\"\n\nimage_sizes {{ image_name: \"{name}\" image_size: 1 }}"
                ),
                4,
            ),
        ] {
            let reply = client.ask(&ControllerToDaemon {
                command: Command::CreateContainer.into(),
                container_config_file: Some(field.clone().into_bytes()),
                ..Default::default()
            });
            assert!(reply.container_uuids.is_empty(), "{field}");
            let place = format!("line {line}, column");
            assert!(
                reply.error_text().contains(&place),
                "{field}: {}",
                reply.error_text()
            );
        }
        for (change, field) in [
            (format!("name: \"{name}\""), "name: \"busybox\""),
            (format!("image_file: \"{name}\""), "image_file: \"root\""),
        ] {
            let text = fs::read_to_string(kit().store.join("busybox-1.conf")).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let text = text
                .replace(field, &change)
                .replace("version: 1", "version: 2");
            let signed = Signed::by_kit(dir.path(), &text, "ssig_cml");
            let reply = client.ask(&signed.push());
            assert_eq!(
                reply.response(),
                Response::GuestosMgrInstallFailed,
                "{change}"
            );
            assert!(
                reply.error_text().contains("column"),
                "{}",
                reply.error_text()
            );
        }
    }
    assert_eq!(tree(&daemon.base()), before);
}

#[test]
fn a_configuration_of_63_mib_is_refused_however_well_it_is_formed_and_signed() {
    let daemon = settled(Setup::default());
    let before = tree(&daemon.base());
    let mut client = daemon.client();
    let padding = "#".repeat(63 << 20);
    let reply = client.ask(&ControllerToDaemon {
        command: Command::CreateContainer.into(),
        container_config_file: Some(format!("{CONTAINER}{padding}").into_bytes()),
        ..Default::default()
    });
    assert!(
        reply.error_text().contains("are the most"),
        "{}",
        reply.error_text()
    );
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(kit().store.join("busybox-1.conf")).unwrap();
    let text = format!("{}{padding}", text.replace("version: 1", "version: 2"));
    let signed = Signed::by_kit(dir.path(), &text, "ssig_cml");
    let reply = client.ask(&signed.push());
    assert_eq!(reply.response(), Response::GuestosMgrInstallFailed);
    assert!(
        reply.error_text().contains("are the most"),
        "{}",
        reply.error_text()
    );
    assert_eq!(tree(&daemon.base()), before);
}

#[test]
fn endless_chains_of_certificates_are_refused_before_they_cost_anything() {
    let daemon = settled(Setup::default());
    let dir = tempfile::tempdir().unwrap();
    let guest = fs::read_to_string(kit().store.join("busybox-1.conf")).unwrap();
    let mut client = daemon.client();
    let one = fs::read(kit().certificate("ssig_rootca")).unwrap();
    for (count, says) in [(30_000, "are the most"), (20, "are the most")] {
        let mut signed = Signed::by_kit(dir.path(), &guest, "ssig_cml");
        signed.certificate.extend(one.repeat(count));
        let reply = client.ask(&signed.push());
        assert_eq!(reply.response(), Response::GuestosMgrInstallFailed);
        assert!(reply.error_text().contains(says), "{}", reply.error_text());
    }
    let reply = client.ask(&ControllerToDaemon {
        command: Command::RegisterNewca.into(),
        guestos_rootcert: Some(one.repeat(30_000)),
        ..Default::default()
    });
    assert!(
        reply.error_text().contains("are the most"),
        "{}",
        reply.error_text()
    );
}

#[test]
fn a_server_that_sends_in_circles_or_elsewhere_is_given_up() {
    let server = Server::new(|_, asked| match asked.path.as_str() {
        path if path.contains("/circle-1/") => Answer::Redirect(path.to_owned()),
        path if path.contains("/file-1/") => Answer::Redirect("file:///etc/passwd".into()),
        path if path.contains("/once-1/") => Answer::Redirect("/there".into()),
        _ => Answer::File(kit().image().into()),
    });
    let daemon = Daemon::new(beside_servers());
    let package = |name: &str| {
        let base = server.base.clone();
        Package::new(&daemon, name, 1, |guest| guest.update_base_url = Some(base))
    };
    let before = daemon.stored();
    for name in ["circle", "file"] {
        let error = package(name).refused(&daemon);
        assert!(error.contains(name), "{error}");
        assert_eq!(daemon.stored(), before, "{name}");
    }
    // Ten turns and three attempts are the most that any client makes.
    assert!(server.asked().len() < 50, "{}", server.asked().len());
    package("once").pushed(&daemon);
}

#[test]
fn a_disk_that_is_full_is_said_to_be_full_and_nothing_is_left_of_the_attempt() {
    let mut daemon = Daemon::prepared(beside_servers());
    let base = daemon.base();
    let containers = base.join("containers");
    fs::create_dir(&containers).unwrap();
    // Room for a few small files, and less than the image needs.
    let script = format!(
        "set -e; mount -t tmpfs -o size=64k none '{}'; mount --bind '{2}' '{1}'; \
         mount -t tmpfs -o size=256k none '{1}'; exec \"$@\"",
        containers.display(),
        daemon.store().display(),
        daemon.store().display(),
    );
    let script: &'static str = Box::leak(script.into_boxed_str());
    daemon = daemon.through(vec!["unshare", "-m", "sh", "-c", script, "sh"]);
    daemon.start();
    let inside =
        |path: &Path| PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), path.display()));
    let server = Server::good();
    let base_url = server.base.clone();
    let package = Package::new(&daemon, "os", 1, |guest| {
        guest.update_base_url = Some(base_url)
    });
    let error = package.refused(&daemon);
    assert!(
        error.contains("no room") && error.contains("bytes are needed"),
        "{error}"
    );
    assert!(tree(&inside(&daemon.store())).is_empty());
    // A configuration without any image to be fetched is all that fits, and the container's files are not.
    fs::write(inside(&containers).join("filler"), vec![0; 64 << 10]).unwrap();
    let package = Package::new(&daemon, "tiny", 1, |guest| guest.mounts.clear());
    package.pushed(&daemon);
    let conf = daemon.path("web.conf");
    fs::write(
        &conf,
        "name: \"web\"\nguest_os: \"tiny\"\ntoken_type: NONE\n",
    )
    .unwrap();
    let output = daemon.control().run(&["create", conf.to_str().unwrap()]);
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.err.contains("No space left"), "{output:?}");
    assert_eq!(
        tree(&inside(&containers)),
        [inside(&containers).join("filler")]
    );
    fs::remove_file(inside(&containers).join("filler")).unwrap();
    daemon.control().ok(&["create", conf.to_str().unwrap()]);
}

#[test]
fn whatever_is_no_ca_is_not_registered() {
    let daemon = Daemon::default();
    let dir = tempfile::tempdir().unwrap();
    let root = fs::read_to_string(kit().certificate("rogue_rootca")).unwrap();
    let leaf = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature";
    let (_, self_signed) = signer(dir.path(), leaf, None);
    let mut flipped = root.clone().into_bytes();
    flipped[200] = if flipped[200] == b'A' { b'B' } else { b'A' };
    let ca_dir = daemon.base().join("tokens/ca");
    let mut client = daemon.client();
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("no certificate", b"hello".to_vec()),
        ("truncated", root.as_bytes()[..root.len() / 2].to_vec()),
        ("flipped", flipped),
        ("a leaf", fs::read(self_signed).unwrap()),
        (
            "a leaf of a CA",
            fs::read(kit().certificate("rogue")).unwrap(),
        ),
        (
            "an intermediate CA",
            fs::read(kit().certificate("ssig_subca_cml")).unwrap(),
        ),
        ("a key", fs::read(kit().key("rogue_rootca")).unwrap()),
        ("NULs", vec![0; 4096]),
    ] {
        let reply = client.ask(&ControllerToDaemon {
            command: Command::RegisterNewca.into(),
            guestos_rootcert: Some(bytes),
            ..Default::default()
        });
        assert_eq!(
            reply.response(),
            Response::GuestosMgrRegisterCaError,
            "{what}"
        );
        assert!(!reply.error_text().is_empty(), "{what}");
        assert!(tree(&ca_dir).is_empty(), "{what}");
    }
}
