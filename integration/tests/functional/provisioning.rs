//! The device as a whole: its identity, provisioned mode, figures, logs, reboot.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command as Program,
};

use cml_integration::{
    Client, Daemon, IDENTITY, Setup, eventually,
    kit::{kit, openssl, run},
    package::Package,
};
use cml_wire::proto::{
    ControllerToDaemon, DaemonToController,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

fn token(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.base().join("tokens").join(name)
}

/// Waits until the device has its identity.
fn identity(daemon: &Daemon) -> [Vec<u8>; 4] {
    eventually("an identity", || {
        token(daemon, "device.cert").exists().then_some(())
    });
    IDENTITY.map(|name| fs::read(token(daemon, name)).unwrap())
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
        device_conf: format!(
            "provisioned_profile: EXTENDED\n{}",
            device.replace("signed_configs: false", "signed_configs: true")
        ),
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
    // A guest OS whose certificate is out of its dates as well.
    let text = fs::read_to_string(daemon.store().join("busybox-1.conf")).unwrap();
    let old = daemon.store().join("old-1.conf");
    fs::write(&old, text.replace("name: \"busybox\"", "name: \"old\"")).unwrap();
    kit().sign(&old, "ssig_expired");
    daemon.add_image("old-1", "root");
    daemon.control().ok(&["reload"]);
    let listed = |daemon: &Daemon| daemon.control().run(&["list_guestos"]).out;
    assert!(listed(&daemon).contains("\"old\""));
    assert_eq!(
        client(&daemon).ask_bare(Command::SetProvisioned).response(),
        Response::CmdOk
    );
    eventually("the guest OS is not trusted any more", || {
        (!listed(&daemon).contains("\"old\"")).then_some(())
    });
    assert!(listed(&daemon).contains("\"busybox\""));
    let refused = daemon.control().run(&create);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("not trusted"), "{refused:?}");
    daemon.stop();
    daemon.start();
    assert_eq!(daemon.control().run(&create).status, 1);
}

#[test]
fn figures_are_those_of_the_machine() {
    let daemon = Daemon::default();
    let text = daemon.control().ok(&["device_stats"]);
    assert!(
        text.out.starts_with("code: DEVICE_STATS\ndevice_stats {\n"),
        "{text:?}"
    );
    let number = |field: &str| text.value(field).parse::<u64>().unwrap();
    let (total, free) = (number("disk_system"), number("disk_system_free"));
    assert_eq!(number("disk_system_used"), total - free);
    let path = daemon.base().display().to_string();
    let df = Program::new("stat")
        .args(["-f", "-c", "%b %S", &path])
        .output()
        .unwrap();
    let df = String::from_utf8(df.stdout).unwrap();
    let mut words = df
        .split_whitespace()
        .map(|word| word.parse::<u64>().unwrap());
    assert_eq!(total, words.next().unwrap() * words.next().unwrap());
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kib = memory
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap();
    assert_eq!(number("mem_total"), kib * 1024);
    assert!(number("mem_available") <= number("mem_total") && number("mem_free") > 0);
    // One disk: the containers have no figures of their own.
    assert!(!text.out.contains("disk_containers"));
    let table = daemon.control().ok(&["--format", "table", "device_stats"]);
    assert!(table.out.contains("system disk") && table.out.contains("memory"));
    let json = daemon.control().ok(&["--format", "json", "device_stats"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["device_stats"]["disk_system"], total);
}

/// Two old log files beside the one that is being written.
fn old_logs(daemon: &Daemon) -> [(&'static str, Vec<u8>); 2] {
    let long = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    let logs = [
        ("cml-daemon.2020-01-01", long),
        ("cml-scd.2020-01-01", b"a\0b\n".to_vec()),
    ];
    for (name, bytes) in &logs {
        fs::write(daemon.path("logs").join(name), bytes).unwrap();
    }
    logs
}

#[test]
fn logs_are_retrieved_byte_by_byte_and_deleted_only_when_asked() {
    let daemon = Daemon::default();
    let logs = old_logs(&daemon);
    let current = fs::read_link(daemon.path("logs/cml-daemon.current")).unwrap();
    let to = daemon.path("retrieved");
    fs::create_dir(&to).unwrap();
    let dir = to.to_str().unwrap();
    for words in [
        &["retrieve_logs", dir][..],
        &["retrieve_logs", dir, "--remove"],
    ] {
        let output = daemon.control().ok(words);
        assert_eq!(output.out, "code: RESPONSE\nresponse: CMD_OK\n");
        for (name, bytes) in &logs {
            assert_eq!(&fs::read(to.join(name)).unwrap(), bytes, "{name}");
            let kept = daemon.path("logs").join(name).exists();
            assert_eq!(kept, words.len() == 2, "{name}");
        }
        let ours = fs::read_to_string(to.join(&current)).unwrap();
        assert!(ours.contains("cmld is ready"));
        let whole = fs::read_to_string(daemon.path("logs").join(&current)).unwrap();
        assert!(whole.starts_with(&ours));
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
    let nowhere = daemon.control().run(&["retrieve_logs", "/nowhere"]);
    assert_eq!(nowhere.status, 1, "{nowhere:?}");
}

#[test]
fn an_old_client_has_its_logs_deleted_when_it_has_read_them_and_not_before() {
    let daemon = Daemon::default();
    let logs = old_logs(&daemon);
    let request = ControllerToDaemon {
        command: Command::GetLastLog.into(),
        remove_logs: Some(true),
        ..Default::default()
    };
    // One that goes away in the middle.
    let mut gone = client(&daemon);
    gone.send(&request);
    assert_eq!(gone.reply().unwrap().code(), Code::LogMessageFragment);
    drop(gone);
    daemon.wait_for_log("connection dropped");
    let there = |name: &str| daemon.path("logs").join(name).exists();
    assert!(logs.iter().all(|(name, _)| there(name)));
    let mut client = client(&daemon);
    client.send(&request);
    let id = String::from_utf8(identity(&daemon)[3].clone()).unwrap();
    let mut received = std::collections::BTreeMap::<String, Vec<u8>>::new();
    let last = loop {
        let reply = client.reply().unwrap();
        if reply.code() == Code::Response {
            break reply;
        }
        assert!(id.contains(reply.device_uuid()));
        let part = reply.log_message.unwrap();
        received.entry(part.name).or_default().extend(part.msg);
    };
    assert_eq!(last.response(), Response::CmdOk);
    for (name, bytes) in logs {
        assert_eq!(received[name], bytes);
        assert!(!there(name));
    }
    // The daemon's own log goes on in its file.
    assert!(there("cml-daemon.current"));
    let reply = client.ask(&ControllerToDaemon {
        remove_logs_named: vec!["../base/tokens/device.key".into()],
        ..request
    });
    assert_eq!(reply.response(), Response::CmdFailed);
    assert!(token(&daemon, "device.key").exists());
}

#[test]
fn a_hosted_daemon_stops_its_containers_for_a_reboot_and_goes_on() {
    let daemon = Daemon::default();
    let uuids = ["one", "two"].map(|name| daemon.running(name, "busybox"));
    daemon.create("name: \"idle\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    daemon.control().ok(&["freeze", "two"]);
    let output = daemon.control().ok(&["--format", "table", "reboot"]);
    assert_eq!(
        output.out,
        "2 containers were stopped; the host is not rebooted, as the daemon runs in hosted mode\n"
    );
    for uuid in &uuids {
        assert_eq!(daemon.state(uuid), "STOPPED");
    }
    let again = daemon.control().ok(&["reboot"]);
    assert_eq!(again.out, "code: RESPONSE\nresponse: CMD_OK\n");
    daemon.control().ok(&["start", "one"]);
    daemon.wait_for("one", "RUNNING");
    daemon.answers("one");
}

#[test]
fn a_daemon_that_may_not_end_its_machine_says_so_and_goes_on() {
    let plain = Setup::default();
    let daemon = Daemon::new(Setup {
        device_conf: plain.device_conf.replace("hostedmode: true\n", ""),
        ..plain
    });
    daemon.wait_for_log("will not be restarted or switched off");
    daemon.running("one", "busybox");
    let output = daemon.control().ok(&["--format", "table", "reboot"]);
    assert_eq!(
        output.out,
        "1 container was stopped; the machine is not rebooted, as its first program has not started cmld with --device\n"
    );
    // Nobody keeps what only the end of the machine would have given back.
    Package::new(&daemon, "busybox", 1, |_| ()).pushed(&daemon);
    daemon.control().ok(&["start", "one"]);
    daemon.wait_for("one", "RUNNING");
    daemon.answers("one");
}

#[test]
fn a_device_without_a_tpm_cannot_be_destroyed_and_says_what_can() {
    let daemon = Daemon::default();
    let output = daemon.control().refused(&["destroy_system"], "CMD_FAILED");
    assert!(
        output.err.contains("no TPM") && output.err.contains("wipe_device"),
        "{output:?}"
    );
}

#[test]
fn a_device_is_provisioned_by_commands() {
    let daemon = Daemon::default();
    let (csr, cert) = (daemon.path("d.csr"), daemon.path("d.cert"));
    let csr_text = csr.to_str().unwrap();
    let pulled = daemon.control().ok(&["pull_csr", csr_text]);
    assert_eq!(pulled.out, "");
    openssl(&["req", "-in", csr_text, "-verify", "-noout"]);
    fs::write(&cert, sign(&daemon, &csr, "ssig_rootca", "30")).unwrap();
    let pushed = daemon.control().ok(&["push_cert", cert.to_str().unwrap()]);
    assert_eq!(pushed.value("response"), "DEVICE_CERT_OK");
    let garbage = daemon
        .control()
        .refused(&["push_cert", csr_text], "DEVICE_CERT_ERROR");
    assert!(garbage.err.contains("PEM"), "{garbage:?}");
    daemon.control().ok(&["set_provisioned"]);
    let state = daemon.control().ok(&["get_provisioned"]);
    assert_eq!(state.value("device_is_provisioned"), "true");
    for refused in [
        &["set_provisioned"][..],
        &["pull_csr", "/nowhere/csr"],
        &["reboot"],
    ] {
        daemon.control().refused(refused, "CMD_UNSUPPORTED");
    }
}
