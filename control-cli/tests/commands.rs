//! Commands against a daemon that answers recorded frames (wire-samples.md).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process,
};

use cml_wire::proto::{
    ContainerConfig, DaemonToController, LogMessage,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};
use common::{Daemon, UUID, bare, control, response, status_list, text};

#[test]
fn list_sends_and_shows_the_recorded_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 6];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&[0, 0, 0, 2, 8, 3]).unwrap();
        request
    });
    let output = control()
        .env("CML_SOCKET", &socket)
        .arg("LIST")
        .output()
        .unwrap();
    assert_eq!(daemon.join().unwrap(), [0, 0, 0, 2, 8, 3]);
    assert_eq!(text(&output.stdout), "code: CONTAINER_STATUS\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn check_explains_every_mistake_and_asks_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.conf"), dir.path().join("bad.conf"));
    fs::write(&good, "name: \"web\"\nguest_os: \"busybox\"\n").unwrap();
    fs::write(&bad, "nme: \"web\"\nguest_os: \"../x\"\ncolor: red\n").unwrap();
    let check = |file| {
        let mut command = control();
        command.env("CML_SOCKET", "/nonexistent").arg("check");
        command.arg(file).output().unwrap()
    };
    let output = check(&good);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("container, no mistakes\n"));
    let output = check(&bad);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    for place in [
        "bad.conf:1:1: ",
        "bad.conf:2:11: ",
        "bad.conf:3:8: ",
        "bad.conf:4:1: ",
    ] {
        assert!(shown.contains(place), "{shown}");
    }
}

#[test]
fn an_unknown_container_is_said_in_the_words_scripts_know() {
    let daemon = Daemon::start(|peer| peer.resolve());
    let output = daemon.run(&["remove", "other", "--key=pw"], b"");
    assert_eq!(
        text(&output.stderr),
        "control: there is no container `other`; `control list` shows those that there are\n\
         Container with provided uuid/name does not exist!\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_refused_look_up_is_said() {
    let daemon = Daemon::start(|peer| {
        peer.expect(Command::GetContainerStatus);
        peer.send(&response(Response::CmdUnsupported));
    });
    let output = daemon.run(&["freeze", "c"], b"");
    assert!(text(&output.stderr).contains("CMD_UNSUPPORTED"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn stop_need_not_wait_for_the_end() {
    let daemon = Daemon::start(|peer| {
        peer.resolve();
        peer.expect(Command::ContainerCmldHandlesPin);
        peer.send(&DaemonToController {
            pin_required: Some(false),
            ..bare(Code::ContainerCmldHandlesPin)
        });
        peer.expect(Command::ContainerStop);
        peer.send(&response(Response::ContainerStopOk));
        assert_eq!(peer.next(), None);
    });
    let output = daemon.run(&["--format", "table", "stop", "c", "--no-wait"], b"");
    assert_eq!(text(&output.stdout), "container c is stopping\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn of_several_with_a_name_scripts_get_the_first_and_a_warning() {
    let other = "b51f6038-0000-4cc7-b93a-fe187ef218f1";
    let twice = move || {
        let mut twice = status_list();
        let mut second = twice.container_status[0].clone();
        second.uuid = other.into();
        twice.container_status.push(second);
        twice
    };
    let daemon = Daemon::start(move |peer| {
        peer.expect(Command::GetContainerStatus);
        peer.send(&twice());
        let request = peer.expect(Command::ContainerFreeze);
        assert_eq!(request.container_uuids, [UUID]);
        peer.send(&response(Response::CmdOk));
    });
    let output = daemon.run(&["freeze", "c"], b"");
    assert!(text(&output.stderr).contains("warning: 2 containers are called `c`"));
    assert_eq!(output.status.code(), Some(0));
    // What only begins like several is nobody's name.
    let daemon = Daemon::start(move |peer| {
        peer.expect(Command::GetContainerStatus);
        peer.send(&twice());
        assert_eq!(peer.next(), None);
    });
    let output = daemon.run(&["freeze", "b51f6038"], b"");
    let said = text(&output.stderr);
    assert!(said.contains(UUID) && said.contains(other), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn errors_name_the_container_as_the_operator_did() {
    for (word, named) in [
        ("c", "container c is frozen".to_owned()),
        ("b51f6038", format!("container c ({UUID}) is frozen")),
    ] {
        let daemon = Daemon::start(|peer| {
            peer.resolve();
            peer.expect(Command::ContainerFreeze);
            peer.send(&DaemonToController {
                error_text: Some(format!("container {UUID} is frozen")),
                ..response(Response::CmdFailed)
            });
        });
        let output = daemon.run(&["freeze", word], b"");
        let said = text(&output.stderr);
        assert_eq!(
            said,
            format!("control: freeze failed: {named} (CMD_FAILED)\n")
        );
    }
}

#[test]
fn wrong_usage_is_a_document_where_one_is_wanted() {
    for words in [["--format", "json", "lst"], ["lst", "--format=json", "x"]] {
        let output = control().args(words).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(output.status.code(), Some(2));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn state_asks_about_units_too() {
    let daemon = Daemon::start(|peer| {
        let look_up = peer.expect(Command::GetContainerStatus);
        assert_eq!(look_up.system_services, Some(true));
        peer.send(&status_list());
        assert_eq!(
            peer.expect(Command::GetContainerStatus).container_uuids,
            [UUID]
        );
        peer.send(&status_list());
    });
    let output = daemon.run(&["state", "c"], b"");
    assert!(text(&output.stdout).contains("  state: STOPPED\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn create_sends_the_files_and_fails_without_a_configuration_in_the_reply() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["conf", "sig", "cert"] {
        fs::write(path(name), name).unwrap();
    }
    for good in [true, false] {
        let daemon = Daemon::start(move |peer| {
            let request = peer.expect(Command::CreateContainer);
            assert_eq!(request.container_config_file.as_deref(), Some(&b"conf"[..]));
            assert_eq!(
                request.container_config_signature.as_deref(),
                Some(&b"sig"[..])
            );
            assert_eq!(
                request.container_config_certificate.as_deref(),
                Some(&b"cert"[..])
            );
            let mut reply = bare(Code::ContainerConfig);
            if good {
                reply.container_uuids.push(UUID.into());
                reply.container_configs.push(ContainerConfig::default());
            }
            peer.send(&reply);
        });
        let output = daemon.run(&["create", &path("conf"), &path("sig"), &path("cert")], b"");
        assert_eq!(text(&output.stdout).contains("guest_os"), good);
        let all = [output.stdout, output.stderr].concat();
        assert_eq!(text(&all).contains("uuids"), good);
        assert_eq!(output.status.code(), Some(i32::from(!good)));
    }
}

#[test]
fn files_are_read_before_the_daemon_is_asked() {
    let output = control()
        .args(["-s", "/nonexistent/socket", "create", "/nonexistent/conf"])
        .output()
        .unwrap();
    assert!(text(&output.stderr).starts_with("control: cannot read /nonexistent/conf: "));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_missing_daemon_is_status_125() {
    let output = control()
        .args(["-s", "/nonexistent/s", "list"])
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert!(
        error.starts_with("control: cannot reach cmld at /nonexistent/s: "),
        "{error}"
    );
    assert!(error.ends_with("; is it running?\n"), "{error}");
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn who_may_not_ask_is_told_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    // Without the capability that lets root pass.
    let client = control().get_program().to_owned();
    let mut command = process::Command::new(&client);
    if rustix::process::geteuid().is_root() {
        command = process::Command::new("setpriv");
        command
            .args(["--bounding-set=-all", "--inh-caps=-all"])
            .arg(client);
    }
    let output = command.arg("-s").arg(&socket).arg("list").output().unwrap();
    assert!(text(&output.stderr).contains("group cml-control"));
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn a_daemon_that_goes_away_is_status_125() {
    let daemon = Daemon::start(|peer| {
        peer.next();
    });
    let output = daemon.run(&["list"], b"");
    assert!(text(&output.stderr).contains("closed the connection"));
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn wrong_usage_is_status_2_and_names_what_was_expected() {
    let output = control().args(["start"]).output().unwrap();
    assert!(text(&output.stderr).contains("<CONTAINER>"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn help_names_every_command_and_completions_exist() {
    let output = control().arg("--help").output().unwrap();
    let help = text(&output.stdout);
    for word in [
        "list",
        "list_guestos",
        "create",
        "remove",
        "start",
        "stop",
        "state",
        "config",
        "reload",
        "run",
        "freeze",
        "unfreeze",
        "get_provisioned",
        "CML_SOCKET",
        "125",
    ] {
        assert!(help.contains(word), "{word}");
    }
    assert_eq!(output.status.code(), Some(0));
    let output = control().args(["completions", "bash"]).output().unwrap();
    assert!(text(&output.stdout).contains("list_guestos"));
}

fn log_part(name: &str, bytes: &[u8], code: Code) -> DaemonToController {
    DaemonToController {
        log_message: Some(LogMessage {
            name: name.into(),
            msg: bytes.to_vec(),
        }),
        ..bare(code)
    }
}

#[test]
fn log_files_are_on_the_disk_before_the_daemon_may_delete_them() {
    let dir = tempfile::tempdir().unwrap();
    let stored = dir.path().join("cml");
    let seen = stored.clone();
    let daemon = Daemon::start(move |peer| {
        let request = peer.expect(Command::GetLastLog);
        assert_eq!(request.remove_logs, None);
        peer.send(&log_part("cml", b"a\0", Code::LogMessageFragment));
        peer.send(&log_part("cml", b"b", Code::LogMessageFinal));
        peer.send(&response(Response::CmdOk));
        let request = peer.expect(Command::GetLastLog);
        assert_eq!(request.remove_logs, Some(true));
        assert_eq!(request.remove_logs_named, ["cml"]);
        assert_eq!(fs::read(&seen).unwrap(), b"a\0b");
        peer.send(&response(Response::CmdOk));
    });
    let words = ["retrieve_logs", dir.path().to_str().unwrap(), "-r"];
    let output = daemon.run(&words, b"");
    assert_eq!(text(&output.stdout), "code: RESPONSE\nresponse: CMD_OK\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read(stored).unwrap(), b"a\0b");
}

#[test]
fn a_daemon_cannot_choose_where_its_logs_are_written() {
    for name in ["../evil", "/tmp/evil", ".evil", "", "a/b"] {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(move |peer| {
            peer.expect(Command::GetLastLog);
            peer.send(&log_part(name, b"x", Code::LogMessageFinal));
            assert!(peer.next().is_none(), "nothing is asked to be deleted");
        });
        let words = ["retrieve_logs", dir.path().to_str().unwrap(), "--remove"];
        let output = daemon.run(&words, b"");
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(text(&output.stderr).contains("not stored"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_request_goes_into_its_file_and_its_absence_has_the_old_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("device.csr");
    let words = ["pull_csr", file.to_str().unwrap()];
    for csr in [None, Some(b"csr".to_vec())] {
        let good = csr.is_some();
        let daemon = Daemon::start(move |peer| {
            peer.expect(Command::PullDeviceCsr);
            peer.send(&DaemonToController {
                device_csr: csr,
                ..bare(Code::DeviceCsr)
            });
        });
        let output = daemon.run(&words, b"");
        assert_eq!(output.status.code(), Some(i32::from(!good)));
        assert_eq!(file.exists(), good);
        let complains = text(&output.stderr).contains("DEVICE_CSR_ERROR");
        assert_eq!(complains, !good);
    }
    assert_eq!(fs::read(file).unwrap(), b"csr");
}

#[test]
fn push_waits_for_the_end_and_shows_only_that_on_standard_output() {
    let files = tempfile::tempdir().unwrap();
    let path = |suffix: &str| {
        let path = files.path().join(format!("os-1.{suffix}"));
        fs::write(&path, suffix).unwrap();
        path.display().to_string()
    };
    let words = ["conf", "sig", "cert"].map(path);
    for (end, status) in [
        (Response::GuestosMgrInstallCompleted, 0),
        (Response::GuestosMgrInstallFailed, 1),
    ] {
        let daemon = Daemon::start(move |peer| {
            let request = peer.expect(Command::PushGuestosConfig);
            assert_eq!(request.guestos_config_file.as_deref(), Some(&b"conf"[..]));
            assert_eq!(
                request.guestos_config_signature.as_deref(),
                Some(&b"sig"[..])
            );
            assert_eq!(
                request.guestos_config_certificate.as_deref(),
                Some(&b"cert"[..])
            );
            // Nobody looks at a terminal here.
            assert_eq!(request.want_progress, None);
            peer.send(&response(Response::GuestosMgrInstallStarted));
            peer.send(&response(end));
        });
        let words = ["push_guestos_config", &words[0], &words[1], &words[2]];
        let output = daemon.run(&words, b"");
        assert_eq!(output.status.code(), Some(status));
        let shown = format!("code: RESPONSE\nresponse: {}\n", end.as_str_name());
        assert_eq!(text(&output.stdout), shown);
        assert!(text(&output.stderr).contains("has begun"));
    }
}
