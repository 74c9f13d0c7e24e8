//! The device as a whole: its identity, provisioned mode, figures, logs, reboot.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command as Program,
};

use cml_integration::{
    Client, Daemon, Setup, eventually,
    kit::{kit, run},
};
use cml_wire::proto::{
    ControllerToDaemon, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

const FILES: [&str; 4] = ["device.key", "device.csr", "device.cert", "device_id.conf"];

fn token(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.base().join("tokens").join(name)
}

/// Waits until the device has its identity.
fn identity(daemon: &Daemon) -> [Vec<u8>; 4] {
    eventually("an identity", || {
        token(daemon, "device.cert").exists().then_some(())
    });
    FILES.map(|name| fs::read(token(daemon, name)).unwrap())
}

fn openssl(args: &[&str]) -> String {
    let output = Program::new("openssl").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn client(daemon: &Daemon) -> Client {
    Client::connect(&daemon.socket())
}

/// The device's request, signed by one of the test PKI.
fn certify(daemon: &Daemon, signer: &str, days: &str) -> Vec<u8> {
    let csr = client(daemon).ask_bare(Command::PullDeviceCsr);
    let path = daemon.path("pulled.csr");
    fs::write(&path, csr.device_csr()).unwrap();
    sign(daemon, &path, signer, days)
}

fn sign(daemon: &Daemon, csr: &Path, signer: &str, days: &str) -> Vec<u8> {
    let out = daemon.path("signed.cert");
    let (key, ca) = (kit().key(signer), kit().certificate(signer));
    let mut command = Program::new("openssl");
    command.args(["x509", "-req", "-in"]).arg(csr);
    command.arg("-CA").arg(ca).arg("-CAkey").arg(key);
    command.args([
        "-set_serial",
        "7",
        "-days",
        days,
        "-copy_extensions",
        "copy",
        "-out",
    ]);
    run(command.arg(&out));
    fs::read(out).unwrap()
}

fn push(daemon: &Daemon, certificate: &[u8]) -> DaemonToController {
    client(daemon).ask(&ControllerToDaemon {
        command: Command::PushDeviceCert.into(),
        device_cert: Some(certificate.to_vec()),
        ..Default::default()
    })
}

#[test]
fn a_device_makes_its_identity_once_and_keeps_it() {
    let mut daemon = Daemon::default();
    let made = identity(&daemon);
    let mode = |name| fs::metadata(token(&daemon, name)).unwrap().mode() & 0o777;
    assert_eq!(mode("device.key"), 0o600);
    let path = |name| token(&daemon, name).display().to_string();
    openssl(&["req", "-in", &path("device.csr"), "-verify", "-noout"]);
    let csr = openssl(&["req", "-in", &path("device.csr"), "-noout", "-text"]);
    let id = String::from_utf8(made[3].clone()).unwrap();
    let uuid = id.trim().strip_prefix("uuid: ").unwrap().trim_matches('"');
    for part in [
        "C = DE, O = Fraunhofer, OU = AISEC, CN = ",
        "TLS Web Client Authentication",
        "Digital Signature, Non Repudiation",
        &format!("URI:UUID:{uuid}"),
    ] {
        assert!(csr.contains(part), "{part}: {csr}");
    }
    let certificate = openssl(&["x509", "-in", &path("device.cert"), "-noout", "-text"]);
    assert!(certificate.contains("Version: 3") && certificate.contains(uuid));
    let (key, certificate) = (path("device.key"), path("device.cert"));
    openssl(&["verify", "-CAfile", &certificate, &certificate]);
    let public = openssl(&["pkey", "-in", &key, "-pubout"]);
    assert_eq!(
        public,
        openssl(&["x509", "-in", &certificate, "-noout", "-pubkey"])
    );

    daemon.stop();
    daemon.start();
    let pulled = client(&daemon).ask_bare(Command::PullDeviceCsr);
    assert_eq!(pulled.code(), Code::DeviceCsr);
    assert_eq!(pulled.device_csr(), made[1]);
    assert_eq!(identity(&daemon), made);
    daemon.crash();
    fs::remove_file(token(&daemon, "device.csr")).unwrap();
    daemon.start();
    let again = client(&daemon).ask_bare(Command::PullDeviceCsr);
    assert!(again.device_csr.is_some());
    assert_eq!(fs::read(token(&daemon, "device.key")).unwrap(), made[0]);
}

#[test]
fn a_device_that_wants_it_has_the_key_of_the_existing_system() {
    let plain = Setup::default();
    let daemon = Daemon::new(Setup {
        device_conf: format!("{}device_key_type: RSA_4096\n", plain.device_conf),
        ..plain
    });
    let csr = client(&daemon).ask_bare(Command::PullDeviceCsr);
    fs::write(daemon.path("csr"), csr.device_csr()).unwrap();
    let path = daemon.path("csr").display().to_string();
    let text = openssl(&["req", "-in", &path, "-verify", "-noout", "-text"]);
    assert!(text.contains("Public-Key: (4096 bit)"), "{text}");
    assert!(text.contains("Key Encipherment"), "{text}");
}

#[test]
fn only_a_good_certificate_for_this_device_is_taken() {
    let daemon = Daemon::default();
    let before = identity(&daemon);
    let refused = |certificate: &[u8], why: &str| {
        let reply = push(&daemon, certificate);
        assert_eq!(
            reply.response(),
            Response::DeviceCertError,
            "{why}: {reply:?}"
        );
        assert!(reply.error_text().contains(why), "{reply:?}");
        assert_eq!(identity(&daemon), before);
    };
    refused(b"garbage", "PEM");
    refused(b"", "PEM");
    let foreign = fs::read(kit().certificate("ssig")).unwrap();
    refused(&foreign, "another key");
    refused(&certify(&daemon, "ssig_rootca", "-1"), "expired");
    let mut cut = certify(&daemon, "ssig_rootca", "30");
    cut.truncate(cut.len() / 2);
    refused(&cut, "PEM");

    // From the moment a root is registered, one must vouch.
    let ca = daemon.base().join("tokens/ca");
    fs::create_dir(&ca).unwrap();
    fs::copy(kit().certificate("localca_rootca"), ca.join("0")).unwrap();
    refused(&certify(&daemon, "rogue_rootca", "30"), "ca_register");
    let good = certify(&daemon, "localca_rootca", "30");
    assert_eq!(push(&daemon, &good).response(), Response::DeviceCertOk);
    assert_eq!(fs::read(token(&daemon, "device.cert")).unwrap(), good);
    // Text around it, as `openssl ca` prints it, is no harm.
    let mut wordy = b"Certificate:\n    Data:\n".to_vec();
    wordy.extend(certify(&daemon, "ssig_rootca", "30"));
    assert_eq!(push(&daemon, &wordy).response(), Response::DeviceCertOk);
}

/// Every command, and whether it answers something else than that it is not allowed.
fn allowed(client: &mut Client) -> Vec<&'static str> {
    let numbers = (1..1001).filter_map(|number| Command::try_from(number).ok());
    // These would have an effect, and are tried by name.
    let quiet = numbers
        .filter(|command| !matches!(command, Command::ContainerExecInput | Command::RebootDevice));
    let allowed = quiet.filter(|command| {
        let reply = client.ask_bare(*command);
        reply.response.is_none() || reply.response() != Response::CmdUnsupported
    });
    allowed.map(|command| command.as_str_name()).collect()
}

const STRICT: [&str; 10] = [
    "LIST_CONTAINERS",
    "GET_CONTAINER_STATUS",
    "CREATE_CONTAINER",
    "GET_PROVISIONED",
    "CHANGE_DEVICE_PIN",
    "CONTAINER_START",
    "CONTAINER_STOP",
    "CONTAINER_UPDATE_CONFIG",
    "CONTAINER_CHANGE_TOKEN_PIN",
    "CONTAINER_CMLD_HANDLES_PIN",
];

#[test]
fn a_device_is_provisioned_at_once_everywhere_and_for_good() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let mut early = client(&daemon);
    assert_eq!(
        early.ask_bare(Command::PullDeviceCsr).code(),
        Code::DeviceCsr
    );
    let mut setter = client(&daemon);
    let state = setter.ask_bare(Command::GetProvisioned);
    assert_eq!(state.device_is_provisioned, Some(false));
    assert_eq!(
        setter.ask_bare(Command::SetProvisioned).response(),
        Response::CmdOk
    );
    assert!(daemon.base().join("_cml_provisioned_").exists());
    for client in [&mut setter, &mut early, &mut client(&daemon)] {
        assert_eq!(allowed(client), STRICT);
        let state = client.ask_bare(Command::GetProvisioned);
        assert_eq!(state.device_is_provisioned, Some(true));
        let reply = client.ask_bare(Command::RebootDevice);
        assert_eq!(reply.response(), Response::CmdUnsupported);
    }
    let stop = early.ask_about(Command::ContainerStop, &uuid);
    assert_eq!(stop.response(), Response::ContainerStopOk);
    daemon.wait_for("web", "STOPPED");
    daemon.stop();
    daemon.start();
    assert_eq!(allowed(&mut client(&daemon)), STRICT);
}

#[test]
fn a_shell_that_is_open_is_closed_when_the_device_is_provisioned() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let shell = daemon
        .control()
        .command(&["run", "web", "nopty", "sleep", "1000"])
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the command", || {
        let list = daemon.control().ok(&["run", "web", "nopty", "ps"]);
        list.out.contains("sleep 1000").then_some(())
    });
    assert_eq!(
        client(&daemon).ask_bare(Command::SetProvisioned).response(),
        Response::CmdOk
    );
    let ended = shell.wait_with_output().unwrap();
    assert_ne!(ended.status.code(), Some(0));
    daemon.control().ok(&["stop", "web"]);
}

#[test]
fn the_extended_profile_has_the_wider_set() {
    let plain = Setup::default();
    let daemon = Daemon::new(Setup {
        device_conf: format!("{}provisioned_profile: EXTENDED\n", plain.device_conf),
        ..plain
    });
    let mut one = client(&daemon);
    assert_eq!(
        one.ask_bare(Command::SetProvisioned).response(),
        Response::CmdOk
    );
    let refused = [
        Command::PullDeviceCsr,
        Command::SetProvisioned,
        Command::WipeDevice,
    ];
    for command in refused {
        assert_eq!(one.ask_bare(command).response(), Response::CmdUnsupported);
    }
    assert_eq!(
        one.ask_bare(Command::GetDeviceStats).code(),
        Code::DeviceStats
    );
    assert_eq!(
        one.ask_bare(Command::ListGuestosConfigs).code(),
        Code::GuestosConfigsList
    );
}

#[test]
fn dates_count_from_the_moment_a_device_is_provisioned() {
    let plain = Setup::default();
    // A device, as far as certificates are concerned. It is never asked for a reboot.
    let device = plain
        .device_conf
        .replace("hostedmode: true", "hostedmode: false");
    let mut daemon = Daemon::new(Setup {
        device_conf: device.replace("signed_configs: false", "signed_configs: true"),
        ..plain
    });
    let conf = daemon.path("web.conf");
    fs::write(
        &conf,
        "name: \"web\"\nguest_os: \"busybox\"\nguestos_version: 1\ntoken_type: NONE\n",
    )
    .unwrap();
    kit().sign(&conf, "ssig_expired");
    let paths = ["conf", "sig", "cert"].map(|end| daemon.path(&format!("web.{end}")));
    let [conf, sig, cert] = paths.each_ref().map(|path| path.to_str().unwrap());
    let create = ["create", conf, sig, cert];
    daemon.control().ok(&create);
    assert_eq!(
        client(&daemon).ask_bare(Command::SetProvisioned).response(),
        Response::CmdOk
    );
    let refused = daemon.control().run(&create);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("not trusted"), "{refused:?}");
    daemon.stop();
    daemon.start();
    assert_eq!(daemon.control().run(&create).status, 1);
}
