#![allow(clippy::unwrap_used, clippy::expect_used)]
use cml_bus::secret::Pin;
use cml_wire::proto::ContainerStartParams;

use super::{fields::DEFAULT_WINDOW, *};

const OPEN: Mode = Mode {
    provisioned: false,
    extended: false,
    privileged: true,
    hosted: false,
};
const UUID: &str = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";

fn message(command: Command) -> ControllerToDaemon {
    ControllerToDaemon {
        command: command.into(),
        container_uuids: vec![UUID.into()],
        ..Default::default()
    }
}

fn exec_message() -> ControllerToDaemon {
    ControllerToDaemon {
        exec_args: vec!["sh".into(), "-c".into()],
        exec_pty: Some(true),
        ..message(Command::ContainerExecCmd)
    }
}

const TARGETED: [Command; 12] = [
    Command::ContainerAllowaudio,
    Command::ContainerDenyaudio,
    Command::ContainerDevAccess,
    Command::RemoveContainer,
    Command::ContainerStart,
    Command::ContainerStop,
    Command::ContainerFreeze,
    Command::ContainerUnfreeze,
    Command::ContainerCmldHandlesPin,
    Command::ContainerExecCmd,
    Command::ContainerExecInput,
    Command::ContainerExecResize,
];

#[test]
fn a_container_command_needs_exactly_one_well_formed_uuid() {
    let wrong: [&[&str]; 4] = [&[], &["core0"], &[UUID, UUID], &["../../../../etc/passwd"]];
    for command in TARGETED {
        for uuids in wrong {
            let mut message = message(command);
            message.container_uuids = uuids.iter().map(ToString::to_string).collect();
            let refused = request(&mut message, OPEN).unwrap_err();
            assert_eq!(refused, Refusal::NoContainer(command), "{uuids:?}");
        }
    }
}

#[test]
fn a_uuid_is_accepted_in_upper_case_and_without_dashes() {
    for text in [UUID.to_uppercase(), UUID.replace('-', "")] {
        let mut message = message(Command::RemoveContainer);
        message.container_uuids = vec![text];
        let Ok(Request::Remove(remove)) = request(&mut message, OPEN) else {
            panic!("refused");
        };
        assert_eq!(remove.id.to_string(), UUID);
    }
}

#[test]
fn the_pin_is_the_key_or_its_default_or_absent() {
    for command in [Command::ContainerStart, Command::ContainerStop] {
        let with = |params| ControllerToDaemon {
            container_start_params: params,
            ..message(command)
        };
        let key = |key: &str| ContainerStartParams {
            key: Some(key.into()),
            ..Default::default()
        };
        let zeros = "0".repeat(128);
        for (params, expected) in [
            (None, None),
            (Some(ContainerStartParams::default()), Some(zeros.as_str())),
            (Some(key("")), Some("")),
            (Some(key("trustme")), Some("trustme")),
        ] {
            let pin = match request(&mut with(params), OPEN) {
                Ok(Request::Start(start)) => start.pin,
                Ok(Request::Stop(stop)) => stop.pin,
                other => panic!("{other:?}"),
            };
            assert_eq!(pin.as_ref().map(Pin::expose), expected);
        }
    }
}

#[test]
fn no_secret_is_left_in_a_message_even_if_it_is_refused() {
    let strict = Mode {
        provisioned: true,
        ..OPEN
    };
    for number in 0..1001 {
        for mode in [OPEN, strict] {
            let mut message = message(Command::ContainerStart);
            message.command = number;
            message.container_start_params = Some(ContainerStartParams {
                key: Some("secret".into()),
                ..Default::default()
            });
            message.device_pin = Some("secret".into());
            message.device_newpin = Some("secret".into());
            message.exec_input = Some(b"secret".to_vec());
            let outcome = request(&mut message, mode);
            assert!(!format!("{message:?}").contains("secret"), "{number}");
            assert!(message.exec_input.is_none());
            if let Ok(Request::Start(_) | Request::Stop(_)) = outcome {
                assert!(!format!("{outcome:?}").contains("secret"), "{number}");
            }
        }
    }
}

#[test]
fn exec_needs_a_terminal_decision_and_words() {
    let refused = |change: fn(&mut ControllerToDaemon)| {
        let mut message = exec_message();
        change(&mut message);
        request(&mut message, OPEN).unwrap_err()
    };
    let command = Command::ContainerExecCmd;
    assert_eq!(
        refused(|message| message.exec_pty = None),
        Refusal::Missing(command, "exec_pty")
    );
    assert_eq!(
        refused(|message| message.exec_args.clear()),
        Refusal::Missing(command, "exec_args")
    );
    assert_eq!(
        refused(|message| message.exec_cols = Some(65_536)),
        Refusal::OutOfRange(command, "exec_cols")
    );
}

#[test]
fn a_terminal_has_the_size_of_the_client_or_the_default() {
    let size = |cols, rows, pty| {
        let mut message = exec_message();
        (message.exec_cols, message.exec_rows) = (cols, rows);
        message.exec_pty = Some(pty);
        match request(&mut message, OPEN) {
            Ok(Request::Exec(request)) => request.exec.terminal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(size(None, None, true), Some(DEFAULT_WINDOW));
    assert_eq!(size(Some(0), Some(0), true), Some(DEFAULT_WINDOW));
    assert_eq!(
        size(Some(132), Some(50), true),
        Some(WindowSize {
            cols: 132,
            rows: 50
        })
    );
    assert_eq!(size(Some(132), Some(50), false), None);
}

#[test]
fn a_resize_needs_both_numbers() {
    let resize = |cols, rows| {
        let mut message = message(Command::ContainerExecResize);
        (message.exec_cols, message.exec_rows) = (cols, rows);
        request(&mut message, OPEN).map(|request| matches!(request, Request::Resize(..)))
    };
    let command = Command::ContainerExecResize;
    assert_eq!(resize(Some(1), Some(65_535)), Ok(true));
    assert_eq!(
        resize(Some(1), None),
        Err(Refusal::Missing(command, "exec_rows"))
    );
    assert_eq!(
        resize(Some(0), Some(1)),
        Err(Refusal::OutOfRange(command, "exec_cols"))
    );
}

#[test]
fn a_signature_counts_only_together_with_its_certificate() {
    for (signature, certificate) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut message = message(Command::CreateContainer);
        message.container_config_file = Some(vec![1]);
        message.container_config_signature = signature.then(|| vec![2]);
        message.container_config_certificate = certificate.then(|| vec![3]);
        let Ok(Request::Create(create)) = request(&mut message, OPEN) else {
            panic!("refused");
        };
        assert_eq!(create.signature.is_some(), signature && certificate);
    }
}

#[test]
fn every_allowed_command_is_served_or_says_that_it_is_not() {
    for number in 0..1200 {
        let mut message = exec_message();
        message.command = number;
        message.container_config_file = Some(vec![]);
        message.device_cert = Some(vec![]);
        message.guestos_config_file = Some(vec![]);
        message.guestos_config_signature = Some(vec![]);
        message.guestos_config_certificate = Some(vec![]);
        message.guestos_rootcert = Some(vec![]);
        message.guestos_name = Some("os".into());
        message.ca_id = Some("id".into());
        message.dev_rule = Some("c 1:3".into());
        message.assign_iface_params = Some(cml_wire::proto::AssignInterfaceParams {
            iface_name: Some("nic0".into()),
            ..Default::default()
        });
        (message.exec_cols, message.exec_rows) = (Some(1), Some(1));
        (message.device_pin, message.device_newpin) = (Some("o".into()), Some("n".into()));
        match (Command::try_from(number), request(&mut message, OPEN)) {
            (Err(_), outcome) => {
                assert_eq!(outcome.unwrap_err(), Refusal::Forbidden(number, OPEN));
            }
            (Ok(command), Err(refused)) => {
                assert_eq!(refused, Refusal::NotServed(command));
            }
            (Ok(_), Ok(_)) => {}
        }
    }
}

#[test]
fn a_refused_command_says_what_is_in_its_way() {
    let reason = |command: i32, mode| {
        let mut message = exec_message();
        message.command = command;
        request(&mut message, mode).unwrap_err().to_string()
    };
    let run = Command::ContainerExecCmd.into();
    let strict = Mode {
        provisioned: true,
        ..OPEN
    };
    let extended = Mode {
        extended: true,
        ..strict
    };
    let guest = Mode {
        privileged: false,
        ..OPEN
    };
    assert_eq!(
        [
            reason(run, strict),
            reason(run, extended),
            reason(run, guest),
            reason(999, strict),
        ],
        [
            "the device is provisioned (profile STRICT): this command is not allowed any more",
            "the device is provisioned (profile EXTENDED): this command is not allowed any more",
            "this command is not allowed on the control socket of a guest",
            "there is no command 999",
        ]
    );
}
