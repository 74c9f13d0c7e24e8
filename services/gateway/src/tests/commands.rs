use std::sync::Arc;

use cml_bus::{
    api::{
        container::{ContainerError, PinNeeds, Started, Stored},
        guestos::{GuestOsError, Installation, Installed},
        token::TokenError,
    },
    error::BusError,
    testing::fake,
};
use cml_wire::proto::{
    CaCertificate, ContainerConfig, ContainerStartParams, ContainerStatus, ContainerTrust,
    ControllerToDaemon, GuestOsConfig, Progress,
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
            _ => Ok(Started::default()),
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
            Ok(Stored {
                id: id(),
                config: ContainerConfig::default(),
                warnings: vec![],
            })
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

fn push(want_progress: Option<bool>) -> ControllerToDaemon {
    ControllerToDaemon {
        guestos_config_file: Some(b"conf".into()),
        guestos_config_signature: Some(b"sig".into()),
        guestos_config_certificate: Some(b"cert".into()),
        want_progress,
        ..bare(Command::PushGuestosConfig)
    }
}

#[test]
fn an_installation_is_started_and_then_completed_or_failed_and_who_asks_can_follow_it() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let (tell, mut running) = tokio::sync::mpsc::unbounded_channel();
        let asked = fake(&rig.guestos.push, move |_| {
            let (end, outcome) = tokio::sync::oneshot::channel();
            let (count, progress) = tokio::sync::watch::channel(Progress::default());
            let _ = tell.send((end, count));
            Ok(Installation { progress, outcome })
        });
        let _ = fake(&rig.guestos.list, |_| Ok(vec![]));
        let failed = GuestOsError::Installing("x".into());
        for (follow, end) in [(None, Ok(())), (Some(true), Err(failed))] {
            let mut client = rig.client();
            let started = client.ask(&push(follow)).await;
            assert_eq!(started.response(), Response::GuestosMgrInstallStarted);
            let (tell_end, count) = running.recv().await.unwrap();
            count.send_modify(|progress| progress.done = 7);
            // Others are served meanwhile.
            let mut other = rig.client();
            let listed = other.ask(&bare(Command::ListGuestosConfigs)).await;
            assert_eq!(listed.code(), Code::GuestosConfigsList);
            if follow.is_some() {
                let waiting = client.reply().await;
                assert_eq!(waiting.response(), Response::GuestosMgrInstallWaiting);
                assert_eq!(waiting.progress.unwrap().done, 7);
            }
            tell_end.send(end.clone()).unwrap();
            let ended = client.reply().await;
            match end {
                Ok(()) => assert_eq!(ended.response(), Response::GuestosMgrInstallCompleted),
                Err(error) => {
                    assert_eq!(ended.response(), Response::GuestosMgrInstallFailed);
                    assert_eq!(ended.error_text(), error.to_string());
                }
            }
            let asked = asked.take().remove(0);
            assert_eq!(
                (asked.config, asked.signature),
                (b"conf".to_vec(), b"sig".to_vec())
            );
        }
        // The service dies over it.
        let mut client = rig.client();
        client.ask(&push(None)).await;
        drop(running.recv().await);
        assert_eq!(
            client.reply().await.response(),
            Response::GuestosMgrInstallFailed
        );
        let incomplete = ControllerToDaemon {
            guestos_config_certificate: None,
            ..push(None)
        };
        let refused = client.ask(&incomplete).await;
        assert_eq!(refused.response(), Response::GuestosMgrInstallFailed);
    });
}

#[test]
fn cas_are_the_token_services_and_guest_oses_in_use_the_container_services() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let registered = fake(&rig.token.register_ca, |ca| match ca.local {
            true => Err(TokenError::BadCa("x".into())),
            false => Ok(()),
        });
        let _ = fake(&rig.token.list_cas, |_| Ok(vec![CaCertificate::default()]));
        let removed = fake(&rig.token.remove_ca, |_| Ok(()));
        let _ = fake(&rig.container.remove_guestos, |remove| {
            Err(ContainerError::GuestOsInUse {
                name: remove.name.clone(),
                users: "`web`".into(),
            })
        });
        let mut client = rig.client();
        let ca = |command| ControllerToDaemon {
            guestos_rootcert: Some(b"pem".into()),
            ..bare(command)
        };
        let reply = client.ask(&ca(Command::RegisterNewca)).await;
        assert_eq!(reply.response(), Response::GuestosMgrRegisterCaOk);
        let reply = client.ask(&ca(Command::RegisterLocalca)).await;
        assert_eq!(reply.response(), Response::GuestosMgrRegisterCaError);
        assert_eq!(registered.take().len(), 2);
        let reply = client.ask(&bare(Command::RegisterNewca)).await;
        assert_eq!(reply.response(), Response::GuestosMgrRegisterCaError);
        let reply = client.ask(&bare(Command::CaList)).await;
        assert_eq!(
            (reply.code(), reply.ca_certificates.len()),
            (Code::CaList, 1)
        );
        let reply = client
            .ask(&ControllerToDaemon {
                ca_id: Some("id".into()),
                ..bare(Command::CaRemove)
            })
            .await;
        assert_eq!(reply.response(), Response::CmdOk);
        assert_eq!(removed.take()[0].id, "id");
        let reply = client
            .ask(&ControllerToDaemon {
                guestos_name: Some("os".into()),
                ..bare(Command::RemoveGuestos)
            })
            .await;
        assert_eq!(reply.response(), Response::CmdFailed);
        assert!(reply.error_text().contains("`web`"));
    });
}
