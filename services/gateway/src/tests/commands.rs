use std::sync::Arc;

use cml_bus::{
    api::{
        container::{ContainerError, PinNeeds},
        guestos::Installed,
        token::TokenError,
    },
    error::BusError,
    testing::fake,
};
use cml_wire::proto::{
    ContainerConfig, ContainerStartParams, ContainerStatus, ContainerTrust, ControllerToDaemon,
    GuestOsConfig,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

use super::rig::{OPEN, Rig, bare, framed, id, system, targeted};
use crate::Mode;

fn status() -> ContainerStatus {
    ContainerStatus {
        uuid: id().to_string(),
        ..Default::default()
    }
}

#[test]
fn a_changed_pin_is_asked_of_the_right_service_and_every_refusal_has_one_code() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let of_device = fake(&rig.token.change_pin, |_| Ok(()));
        let of_container = fake(&rig.container.change_pin, |change| {
            match change.old.expose() {
                "right" => Ok(()),
                _ => Err(TokenError::LockedTillReboot.into()),
            }
        });
        let with_pins = |message, old: &str| ControllerToDaemon {
            device_pin: Some(old.into()),
            device_newpin: Some("new".into()),
            ..message
        };
        let mut client = rig.client();
        let device = with_pins(bare(Command::ChangeDevicePin), "old");
        let reply = client.ask(&device).await;
        assert_eq!(reply.response(), Response::ContainerChangePinSuccessful);
        let asked = of_device.take().remove(0);
        assert_eq!((asked.old.expose(), asked.new.expose()), ("old", "new"));
        assert!(asked.holder.is_none());

        let command = || targeted(Command::ContainerChangeTokenPin);
        let reply = client.ask(&with_pins(command(), "right")).await;
        assert_eq!(reply.response(), Response::ContainerChangePinSuccessful);
        let reply = client.ask(&with_pins(command(), "wrong")).await;
        assert_eq!(reply.response(), Response::ContainerChangePinFailed);
        assert_eq!(of_container.take()[0].id, id());
        for incomplete in [command(), bare(Command::ChangeDevicePin)] {
            let reply = client.ask(&incomplete).await;
            assert_eq!(reply.response(), Response::CmdFailed);
        }
        assert!(of_device.take().is_empty());
    });
}

#[test]
fn queries_are_answered_from_one_call() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let asked = fake(&rig.container.status, |_| Ok(vec![status()]));
        let _ = fake(&rig.container.configs, |_| {
            Ok(vec![(id(), ContainerConfig::default())])
        });
        let _ = fake(&rig.guestos.list, |_| {
            Ok(vec![Installed {
                config: Arc::new(GuestOsConfig::default()),
                trust: ContainerTrust::Signed,
            }])
        });
        let mut client = rig.client();

        let reply = client.ask(&bare(Command::GetContainerStatus)).await;
        assert_eq!(
            (reply.code(), reply.container_status.len()),
            (Code::ContainerStatus, 1)
        );
        let reply = client.ask(&targeted(Command::GetContainerStatus)).await;
        assert_eq!(reply.container_status[0].uuid, id().to_string());
        let asked: Vec<_> = asked.take().into_iter().map(|status| status.ids).collect();
        assert_eq!(asked, [vec![], vec![id()]]);

        let reply = client.ask(&bare(Command::ListContainers)).await;
        assert_eq!(
            (reply.code(), reply.container_uuids),
            (Code::ContainersList, vec![id().to_string()])
        );
        let reply = client.ask(&bare(Command::GetContainerConfig)).await;
        assert_eq!(
            (reply.code(), reply.container_uuids),
            (Code::ContainerConfig, vec![id().to_string()])
        );
        assert_eq!(reply.container_configs.len(), 1);
        let reply = client.ask(&bare(Command::ListGuestosConfigs)).await;
        assert_eq!(
            (reply.code(), reply.guestos_configs.len()),
            (Code::GuestosConfigsList, 1)
        );
        let reply = client.ask(&bare(Command::GetProvisioned)).await;
        assert_eq!(reply.device_is_provisioned, Some(false));
    });
}

#[test]
fn naming_only_nonsense_is_not_naming_nothing() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let asked = fake(&rig.container.status, |_| Ok(vec![status()]));
        let mut request = bare(Command::GetContainerStatus);
        request.container_uuids = vec!["../../etc".into()];
        let reply = rig.client().ask(&request).await;
        assert!(reply.container_status.is_empty());
        assert!(asked.take().is_empty());
    });
}

#[test]
fn life_cycle_commands_reach_the_service_and_answer_its_result() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let started = fake(&rig.container.start, |start| match &start.pin {
            Some(pin) if pin.expose() != "right" => Err(TokenError::WrongPin.into()),
            _ => Ok(()),
        });
        let stopped = fake(&rig.container.stop, |stop| {
            Err(ContainerError::NotRunning(stop.id))
        });
        let frozen = fake(&rig.container.set_frozen, |_| Ok(()));
        let _ = fake(&rig.container.remove, |_| Ok(()));
        let _ = fake(&rig.container.reload, |_| Ok(()));
        let _ = fake(&rig.container.pin_entry, |_| {
            Ok(PinNeeds {
                usb_reader: false,
                required: false,
            })
        });
        let created = fake(&rig.container.create, |create| {
            if create.config.is_empty() {
                return Err(ContainerError::BadConfig("it is empty".into()));
            }
            Ok((id(), ContainerConfig::default()))
        });
        let mut client = rig.client();

        let mut start = targeted(Command::ContainerStart);
        assert_eq!(
            client.ask(&start).await.response(),
            Response::ContainerStartOk
        );
        start.container_start_params = Some(ContainerStartParams {
            key: Some("right".into()),
            setup: Some(true),
            ..Default::default()
        });
        assert_eq!(
            client.ask(&start).await.response(),
            Response::ContainerStartOk
        );
        start.container_start_params = Some(ContainerStartParams::default());
        let reply = client.ask(&start).await;
        assert_eq!(reply.response(), Response::ContainerStartPasswdWrong);
        assert_eq!(reply.error_text(), "wrong PIN");
        let started = started.take();
        assert!(started[0].pin.is_none() && !started[0].setup && started[1].setup);
        assert_eq!(started[2].pin.as_ref().unwrap().expose(), "0".repeat(128));

        let reply = client.ask(&targeted(Command::ContainerStop)).await;
        assert_eq!(reply.response(), Response::ContainerStopFailedNotRunning);
        assert_eq!(stopped.take().len(), 1);
        for command in [
            Command::ContainerFreeze,
            Command::ContainerUnfreeze,
            Command::RemoveContainer,
            Command::ReloadContainers,
        ] {
            let reply = client.ask(&targeted(command)).await;
            assert_eq!(reply.response(), Response::CmdOk, "{command:?}");
        }
        let frozen: Vec<_> = frozen.take().iter().map(|request| request.frozen).collect();
        assert_eq!(frozen, [true, false]);
        let reply = client
            .ask(&targeted(Command::ContainerCmldHandlesPin))
            .await;
        assert_eq!(reply.container_cmld_handles_pin, Some(false));
        assert_eq!(reply.pin_required, Some(false));

        let mut create = bare(Command::CreateContainer);
        create.container_config_file = Some(b"name: \"a\"".to_vec());
        create.container_config_signature = Some(vec![1]);
        let reply = client.ask(&create).await;
        assert_eq!(reply.container_uuids, [id().to_string()]);
        create.container_config_certificate = Some(vec![2]);
        client.ask(&create).await;
        let signatures: Vec<_> = created
            .take()
            .iter()
            .map(|c| c.signature.is_some())
            .collect();
        assert_eq!(
            signatures,
            [false, true],
            "a signature counts only with its certificate"
        );
        create.container_config_file = Some(vec![]);
        let reply = client.ask(&create).await;
        assert_eq!(reply.code(), Code::ContainerConfig);
        assert!(reply.container_configs.is_empty());
        assert_eq!(
            reply.error_text(),
            "the configuration is refused: it is empty"
        );
    });
}

#[test]
fn every_command_without_parameters_is_answered_except_exec_input() {
    system(|| async {
        // No service is bound: commands that get that far fail, and say so.
        let rig = Rig::new(OPEN);
        let mut client = rig.client();
        for number in -1..1100 {
            if number == Command::ContainerExecInput as i32 {
                continue;
            }
            client.send(&bare(Command::ContainerExecInput)).await;
            let reply = client
                .ask(&ControllerToDaemon {
                    command: number,
                    ..Default::default()
                })
                .await;
            if Command::try_from(number).is_err() {
                assert_eq!(reply.response(), Response::CmdUnsupported, "{number}");
            }
            assert!(
                reply.error_text.is_some() || reply.code() == Code::DeviceProvisionedState,
                "{number}: {reply:?}"
            );
        }
    });
}

#[test]
fn a_service_that_cannot_be_reached_is_an_error_the_client_sees() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut client = rig.client();
        let reply = client.ask(&targeted(Command::ContainerStart)).await;
        assert_eq!(reply.response(), Response::CmdFailed);
        assert_eq!(
            reply.error_text(),
            BusError::Unbound("container.start").to_string()
        );
    });
}

#[test]
fn a_known_command_that_is_not_served_says_so() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let reply = rig.client().ask(&bare(Command::ContainerSwitch)).await;
        assert_eq!(reply.response(), Response::CmdUnsupported);
        assert_eq!(reply.error_text(), "not available in this version");
    });
}

#[test]
fn provisioned_mode_refuses_before_anything_reaches_a_service() {
    system(|| async {
        let rig = Rig::new(Mode {
            provisioned: true,
            ..OPEN
        });
        let removed = fake(&rig.container.remove, |_| Ok(()));
        let mut client = rig.client();
        let reply = client.ask(&targeted(Command::RemoveContainer)).await;
        assert_eq!(reply.response(), Response::CmdUnsupported);
        assert!(removed.take().is_empty());
        let reply = client.ask(&bare(Command::GetProvisioned)).await;
        assert_eq!(reply.device_is_provisioned, Some(true));
    });
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let _ = fake(&rig.container.status, |_| Ok(vec![]));
        let mut client = rig.client();
        let mut burst = Vec::new();
        for _ in 0..500 {
            burst.extend(framed(&bare(Command::GetContainerStatus)));
            burst.extend(framed(&bare(Command::ListContainers)));
        }
        client.raw(&burst).await;
        for _ in 0..500 {
            assert_eq!(client.reply().await.code(), Code::ContainerStatus);
            assert_eq!(client.reply().await.code(), Code::ContainersList);
        }
    });
}
