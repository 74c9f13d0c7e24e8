//! The goldens are those of wire-samples.md.
#![allow(clippy::unwrap_used)]

use cml_wire::proto::{
    ContainerConfig, ContainerStatus, ContainerTokenType, ContainerTrust, ContainerType,
    ContainerVnetConfig, CryptfsMode, GuestOsConfig, I18nString, daemon_to_controller::Response,
};
use serde_json::{Value, json};

use super::*;

const WORDS: Words<'_> = Words {
    action: "start",
    done: "container c started",
};

const LIST: &str = r#"code: CONTAINER_STATUS
container_status {
  uuid: "b51f6038-aa7e-4cc7-b93a-fe187ef218f1"
  name: "minicontainer"
  type: CONTAINER
  state: STOPPED
  uptime: 0
  created: 1795480601
  guestos: "minios"
  trust_level: SIGNED
  cryptfs_mode: INTEGRITY_ENCRYPT
}
"#;

const CONFIG: &str = r#"code: CONTAINER_CONFIG
container_uuids: "7c93917d-2948-48b1-80cd-f90af18a6cc3"
container_configs {
  name: "softcontainer"
  guest_os: "minios"
  guestos_version: 1
  color: 0
  type: CONTAINER
  vnet_configs {
    if_name: "host0"
    configure: true
    if_mac: "6e:41:99:d5:5b:ee"
  }
  token_type: SOFT
}
"#;

const TABLE: Format = Format::Table { width: None };

fn bare(code: Code) -> DaemonToController {
    DaemonToController {
        code: code.into(),
        ..Default::default()
    }
}

fn response(response: Response, text: Option<&str>) -> DaemonToController {
    DaemonToController {
        response: Some(response.into()),
        error_text: text.map(Into::into),
        ..bare(Code::Response)
    }
}

fn status() -> ContainerStatus {
    ContainerStatus {
        uuid: "b51f6038-aa7e-4cc7-b93a-fe187ef218f1".into(),
        name: "minicontainer".into(),
        r#type: ContainerType::Container.into(),
        state: ContainerState::Stopped.into(),
        uptime: 0,
        created: 1_795_480_601,
        guestos: "minios".into(),
        trust_level: ContainerTrust::Signed.into(),
        cryptfs_mode: CryptfsMode::IntegrityEncrypt.into(),
        audio: None,
        last_end: None,
        damage: None,
    }
}

fn list() -> DaemonToController {
    DaemonToController {
        container_status: vec![status()],
        ..bare(Code::ContainerStatus)
    }
}

#[test]
fn what_keeps_a_container_from_being_used_is_told_wherever_it_is_shown() {
    let mut reply = list();
    reply.container_status[0].damage = Some("line 1\u{1b}".into());
    let says = "minicontainer: its configuration cannot be used: line 1\\u{1b}\n";
    for action in ["list", "state"] {
        let words = Words { action, done: "" };
        let table = Format::Table { width: None };
        let shown = super::reply(table, &reply, Code::ContainerStatus, words).out;
        assert!(shown.ends_with(says), "{shown}");
    }
    let words = Words {
        action: "list",
        done: "",
    };
    let shown = |format| super::reply(format, &reply, Code::ContainerStatus, words).out;
    assert!(shown(Format::Json).contains("\"damage\": \"line 1"));
    assert!(!shown(Format::Text).contains("damage"));
}

fn config() -> DaemonToController {
    DaemonToController {
        container_uuids: vec!["7c93917d-2948-48b1-80cd-f90af18a6cc3".into()],
        container_configs: vec![ContainerConfig {
            name: "softcontainer".into(),
            guest_os: "minios".into(),
            guestos_version: Some(1),
            color: 0,
            r#type: ContainerType::Container.into(),
            vnet_configs: vec![ContainerVnetConfig {
                if_name: "host0".into(),
                configure: true,
                if_mac: Some("6e:41:99:d5:5b:ee".into()),
                ..Default::default()
            }],
            token_type: ContainerTokenType::Soft.into(),
            ..Default::default()
        }],
        ..bare(Code::ContainerConfig)
    }
}

fn show(format: Format, message: &DaemonToController, expected: Code) -> (String, String, u8) {
    let Shown {
        out, err, status, ..
    } = reply(format, message, expected, WORDS);
    (out, err, status)
}

fn json_of(message: &DaemonToController, expected: Code) -> Value {
    let (out, err, _) = show(Format::Json, message, expected);
    assert_eq!(err, "");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn text_is_that_of_the_old_client() {
    let good = |message: &DaemonToController, code, text: &str| {
        let shown = show(Format::Text, message, code);
        assert_eq!(shown, (text.to_owned(), String::new(), 0));
    };
    good(&list(), Code::ContainerStatus, LIST);
    good(
        &bare(Code::ContainerStatus),
        Code::ContainerStatus,
        "code: CONTAINER_STATUS\n",
    );
    good(&config(), Code::ContainerConfig, CONFIG);
    good(
        &response(Response::ContainerStartOk, None),
        Code::Response,
        "code: RESPONSE\nresponse: CONTAINER_START_OK\n",
    );
    let provisioned = DaemonToController {
        device_is_provisioned: Some(false),
        ..bare(Code::DeviceProvisionedState)
    };
    good(
        &provisioned,
        Code::DeviceProvisionedState,
        "code: DEVICE_PROVISIONED_STATE\ndevice_is_provisioned: false\n",
    );
}

#[test]
fn text_of_a_failure_is_the_old_one_and_the_reason_goes_to_stderr() {
    let reply = response(
        Response::ContainerStartTokenUnpaired,
        Some("pair it\x1b[2J"),
    );
    let (out, err, status) = show(Format::Text, &reply, Code::Response);
    assert_eq!(
        out,
        "code: RESPONSE\nresponse: CONTAINER_START_TOKEN_UNPAIRED\n"
    );
    assert_eq!(
        err,
        "start failed: pair it\\u{1b}[2J (CONTAINER_START_TOKEN_UNPAIRED)"
    );
    assert_eq!(status, 1);

    let (out, err, status) = show(
        Format::Text,
        &bare(Code::ContainerConfig),
        Code::ContainerConfig,
    );
    assert_eq!(out, "code: CONTAINER_CONFIG\n");
    assert!(err.starts_with("start failed: ") && !err.contains("uuids"));
    assert_eq!(status, 1);
}

#[test]
fn text_has_none_of_our_own_fields() {
    let reply = DaemonToController {
        error_text: Some("x".into()),
        exec_status: Some(1),
        exec_stderr: Some(vec![1]),
        pin_required: Some(true),
        ..response(Response::CmdOk, None)
    };
    let (out, ..) = show(Format::Text, &reply, Code::Response);
    assert_eq!(out, "code: RESPONSE\nresponse: CMD_OK\n");
}

#[test]
fn a_response_without_a_code_prints_nothing_and_fails() {
    let (out, _, status) = show(Format::Text, &bare(Code::Response), Code::Response);
    assert_eq!((out.as_str(), status), ("", 1));
}

#[test]
fn state_8_has_its_documented_name_everywhere_but_in_text() {
    let mut reply = list();
    reply.container_status[0].state = 8;
    let (text, ..) = show(Format::Text, &reply, Code::ContainerStatus);
    assert!(text.contains("state: SHUTDOWN\n"));
    let (table, ..) = show(TABLE, &reply, Code::ContainerStatus);
    assert!(table.contains(" SHUTTING_DOWN "));
    let json = json_of(&reply, Code::ContainerStatus);
    assert_eq!(json["containers"][0]["state"], "SHUTTING_DOWN");
}

#[test]
fn the_table_of_containers_is_aligned() {
    let mut reply = list();
    reply.container_status.push(ContainerStatus {
        name: "a\x1bb".into(),
        state: ContainerState::Running.into(),
        uptime: 3723,
        ..status()
    });
    let (table, ..) = show(TABLE, &reply, Code::ContainerStatus);
    assert_eq!(
        table,
        "\
NAME           STATE    UPTIME  GUESTOS  TRUST   UUID
minicontainer  STOPPED  -       minios   SIGNED  b51f6038-aa7e-4cc7-b93a-fe187ef218f1
a\\u{1b}b       RUNNING  1h 2m   minios   SIGNED  b51f6038-aa7e-4cc7-b93a-fe187ef218f1
"
    );
    let none = show(TABLE, &bare(Code::ContainerStatus), Code::ContainerStatus);
    assert_eq!(none.0, "no containers\n");
}

#[test]
fn people_read_sentences() {
    let ok = show(
        TABLE,
        &response(Response::ContainerStartOk, None),
        Code::Response,
    );
    assert_eq!(ok, ("container c started\n".into(), String::new(), 0));
    let wrong = response(Response::ContainerStartPasswdWrong, None);
    assert_eq!(
        show(TABLE, &wrong, Code::Response),
        (
            String::new(),
            "start failed: wrong PIN or passphrase (CONTAINER_START_PASSWD_WRONG)".into(),
            1
        )
    );
    let words = Words {
        action: "create",
        done: "created",
    };
    let created = super::reply(TABLE, &config(), Code::ContainerConfig, words);
    assert_eq!(
        created.out,
        "container softcontainer created: 7c93917d-2948-48b1-80cd-f90af18a6cc3\n"
    );
}

#[test]
fn a_configuration_for_people_can_be_sent_back() {
    let words = Words {
        action: "config",
        done: "",
    };
    let shown = super::reply(TABLE, &config(), Code::ContainerConfig, words);
    assert!(
        shown
            .out
            .starts_with("name: \"softcontainer\"\nguest_os: \"minios\"\n")
    );
}

#[test]
fn json_says_whether_it_went_well() {
    assert_eq!(
        json_of(&response(Response::CmdOk, None), Code::Response),
        json!({"ok": true, "code": "RESPONSE", "response": "CMD_OK"})
    );
    assert_eq!(
        json_of(
            &response(Response::CmdFailed, Some("disk full")),
            Code::Response
        ),
        json!({
            "ok": false, "code": "RESPONSE", "response": "CMD_FAILED",
            "error": "disk full (CMD_FAILED)"
        })
    );
    let none: Value = serde_json::from_str(&no_reply("no daemon")).unwrap();
    assert_eq!(none, json!({"ok": false, "error": "no daemon"}));
}

#[test]
fn json_carries_every_field_of_a_status() {
    assert_eq!(
        json_of(&list(), Code::ContainerStatus),
        json!({"ok": true, "code": "CONTAINER_STATUS", "containers": [{
            "uuid": "b51f6038-aa7e-4cc7-b93a-fe187ef218f1",
            "name": "minicontainer",
            "type": "CONTAINER",
            "state": "STOPPED",
            "uptime": 0,
            "created": 1_795_480_601,
            "guestos": "minios",
            "trust_level": "SIGNED",
            "cryptfs_mode": "INTEGRITY_ENCRYPT",
        }]})
    );
}

#[test]
fn json_of_a_configuration_leaves_out_what_was_not_sent() {
    let json = json_of(&config(), Code::ContainerConfig);
    let config = &json["configs"][0]["config"];
    assert_eq!(
        json["configs"][0]["uuid"],
        "7c93917d-2948-48b1-80cd-f90af18a6cc3"
    );
    assert_eq!(config["vnet_configs"][0]["if_mac"], "6e:41:99:d5:5b:ee");
    assert_eq!(config["token_type"], "SOFT");
    assert_eq!(config.get("dns_server"), None);
    assert_eq!(config["fifos"], json!([]));
}

#[test]
fn guest_operating_systems_have_a_table_and_json() {
    let reply = DaemonToController {
        guestos_configs: vec![GuestOsConfig {
            name: "minios".into(),
            hardware: "x86".into(),
            version: 3,
            description: I18nString {
                en: "small".into(),
                ..Default::default()
            },
            ..Default::default()
        }],
        ..bare(Code::GuestosConfigsList)
    };
    let (table, ..) = show(TABLE, &reply, Code::GuestosConfigsList);
    assert_eq!(
        table,
        "\
NAME    VERSION  HARDWARE  MOUNTS  DESCRIPTION
minios  3        x86       0       small
"
    );
    let json = json_of(&reply, Code::GuestosConfigsList);
    assert_eq!(json["guestos"][0]["description"], json!({"en": "small"}));
    let (text, ..) = show(Format::Text, &reply, Code::GuestosConfigsList);
    // Scripts read the version from the second line after the name (protocol.md 5.1).
    assert!(text.contains("  name: \"minios\"\n  hardware: \"x86\"\n  version: 3\n"));
}
