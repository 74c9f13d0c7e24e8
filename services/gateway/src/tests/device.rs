//! Commands about the device as a whole.

use cml_bus::{
    api::{
        container::ExecSession,
        provisioning::{LogItem, LogPart, LogStream, ProvisioningError},
    },
    testing::fake,
};
use cml_wire::proto::{
    ControllerToDaemon, DeviceStats,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};
use tokio::sync::mpsc;

use super::rig::{OPEN, Rig, bare, system, targeted};
use crate::Mode;

fn exec() -> ControllerToDaemon {
    ControllerToDaemon {
        exec_pty: Some(false),
        exec_args: vec!["sh".into()],
        ..targeted(Command::ContainerExecCmd)
    }
}

#[test]
fn each_command_reaches_the_service_and_has_the_code_of_its_own() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let _ = fake(&rig.provisioning.pull_csr, |_| Ok(b"csr".to_vec()));
        let pushed = fake(&rig.provisioning.push_cert, |_| Ok(()));
        let _ = fake(&rig.provisioning.stats, |_| {
            Ok(DeviceStats {
                disk_system: 7,
                ..Default::default()
            })
        });
        let _ = fake(&rig.provisioning.destroy, |_| {
            Err(ProvisioningError::NoTpm("no TPM"))
        });
        let mut client = rig.client();
        let reply = client.ask(&bare(Command::PullDeviceCsr)).await;
        assert_eq!(
            (reply.code(), reply.device_csr()),
            (Code::DeviceCsr, &b"csr"[..])
        );
        let mut push = bare(Command::PushDeviceCert);
        let reply = client.ask(&push).await;
        assert_eq!(reply.response(), Response::DeviceCertError);
        push.device_cert = Some(b"cert".to_vec());
        let reply = client.ask(&push).await;
        assert_eq!(reply.response(), Response::DeviceCertOk);
        assert_eq!(pushed.take()[0].certificate, b"cert");
        let reply = client.ask(&bare(Command::GetDeviceStats)).await;
        assert_eq!(reply.code(), Code::DeviceStats);
        assert_eq!(reply.device_stats.unwrap().disk_system, 7);
        let reply = client.ask(&bare(Command::DestroySystem)).await;
        assert_eq!(reply.response(), Response::CmdFailed);
        assert!(reply.error_text().contains("no TPM"));
    });
}

#[test]
fn provisioned_mode_holds_at_once_on_every_connection_and_for_what_waits() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let (_keep, output) = mpsc::channel(1);
        let session = std::sync::Mutex::new(Some(ExecSession {
            input: mpsc::channel(1).0,
            output,
        }));
        let _ = fake(&rig.container.exec, move |_| {
            Ok(session.lock().unwrap().take().unwrap())
        });
        let reloads = fake(&rig.container.reload, |_| Ok(()));
        let provision = rig.provision.clone();
        let _ = fake(&rig.provisioning.set_provisioned, move |_| {
            provision.set();
            Ok(())
        });
        let (mut one, mut other) = (rig.client(), rig.client());
        // A command runs, and behind it something waits that is still allowed.
        other.send(&exec()).await;
        other.send(&bare(Command::ReloadContainers)).await;
        assert_eq!(
            one.ask(&bare(Command::ReloadContainers)).await.response(),
            Response::CmdOk
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let reply = one.ask(&bare(Command::SetProvisioned)).await;
        assert_eq!(reply.response(), Response::CmdOk);
        let ended = other.reply().await;
        assert_eq!(ended.code(), Code::ExecEnd);
        assert!(ended.error_text().contains("provisioned"));
        assert_eq!(other.reply().await.response(), Response::CmdUnsupported);
        for client in [&mut one, &mut other, &mut rig.client()] {
            for command in [Command::ReloadContainers, Command::SetProvisioned] {
                let reply = client.ask(&bare(command)).await;
                assert_eq!(reply.response(), Response::CmdUnsupported);
            }
            let reply = client.ask(&bare(Command::GetProvisioned)).await;
            assert_eq!(reply.device_is_provisioned, Some(true));
        }
        assert_eq!(reloads.take().len(), 1);
    });
}

#[test]
fn the_extended_profile_keeps_its_commands() {
    system(|| async {
        let rig = Rig::new(Mode {
            extended: true,
            ..OPEN
        });
        let _ = fake(&rig.provisioning.stats, |_| Ok(DeviceStats::default()));
        rig.provision.set();
        let mut client = rig.client();
        let reply = client.ask(&bare(Command::GetDeviceStats)).await;
        assert_eq!(reply.code(), Code::DeviceStats);
        let reply = client.ask(&bare(Command::PullDeviceCsr)).await;
        assert_eq!(reply.response(), Response::CmdUnsupported);
    });
}

/// A log of one file in two parts and an empty one.
fn with_logs(rig: &Rig) {
    let _ = fake(&rig.provisioning.logs, |_| {
        let (to, parts) = mpsc::channel(8);
        for (data, last) in [(b"ab".to_vec(), false), (b"c\0".to_vec(), true)] {
            let name = "cml".to_owned();
            let part = LogPart { name, data, last };
            to.try_send(LogItem::Part(part)).unwrap();
        }
        for name in ["cml", "empty"] {
            to.try_send(LogItem::Done(name.into())).unwrap();
        }
        Ok(LogStream {
            device: Some("u".into()),
            parts,
        })
    });
}

#[test]
fn logs_come_in_parts_and_are_deleted_only_for_a_client_that_is_still_there() {
    system(|| async {
        let rig = Rig::new(OPEN);
        with_logs(&rig);
        let removed = fake(&rig.provisioning.remove_logs, |_| Ok(()));
        let mut client = rig.client();
        let mut request = bare(Command::GetLastLog);
        for remove in [None, Some(true)] {
            request.remove_logs = remove;
            client.send(&request).await;
            let first = client.reply().await;
            assert_eq!(first.code(), Code::LogMessageFragment);
            assert_eq!(first.device_uuid(), "u");
            assert_eq!(first.log_message.unwrap().msg, b"ab");
            let last = client.reply().await;
            assert_eq!(last.code(), Code::LogMessageFinal);
            assert_eq!(last.log_message.unwrap().msg, b"c\0");
            assert_eq!(client.reply().await.response(), Response::CmdOk);
            let names: Vec<_> = removed.take().into_iter().map(|one| one.names).collect();
            match remove {
                None => assert!(names.is_empty()),
                Some(_) => assert_eq!(names, [["cml", "empty"]]),
            }
        }
        request.remove_logs_named = vec!["cml".into()];
        assert_eq!(client.ask(&request).await.response(), Response::CmdOk);
        assert_eq!(removed.take()[0].names, ["cml"]);

        // One that hangs up without reading keeps its logs on the device.
        request.remove_logs_named.clear();
        client.send(&request).await;
        drop(client);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(removed.take().is_empty());
    });
}

#[test]
fn no_log_at_all_is_a_failure() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let _ = fake(&rig.provisioning.logs, |_| {
            Ok(LogStream {
                device: None,
                parts: mpsc::channel(1).1,
            })
        });
        let reply = rig.client().ask(&bare(Command::GetLastLog)).await;
        assert_eq!(reply.response(), Response::CmdFailed);
        assert_eq!(reply.error_text(), "there is no log file");
    });
}
