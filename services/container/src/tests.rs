//! The service against fake neighbours: any message goes in, what it sends is recorded (bus::testing).
#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::Arc, time::Duration};

use cml_bus::{
    actor::{Addr, System, spawn},
    api::{
        audit::AuditPort,
        container::{
            Configs, ContainerError, ContainerPort, Create, PinEntry, PinNeeds, Reload, Remove,
            Shutdown, Signature, Start, Status, Stop,
        },
        guestos::{Find, GuestOsError, GuestOsPort, Installed, Resolve, Version},
        network::{NetworkPort, VirtualInterface},
        token::{TokenError, TokenPort, Unlock, VerifySignature},
    },
    audit::{Did, Trail},
    event::Events,
    id::ContainerId,
    secret::Pin,
    supervisor::{Throttle, supervise},
    testing::{Recorded, fake},
};
use cml_wire::proto::{ContainerState, ContainerTrust, GuestOsConfig};
use tokio::sync::{Notify, mpsc};

use crate::{Defaults, Env, Manager, Policy, Settings, manager::Panic};

struct Rig {
    port: ContainerPort,
    guestos: GuestOsPort,
    trail: Trail,
    manager: Addr<Manager>,
    started: mpsc::UnboundedReceiver<Addr<Manager>>,
    unlocks: Recorded<Unlock>,
    signatures: Recorded<VerifySignature>,
    finds: Recorded<Find>,
    resolves: Recorded<Resolve>,
}

fn not_installed(name: &str) -> GuestOsError {
    GuestOsError::NotInstalled {
        name: name.into(),
        version: Version::AtLeast(0),
    }
}

impl Rig {
    /// A service whose token opens with `right` and trusts what is signed with the byte 1, and whose only
    /// guest OS is `os` in version 7 and cannot be resolved.
    async fn new(dir: &Path, signed_configs: bool) -> Self {
        let trail = Trail::open();
        let (token, guestos) = (TokenPort::default(), GuestOsPort::default());
        let unlocks = fake(&token.unlock, |unlock| match unlock.pin.expose() {
            "right" => Ok(()),
            _ => Err(TokenError::WrongPin),
        });
        fake(&token.forget, |_| Ok(()));
        let signatures = fake(&token.verify_signature, |verify| {
            match verify.signature.as_slice() {
                [1] => Ok(ContainerTrust::Signed),
                [2] => Ok(ContainerTrust::LocallySigned),
                _ => Err(TokenError::BadSignature),
            }
        });
        let finds = fake(&guestos.find, |find| match find.name.as_str() {
            "os" => Ok(Installed {
                config: Arc::new(GuestOsConfig {
                    name: "os".into(),
                    version: 7,
                    ..Default::default()
                }),
                trust: ContainerTrust::Signed,
            }),
            other => Err(not_installed(other)),
        });
        fake(&guestos.rescan, |_| Ok(()));
        let resolves = fake(&guestos.resolve, |resolve| {
            Err(not_installed(&resolve.name))
        });
        let network = NetworkPort::default();
        fake(&network.forget, |_| Ok(()));
        fake(&network.detach, |_| Ok(()));
        fake(&network.virtual_interfaces, |request| {
            let all = request.configured.iter().cloned();
            let known = |config| VirtualInterface {
                config,
                host_name: None,
            };
            Ok(all.map(known).collect())
        });
        // Any file will do: nothing is launched here.
        let init = dir.join("init");
        std::fs::write(&init, "").unwrap();
        let settings = Settings {
            mounts: dir.join("mounts"),
            volumes: Policy {
                allow_fscrypt: false,
                reserve: 0,
            },
            base: dir.join("base"),
            run: dir.join("run"),
            init,
            signed_configs,
            host_dns: String::new(),
            fifos: dir.join("fifos"),
            limits: Defaults::default(),
            dev: "/dev".into(),
            sys: "/sys".into(),
            core0: None,
        };
        let env = Env::open(
            settings,
            token,
            guestos.clone(),
            AuditPort::default(),
            network,
            Events::new(trail.clone()),
        )
        .unwrap();
        let port = ContainerPort::default();
        let bound = port.clone();
        let (tell, mut started) = mpsc::unbounded_channel();
        spawn(async move {
            let start = |watch| {
                let manager = Manager::start(env.clone(), watch);
                bound.bind(&manager);
                let _ = tell.send(manager);
            };
            let throttle = Throttle {
                pause: Duration::from_millis(1),
                ..Throttle::default()
            };
            let _ = supervise("container", throttle, Events::default(), start).await;
        });
        Self {
            port,
            guestos,
            trail,
            manager: started.recv().await.unwrap(),
            started,
            unlocks,
            signatures,
            finds,
            resolves,
        }
    }

    async fn create(&self, config: &str) -> Result<ContainerId, ContainerError> {
        self.create_signed(config, None).await
    }

    async fn create_signed(
        &self,
        config: &str,
        signature: Option<u8>,
    ) -> Result<ContainerId, ContainerError> {
        let create = Create {
            config: config.into(),
            signature: signature.map(|byte| Signature {
                signature: vec![byte],
                certificate: vec![],
            }),
        };
        Ok(self.port.create.call(create).await?.id)
    }

    async fn start(&self, id: ContainerId, pin: Option<&str>) -> Result<(), ContainerError> {
        let pin = pin.map(|pin| Pin::new(pin.into()));
        let setup = false;
        let started = self.port.start.call(Start { id, pin, setup }).await;
        started.map(|_| ())
    }

    async fn states(&self) -> Vec<ContainerState> {
        let all = self.port.status.call(Status { ids: vec![] }).await.unwrap();
        all.iter().map(|status| status.state()).collect()
    }
}

fn with_rig(signed_configs: bool, test: impl AsyncFnOnce(Rig)) {
    let dir = tempfile::tempdir().unwrap();
    System::new().block_on(async {
        test(Rig::new(dir.path(), signed_configs).await).await;
    });
}

#[test]
fn a_new_container_gets_the_newest_guest_os_and_is_listed_and_configured() {
    with_rig(false, async |rig| {
        let id = rig
            .create("name: \"x\"\nguest_os: \"os\"\nguestos_version: 3\n")
            .await
            .unwrap();
        let find = rig.finds.take().remove(0);
        assert_eq!(
            (find.name.as_str(), find.version),
            ("os", Version::AtLeast(3))
        );
        assert_eq!(rig.states().await, [ContainerState::Stopped]);
        let configs = rig
            .port
            .configs
            .call(Configs { ids: vec![id] })
            .await
            .unwrap();
        assert_eq!(configs[0].1.guestos_version, Some(7));
        assert!(
            rig.signatures.take().is_empty(),
            "nobody asked for signatures"
        );
    });
}

#[test]
fn what_is_verified_is_exactly_what_was_sent_and_only_full_trust_counts() {
    with_rig(true, async |rig| {
        let config = "name: \"x\"\nguest_os: \"os\"\nguestos_version: 7\n";
        let bad = |outcome| matches!(outcome, Err(ContainerError::BadConfig(_)));
        assert!(bad(rig.create(config).await));
        assert!(bad(rig.create_signed(config, Some(2)).await));
        let refused = rig.create_signed(config, Some(3)).await;
        assert_eq!(refused, Err(TokenError::BadSignature.into()));
        rig.create_signed(config, Some(1)).await.unwrap();
        for verified in rig.signatures.take() {
            assert_eq!(verified.data, config.as_bytes());
        }
        let find = rig.finds.take().pop().unwrap();
        assert_eq!(find.version, Version::Exactly(7));
        assert_eq!(rig.states().await.len(), 1);
    });
}

#[test]
fn the_pin_is_asked_of_the_token_before_anything_is_launched() {
    with_rig(false, async |rig| {
        let id = rig.create("name: \"x\"\nguest_os: \"os\"\n").await.unwrap();
        assert_eq!(
            rig.start(id, Some("wrong")).await,
            Err(TokenError::WrongPin.into())
        );
        assert!(rig.resolves.take().is_empty());
        let failed = rig.start(id, Some("right")).await;
        assert_eq!(failed, Err(not_installed("os").into()));
        assert_eq!(rig.resolves.take().len(), 1);
        let asked = rig.unlocks.take();
        assert!(asked.iter().all(|unlock| unlock.holder.container == id) && asked.len() == 2);
        assert_eq!(rig.states().await, [ContainerState::Stopped]);
        let noted: Vec<_> = rig.trail.take().map(|note| note.did()).collect();
        // The PIN is the token's to tell; both starts have failed.
        assert_eq!(noted, [Did::Create, Did::Start, Did::Start]);
        let stop = Stop { id, pin: None };
        assert_eq!(
            rig.port.stop.call(stop).await,
            Err(ContainerError::NotRunning(id))
        );
        assert!(
            rig.unlocks.take().is_empty(),
            "no PIN is looked at for nothing"
        );
    });
}

#[test]
fn without_a_token_nobody_is_asked_and_the_client_is_told_so() {
    with_rig(false, async |rig| {
        let id = rig
            .create("name: \"x\"\nguest_os: \"os\"\ntoken_type: NONE\n")
            .await
            .unwrap();
        let _ = rig.start(id, Some("anything")).await;
        assert!(rig.unlocks.take().is_empty());
        let needs = rig.port.pin_entry.call(PinEntry { id }).await.unwrap();
        let expected = PinNeeds {
            usb_reader: false,
            required: false,
        };
        assert_eq!(needs, expected);
    });
}

#[test]
fn core0_and_strangers_are_told_apart() {
    with_rig(false, async |rig| {
        let id = ContainerId::CORE0;
        assert_eq!(rig.start(id, None).await, Err(ContainerError::Protected));
        assert_eq!(
            rig.port.remove.call(Remove { id }).await,
            Err(ContainerError::Protected)
        );
        let id = ContainerId::random();
        assert_eq!(rig.start(id, None).await, Err(ContainerError::NotFound(id)));
        assert_eq!(
            rig.port.remove.call(Remove { id }).await,
            Err(ContainerError::NotFound(id))
        );
    });
}

#[test]
fn a_panic_of_the_service_costs_one_call_and_no_container() {
    with_rig(false, async |mut rig| {
        let id = rig.create("name: \"x\"\nguest_os: \"os\"\n").await.unwrap();
        rig.port.reload.call(Reload).await.unwrap();
        assert!(rig.manager.send(Panic).await.is_err(), "the call is lost");
        let restarted = tokio::time::timeout(Duration::from_secs(20), rig.started.recv()).await;
        assert!(restarted.unwrap().is_some());
        assert_eq!(rig.states().await, [ContainerState::Stopped]);
        assert_eq!(
            rig.start(id, Some("wrong")).await,
            Err(TokenError::WrongPin.into())
        );
        rig.port.remove.call(Remove { id }).await.unwrap();
        assert!(rig.states().await.is_empty());
    });
}

#[test]
fn a_daemon_that_ends_while_it_starts_containers_has_the_next_one_start_them() {
    let dir = tempfile::tempdir().unwrap();
    System::new().block_on(async {
        let mut rig = Rig::new(dir.path(), false).await;
        let wanted = "name: \"x\"\nguest_os: \"os\"\ntoken_type: NONE\nallow_autostart: true\n";
        rig.create(wanted).await.unwrap();
        let mark = dir.path().join("run/autostarted");
        while !mark.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::fs::remove_file(&mark).unwrap();
        // The start hangs until somebody lets it fail.
        let (asked, fail) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (asked.clone(), fail.clone());
        rig.guestos.resolve.bind_fn(move |_| {
            let (tell, wait) = (tell.clone(), wait.clone());
            async move {
                tell.notify_one();
                wait.notified().await;
                Err(not_installed("os"))
            }
        });
        assert!(rig.manager.send(Panic).await.is_err());
        rig.started.recv().await.unwrap();
        asked.notified().await;
        let end = async {
            // It is closed when the halt waits for the start.
            tokio::time::sleep(Duration::from_millis(50)).await;
            fail.notify_one();
        };
        let (ended, ()) = tokio::join!(rig.port.shutdown.call(Shutdown), end);
        ended.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!mark.exists());
    });
}
