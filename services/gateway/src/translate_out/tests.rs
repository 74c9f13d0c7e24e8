#![allow(clippy::unwrap_used)]

use cml_bus::{
    api::{
        container::{ContainerError, PinNeeds, Started, Stored},
        guestos::{GuestOsError, Version},
        provisioning::{Outlook, ProvisioningError, Rebooted},
        token::TokenError,
    },
    error::BusError,
    id::ContainerId,
};
use cml_wire::proto::ContainerConfig;

use super::*;

fn text() -> String {
    "x".into()
}

fn tokens() -> Vec<TokenError> {
    vec![
        TokenError::WrongPin,
        TokenError::WrongPinCounted { left: 2 },
        TokenError::LockedTillReboot,
        TokenError::Uninitialised,
        TokenError::Unpaired,
        TokenError::BadNewPin("x"),
        TokenError::Keypad(text()),
        TokenError::KeyLost {
            path: text(),
            reason: text(),
        },
        TokenError::Unusable {
            path: text(),
            reason: text(),
        },
        TokenError::BadCertificate(text()),
        TokenError::BadSignature,
        TokenError::BadCa(text()),
        TokenError::NoSuchCa(text()),
        TokenError::BadRoot {
            path: text(),
            reason: text(),
        },
        TokenError::Identity {
            path: text(),
            reason: text(),
        },
        TokenError::BadDeviceCert(text()),
        TokenError::Bus(BusError::Busy("m")),
    ]
}

/// One of every error, in the order of the contract.
fn errors() -> Vec<ContainerError> {
    let id = ContainerId::CORE0;
    let mut all = vec![
        ContainerError::NotFound(id),
        ContainerError::AlreadyRunning(id),
        ContainerError::StillStopping(id),
        ContainerError::Frozen(id),
        ContainerError::NotRunning(id),
        ContainerError::Zombie(id),
        ContainerError::Damaged { id, reason: text() },
        ContainerError::Protected,
    ];
    all.extend(tokens().into_iter().map(ContainerError::Token));
    all.push(ContainerError::BadConfig(text()));
    all.push(ContainerError::WouldWipe(id));
    all.push(ContainerError::Unusable { id, reason: text() });
    all.push(ContainerError::NoConfig(id));
    all.push(ContainerError::GuestOsInUse {
        name: text(),
        users: text(),
    });
    let mut guestos = vec![
        GuestOsError::BadConfig(text()),
        GuestOsError::Flash {
            target: text(),
            reason: text(),
        },
        GuestOsError::Downgrade {
            name: text(),
            version: 1,
            newest: 2,
        },
        GuestOsError::Installing(text()),
        GuestOsError::Fetch {
            url: text(),
            reason: text(),
        },
        GuestOsError::NoRoom { needed: 2, free: 1 },
        GuestOsError::NotInstalled {
            name: text(),
            version: Version::AtLeast(0),
        },
        GuestOsError::BadImage {
            path: text(),
            reason: text(),
        },
        GuestOsError::Mount {
            path: text(),
            reason: text(),
        },
        GuestOsError::Store {
            path: text(),
            reason: text(),
        },
    ];
    guestos.extend(
        [
            TokenError::BadSignature,
            TokenError::Bus(BusError::Busy("m")),
        ]
        .map(GuestOsError::Token),
    );
    guestos.push(GuestOsError::Bus(BusError::Deadline("m")));
    all.extend(guestos.into_iter().map(ContainerError::GuestOs));
    all.extend([
        ContainerError::Launch { id, reason: text() },
        ContainerError::Exec { id, reason: text() },
        ContainerError::NoProgram { id, name: text() },
        ContainerError::Freeze { id, reason: text() },
        ContainerError::Device { id, reason: text() },
        ContainerError::Store {
            path: text(),
            reason: text(),
        },
        ContainerError::Bus(BusError::ServerDeath("m")),
    ]);
    all
}

fn codes(translate: fn(Result<(), ContainerError>) -> DaemonToController) -> Vec<&'static str> {
    errors()
        .into_iter()
        .map(|error| {
            let reason = error.to_string();
            let reply = translate(Err(error));
            assert_eq!(reply.code(), Code::Response);
            assert_eq!(reply.error_text(), reason);
            reply.response().as_str_name()
        })
        .collect()
}

#[test]
fn every_error_has_its_code_of_start_and_its_code_of_stop() {
    let start = codes(|result| start(result.map(|()| Started::default())));
    let rows = errors().into_iter().zip(start).zip(codes(stop));
    let rows = rows.map(|((error, start), stop)| format!("{error:?}\n    {start}, {stop}\n"));
    insta::assert_snapshot!(rows.collect::<String>());
}

#[test]
fn every_error_of_the_other_commands_is_cmd_failed() {
    assert!(codes(plain).iter().all(|code| *code == "CMD_FAILED"));
}

#[test]
fn a_failed_query_says_why() {
    for error in errors() {
        let reason = error.to_string();
        for reply in [
            status(Err(error.clone())),
            container_list(Err(error.clone())),
            pin_entry(Err(error.clone())),
        ] {
            assert_eq!(reply.response(), Response::CmdFailed);
            assert_eq!(reply.error_text(), reason);
        }
        let reply = configs(Err(error.clone()));
        assert_eq!(reply.error_text(), reason);
        assert!(reply.container_configs.is_empty());
        let reply = created(Err(error));
        assert_eq!(reply.code(), Code::ContainerConfig);
        assert!(reply.container_configs.is_empty() && reply.response.is_none());
        assert_eq!(reply.error_text(), reason);
    }
    let reply = guestos_list(Err(GuestOsError::Bus(BusError::Unbound("m"))));
    assert_eq!(reply.response(), Response::CmdFailed);
}

#[test]
fn exec_that_cannot_run_ends_at_once() {
    for error in errors() {
        let absent = matches!(error, ContainerError::NotFound(_));
        let missing = matches!(error, ContainerError::NoProgram { .. });
        let reply = exec_refused(error);
        if absent {
            assert_eq!(reply.response(), Response::CmdFailed);
        } else {
            assert_eq!(reply.code(), Code::ExecEnd);
            let status = if missing { NO_PROGRAM } else { CANNOT_RUN };
            assert_eq!(reply.exec_status(), status);
        }
        assert!(reply.error_text.is_some());
    }
}

#[test]
fn success_has_the_code_of_its_command() {
    let started = start(Ok(Started::default()));
    assert_eq!(started, response(Response::ContainerStartOk));
    let warned = Started {
        warnings: vec!["no memory controller".into()],
    };
    assert_eq!(start(Ok(warned)).warnings, ["no memory controller"]);
    assert_eq!(stop(Ok(())), response(Response::ContainerStopOk));
    assert_eq!(plain(Ok(())), response(Response::CmdOk));
    let reply = pin_entry(Ok(PinNeeds {
        usb_reader: false,
        required: true,
    }));
    assert_eq!(reply.container_cmld_handles_pin, Some(false));
    assert_eq!(reply.pin_required, Some(true));
    assert_eq!(provisioned(false).device_is_provisioned, Some(false));
    assert_eq!(csr(Ok(vec![1])).device_csr, Some(vec![1]));
    let reply = csr(Err(ProvisioningError::Provisioned));
    assert_eq!((reply.code(), reply.device_csr), (Code::DeviceCsr, None));
    assert_eq!(pushed_cert(Ok(())), response(Response::DeviceCertOk));
    for (error, code) in [
        (
            ProvisioningError::Provisioned,
            Response::DeviceProvisioningError,
        ),
        (
            TokenError::BadDeviceCert(text()).into(),
            Response::DeviceCertError,
        ),
        (BusError::Busy("m").into(), Response::DeviceCertError),
    ] {
        assert_eq!(pushed_cert(Err(error)).response(), code);
    }
    for (machine, then) in [
        (Outlook::GoesDown, "the device reboots"),
        (Outlook::Hosted, "hosted mode"),
        (Outlook::NoMaster, "--device"),
    ] {
        let reply = rebooted(Ok(Rebooted {
            stopped: 2,
            trouble: None,
            machine,
        }));
        assert_eq!(reply.response(), Response::CmdOk);
        assert!(reply.warnings.is_empty());
        let done = reply.done_text();
        assert!(done.starts_with("2 containers were stopped; ") && done.ends_with(then));
    }
    let reply = rebooted(Ok(Rebooted {
        stopped: 0,
        trouble: Some("web did not stop".into()),
        machine: Outlook::GoesDown,
    }));
    assert_eq!(
        reply.done_text(),
        "no container was stopped; the device reboots"
    );
    assert_eq!(reply.warnings, ["web did not stop"]);
    let id = ContainerId::CORE0;
    let reply = created(Ok(Stored {
        id,
        config: ContainerConfig::default(),
        warnings: vec!["so small".into()],
    }));
    assert_eq!(reply.warnings, ["so small"]);
    assert_eq!(reply.container_uuids, [id.to_string()]);
    assert_eq!(reply.container_configs.len(), 1);
}
