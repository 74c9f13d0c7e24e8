//! The service between fakes of those that it asks.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use cml_bus::{
    actor::{System, spawn},
    api::{
        container::{ContainerError, ContainerPort, StoppedAll},
        guestos::{GuestOsPort, Settle, Settled},
        provisioning::{
            Destroy, LogItem, Logs, Outlook, ProvisioningError, ProvisioningPort, PullCsr,
            PushCert, Reboot, RemoveLogs, SetProvisioned,
        },
        token::{DeviceKey, Identify, Identity, TokenError, TokenPort},
    },
    error::BusError,
    event::{Event, Events},
    id::ContainerId,
    provisioned::{self, Provisioned},
    supervisor::{Throttle, supervise},
    testing::{Recorded, fake},
};

use cml_sys::power::Power;

use crate::{EndMachine, Machine, Ports, Provisioning, Settings};

struct Rig {
    port: ProvisioningPort,
    token: TokenPort,
    container: ContainerPort,
    identified: Recorded<Identify>,
    settled: Recorded<Settle>,
    /// Somebody has it besides the test while nobody may write outside the store.
    kept: Arc<()>,
    mode: Provisioned,
    events: Events,
}

fn with_service(dir: &Path, machine: Machine, test: impl AsyncFnOnce(Rig)) {
    let events = Events::default();
    let settings = Settings {
        base: dir.to_owned(),
        logs: dir.join("logs"),
        flag: dir.join("flag"),
        key: DeviceKey::P256,
        machine,
        tpm: false,
    };
    System::new().block_on(async move {
        let told = events.clone();
        let (token, container) = (TokenPort::default(), ContainerPort::default());
        let guestos = GuestOsPort::default();
        let kept = Arc::new(());
        let lent = kept.clone();
        let settled = fake(&guestos.settle, move |_| Ok(Settled::new(lent.clone())));
        let identified = fake(&token.identify, |_| {
            Ok(Identity {
                uuid: "u".into(),
                csr: b"csr".to_vec(),
            })
        });
        let _ = fake(&token.install_certificate, |install| {
            match install.certificate.as_slice() {
                b"good" => Ok(()),
                _ => Err(TokenError::BadDeviceCert("bad".into())),
            }
        });
        let port = ProvisioningPort::default();
        let ports = Ports {
            token: token.clone(),
            container: container.clone(),
            guestos: guestos.clone(),
            events: told.clone(),
        };
        let mode = provisioned::mode(false);
        let seen = mode.1.clone();
        let bound = port.clone();
        spawn(async move {
            let start = |watch| {
                let (settings, ports) = (settings.clone(), ports.clone());
                bound.bind(&Provisioning::start(settings, ports, mode.clone(), watch));
            };
            let _ = supervise(
                "provisioning",
                Throttle::default(),
                Events::default(),
                start,
            )
            .await;
        });
        tokio::task::yield_now().await;
        test(Rig {
            port,
            token,
            container,
            identified,
            settled,
            kept,
            mode: seen,
            events,
        })
        .await;
    });
}

#[test]
fn the_identity_is_made_at_the_start_and_can_be_changed_until_the_device_is_provisioned() {
    let dir = tempfile::tempdir().unwrap();
    with_service(dir.path(), Machine::Host, async |rig| {
        while rig.identified.take().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let port = &rig.port;
        assert_eq!(port.pull_csr.call(PullCsr).await.unwrap(), b"csr");
        let push = |bytes: &[u8]| PushCert {
            certificate: bytes.to_vec(),
        };
        port.push_cert.call(push(b"good")).await.unwrap();
        let refused = port.push_cert.call(push(b"garbage")).await.unwrap_err();
        assert!(matches!(refused, ProvisioningError::Token(_)));

        assert!(!rig.mode.get());
        port.set_provisioned.call(SetProvisioned).await.unwrap();
        assert!(rig.mode.get() && dir.path().join("flag").exists());
        let late = port.pull_csr.call(PullCsr).await.unwrap_err();
        assert_eq!(late, ProvisioningError::Provisioned);
        let late = port.push_cert.call(push(b"good")).await.unwrap_err();
        assert_eq!(late, ProvisioningError::Provisioned);
        port.set_provisioned.call(SetProvisioned).await.unwrap();
    });
}

#[test]
fn a_flag_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".flag.new")).unwrap();
    with_service(dir.path(), Machine::Host, async |rig| {
        let error = rig.port.set_provisioned.call(SetProvisioned).await;
        assert!(error.unwrap_err().to_string().contains("flag"));
        assert!(!rig.mode.get());
    });
}

#[test]
fn an_identity_that_cannot_be_made_is_an_error_of_the_commands_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    with_service(dir.path(), Machine::Host, async |rig| {
        let _ = fake(&rig.token.identify, |_| {
            Err(TokenError::Identity {
                path: "device.key".into(),
                reason: "x".into(),
            })
        });
        let error = rig.port.pull_csr.call(PullCsr).await.unwrap_err();
        assert!(error.to_string().contains("device.key"));
        let error = rig.port.destroy.call(Destroy).await.unwrap_err();
        assert!(error.to_string().contains("no TPM"), "{error}");
    });
}

#[test]
fn a_reboot_stops_containers_and_reboots_only_a_machine_of_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let stopped = |left| {
        move |_: &_| {
            Ok(StoppedAll {
                stopped: 2,
                left: vec![ContainerId::CORE0; left],
            })
        }
    };
    with_service(dir.path(), Machine::Host, async |rig| {
        let _ = fake(&rig.container.stop_all, stopped(0));
        let done = rig.port.reboot.call(Reboot).await.unwrap();
        assert_eq!((done.stopped, done.machine), (2, Outlook::Hosted));
        let _ = fake(&rig.container.stop_all, stopped(1));
        let error = rig.port.reboot.call(Reboot).await.unwrap_err();
        assert!(matches!(error, ProvisioningError::StillRunning(_)));
    });
    let (machine, ends) = own_machine();
    with_service(dir.path(), machine, async |rig| {
        let halted = fake(&rig.container.stop_all, stopped(1));
        let done = rig.port.reboot.call(Reboot).await.unwrap();
        assert_eq!(done.machine, Outlook::GoesDown);
        assert!(ends.lock().unwrap().is_empty(), "the answer comes first");
        // core0 ends on the way: that is no second reason.
        rig.events.publish(Event::Core0Ended);
        while ends.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*ends.lock().unwrap(), [Power::Restart]);
        let order: Vec<_> = halted.take().iter().map(|stop| stop.core0).collect();
        assert_eq!(order, [false, false, true], "core0 goes last");
        assert_eq!(rig.settled.take().len(), 1, "nothing is half written");
    });
}

#[test]
fn a_reboot_that_goes_on_without_some_containers_says_so_and_is_no_failure() {
    for answer in [
        Ok(StoppedAll {
            stopped: 2,
            left: vec![ContainerId::CORE0],
        }),
        Err(ContainerError::Bus(BusError::Busy("container"))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (machine, ends) = own_machine();
        with_service(dir.path(), machine, async |rig| {
            let _ = fake(&rig.container.stop_all, move |_: &_| answer.clone());
            let done = rig.port.reboot.call(Reboot).await.unwrap();
            assert_eq!(done.machine, Outlook::GoesDown);
            assert!(done.trouble.is_some());
            while ends.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(*ends.lock().unwrap(), [Power::Restart]);
        });
    }
}

#[test]
fn a_device_whose_core0_has_ended_is_switched_off_and_a_host_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let none = |_: &_| {
        Ok(StoppedAll {
            stopped: 0,
            left: vec![],
        })
    };
    let (machine, ends) = own_machine();
    with_service(dir.path(), machine, async |rig| {
        let _ = fake(&rig.container.stop_all, none);
        rig.events.publish(Event::Core0Ended);
        while ends.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*ends.lock().unwrap(), [Power::Off]);
    });
    with_service(dir.path(), Machine::Host, async |rig| {
        let halted = fake(&rig.container.stop_all, none);
        rig.events.publish(Event::Core0Ended);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(halted.take().is_empty());
    });
}

#[test]
fn a_machine_that_cannot_be_ended_lets_others_write_again() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let end = move |_| {
        tell.send(()).unwrap();
        Err(cml_sys::Error::invalid("end", "the machine", "refused"))
    };
    let machine = Machine::Own(EndMachine::new(end));
    with_service(dir.path(), machine, async |rig| {
        let kept = rig.kept.clone();
        let free = Arc::strong_count(&kept);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = seen.clone();
        let _ = fake(&rig.container.stop_all, move |_| {
            note.lock().unwrap().push(Arc::strong_count(&kept) > free);
            Ok(StoppedAll {
                stopped: 1,
                left: vec![],
            })
        });
        rig.events.publish(Event::Core0Ended);
        while told.try_recv().is_err() || Arc::strong_count(&rig.kept) > free {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(
            *seen.lock().unwrap(),
            [true, true],
            "nobody wrote meanwhile"
        );
        // And the next attempt is one.
        rig.events.publish(Event::Core0Ended);
        while told.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_daemon_that_is_not_the_master_of_the_machine_stops_containers_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    with_service(dir.path(), Machine::NoMaster, async |rig| {
        let halted = fake(&rig.container.stop_all, |_| {
            Ok(StoppedAll {
                stopped: 2,
                left: vec![],
            })
        });
        let done = rig.port.reboot.call(Reboot).await.unwrap();
        assert_eq!((done.stopped, done.machine), (2, Outlook::NoMaster));
        let order: Vec<_> = halted.take().iter().map(|stop| stop.core0).collect();
        assert_eq!(order, [false], "core0 could not be started again");
        rig.events.publish(Event::Core0Ended);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(halted.take().is_empty() && rig.settled.take().is_empty());
    });
}

/// A machine that only notes how it was ended.
fn own_machine() -> (Machine, Arc<Mutex<Vec<Power>>>) {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let noted = ends.clone();
    let end = move |power| {
        noted.lock().unwrap().push(power);
        Ok(())
    };
    (Machine::Own(EndMachine::new(end)), ends)
}

#[test]
fn logs_are_read_while_somebody_listens_and_deleted_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("logs/a");
    fs::create_dir(dir.path().join("logs")).unwrap();
    fs::write(&log, vec![1; 3 << 20]).unwrap();
    with_service(dir.path(), Machine::Host, async |rig| {
        drop(rig.port.logs.call(Logs).await.unwrap());
        let mut stream = rig.port.logs.call(Logs).await.unwrap();
        let mut length = 0;
        while let Some(LogItem::Part(part)) = stream.parts.recv().await {
            length += part.data.len();
            assert_eq!(part.last, length == 3 << 20);
        }
        assert_eq!(length, 3 << 20);
        let names = vec!["a".to_owned()];
        let remove = rig.port.remove_logs.call(RemoveLogs { names });
        remove.await.unwrap();
        assert!(!log.exists());
    });
}
