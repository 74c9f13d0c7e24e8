//! The provisioning actor: decides, and lets others do.

use std::{path::PathBuf, time::Duration};

use cml_bus::{
    actor::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture, spawn},
    api::{
        container::{ContainerPort, StopAll},
        guestos::GuestOsPort,
        provisioning::{
            Destroy, LogStream, Logs, Outlook, ProvisioningError, PullCsr, PushCert, Reboot,
            Rebooted, RemoveLogs, SetProvisioned, Stats,
        },
        token::{DeviceKey, Identify, Identity, InstallCertificate, TokenError, TokenPort},
    },
    audit::Did,
    blocking::Pool,
    error::BusError,
    event::Events,
    provisioned::{Provision, Provisioned},
    supervisor::Watch,
};
use cml_sys::{atomic, power::Power};
use cml_wire::proto::DeviceStats;
use tokio::sync::{mpsc, watch};

use crate::{
    dmi, logs,
    machine::{Descent, Machine, follow_without_right},
    stats,
};

/// Pause before the token service is asked again for an identity, when it could not be reached.
const RETRY: Duration = Duration::from_secs(1);
/// How often.
const TRIES: usize = 30;
/// The answer to the client leaves before the machine goes down.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Parts of log files that wait for a slow client.
const PARTS_AHEAD: usize = 2;

/// What the service needs to know of the device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The storage base.
    pub base: PathBuf,
    /// The directory of log files.
    pub logs: PathBuf,
    /// The file that says that the device is provisioned.
    pub flag: PathBuf,
    /// What a new key of the device is.
    pub key: DeviceKey,
    /// What a reboot is.
    pub machine: Machine,
    /// The device has a TPM, and its configuration wants it used.
    pub tpm: bool,
}

/// The services that this one asks.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Keys and certificates.
    pub token: TokenPort,
    /// To be stopped before a reboot.
    pub container: ContainerPort,
    /// To be finished before a reboot.
    pub guestos: GuestOsPort,
    /// What happens, and who is told.
    pub events: Events,
}

/// The provisioning service.
#[derive(Debug)]
pub struct Provisioning {
    settings: Settings,
    ports: Ports,
    provision: Provision,
    provisioned: Provisioned,
    identity: Identifier,
    /// `None` where the daemon does not end the machine.
    descent: Option<Descent>,
    files: Pool,
    /// Each waits for its client.
    readers: Pool,
    /// What may be deleted.
    read: logs::Read,
    _watch: Watch,
}

impl Provisioning {
    /// Starts the actor on the current arbiter. A device without an identity gets one in the background.
    pub fn start(
        settings: Settings,
        ports: Ports,
        mode: (Provision, Provisioned),
        watch: Watch,
    ) -> Addr<Self> {
        let files = Pool::new("provisioning files", 2);
        let descent = match &settings.machine {
            Machine::Own(end) => Some(Descent::new(
                end.clone(),
                (ports.guestos.clone(), ports.container.clone()),
                files.clone(),
            )),
            Machine::Host | Machine::NoMaster => None,
        };
        Actor::start(Self {
            descent,
            identity: Identifier {
                token: ports.token.clone(),
                files: files.clone(),
                key: settings.key,
                known: watch::Sender::new(None),
            },
            settings,
            ports,
            provision: mode.0,
            provisioned: mode.1,
            files,
            readers: Pool::new("log readers", 8),
            read: logs::Read::default(),
            _watch: watch,
        })
    }

    /// Provisioning mode lasts until the device is provisioned, over restarts (docs/adr/0012).
    fn still_open(&self) -> Result<(), ProvisioningError> {
        match self.provisioned.get() {
            true => Err(ProvisioningError::Provisioned),
            false => Ok(()),
        }
    }
}

/// Asks the token service for the identity of the device.
#[derive(Debug, Clone)]
struct Identifier {
    token: TokenPort,
    files: Pool,
    key: DeviceKey,
    /// The uuid of the device, once it is known.
    known: watch::Sender<Option<String>>,
}

impl Identifier {
    async fn ask(&self) -> Result<Identity, TokenError> {
        let common_name = self.files.run(dmi::common_name).await;
        let wish = Identify {
            common_name: common_name.map_err(BusError::from)?,
            key: self.key,
        };
        let identity = self.token.identify.call(wish).await?;
        self.known.send_replace(Some(identity.uuid.clone()));
        Ok(identity)
    }

    /// Asks until the token service is there.
    async fn insist(self) {
        for _ in 0..TRIES {
            match self.ask().await {
                Ok(identity) => {
                    tracing::info!(uuid = identity.uuid, "the device has its identity");
                    return;
                }
                // It is being started, or started again.
                Err(TokenError::Bus(_)) => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    tracing::error!(%error, "the device has no identity");
                    return;
                }
            }
        }
        tracing::error!("the token service does not answer; the device has no identity yet");
    }
}

impl Actor for Provisioning {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.spawn(self.identity.clone().insist().into_actor(self));
        if let Some(descent) = self.descent.clone() {
            let followed = descent.follow(self.ports.events.clone());
            context.spawn(followed.into_actor(self));
        }
        if let Machine::NoMaster = self.settings.machine {
            tracing::warn!(
                "this is a device (no `hostedmode: true` in device.conf), but its first program has not started cmld \
                 with --device: the machine will not be restarted or switched off"
            );
            let followed = follow_without_right(self.ports.events.clone());
            context.spawn(followed.into_actor(self));
        }
    }
}

impl Handler<PullCsr> for Provisioning {
    type Result = ResponseFuture<Result<Vec<u8>, ProvisioningError>>;

    fn handle(&mut self, _: PullCsr, _: &mut Context<Self>) -> Self::Result {
        let open = self.still_open();
        let identity = self.identity.clone();
        Box::pin(async move {
            open?;
            Ok(identity.ask().await?.csr)
        })
    }
}

impl Handler<PushCert> for Provisioning {
    type Result = ResponseFuture<Result<(), ProvisioningError>>;

    fn handle(&mut self, request: PushCert, _: &mut Context<Self>) -> Self::Result {
        let open = self.still_open();
        let (identity, token) = (self.identity.clone(), self.ports.token.clone());
        let events = self.ports.events.clone();
        let push = async move {
            open?;
            identity.ask().await?;
            let install = InstallCertificate {
                certificate: request.certificate,
            };
            token.install_certificate.call(install).await?;
            tracing::info!("the device has the certificate of a CA");
            Ok(())
        };
        Box::pin(async move {
            let pushed = push.await;
            events.audit(Did::PushCert.here().result(&pushed));
            pushed
        })
    }
}

impl Handler<SetProvisioned> for Provisioning {
    type Result = ResponseFuture<Result<(), ProvisioningError>>;

    /// The flag is on the disk before anybody sees the mode: what was promised once holds after a power cut.
    fn handle(&mut self, _: SetProvisioned, _: &mut Context<Self>) -> Self::Result {
        let (files, flag) = (self.files.clone(), self.settings.flag.clone());
        let (provision, events) = (self.provision.clone(), self.ports.events.clone());
        Box::pin(async move {
            let written = files.run(move || {
                atomic::write(&flag, b"", 0o600).map_err(|error| ProvisioningError::Store {
                    path: flag.display().to_string(),
                    reason: error.source.to_string(),
                })
            });
            let written = written.await.map_err(BusError::from)?;
            events.audit(Did::SetProvisioned.here().result(&written));
            written?;
            provision.set();
            tracing::info!("the device is provisioned from now on");
            Ok(())
        })
    }
}

impl Handler<Reboot> for Provisioning {
    type Result = ResponseFuture<Result<Rebooted, ProvisioningError>>;

    fn handle(&mut self, _: Reboot, _: &mut Context<Self>) -> Self::Result {
        let (container, descent) = (self.ports.container.clone(), self.descent.clone());
        let machine = match &self.settings.machine {
            Machine::Host => Outlook::Hosted,
            Machine::NoMaster => Outlook::NoMaster,
            Machine::Own(_) => Outlook::GoesDown,
        };
        self.ports.events.audit(Did::RebootDevice.here());
        Box::pin(async move {
            tracing::info!("a reboot is asked for; stopping all containers");
            let begun = descent.filter(Descent::begin);
            // core0 goes last, as whoever asks may be in there.
            let all = container.stop_all.call(StopAll { core0: false }).await;
            if let Some(descent) = begun {
                spawn(async move {
                    tokio::time::sleep(LAST_WORDS).await;
                    descent.finish(Power::Restart).await;
                });
            }
            let rebooted = |stopped, trouble| Rebooted {
                stopped,
                trouble,
                machine,
            };
            match all {
                Ok(all) if all.left.is_empty() => Ok(rebooted(all.stopped, None)),
                Ok(all) => {
                    let left: Vec<_> = all.left.iter().map(ToString::to_string).collect();
                    let left = left.join(", ");
                    let trouble = || format!("{left} did not stop in time and may be cut off");
                    match machine {
                        Outlook::GoesDown => Ok(rebooted(all.stopped, Some(trouble()))),
                        Outlook::Hosted | Outlook::NoMaster => {
                            Err(ProvisioningError::StillRunning(left))
                        }
                    }
                }
                Err(error) if machine == Outlook::GoesDown => {
                    let trouble = format!("containers may be cut off: {error}");
                    Ok(rebooted(0, Some(trouble)))
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}

impl Handler<Stats> for Provisioning {
    type Result = ResponseFuture<Result<DeviceStats, ProvisioningError>>;

    fn handle(&mut self, _: Stats, _: &mut Context<Self>) -> Self::Result {
        let (files, base) = (self.files.clone(), self.settings.base.clone());
        Box::pin(async move {
            let measured = files.run(move || stats::of(&base)).await;
            measured.map_err(BusError::from)?
        })
    }
}

impl Handler<Logs> for Provisioning {
    type Result = ResponseFuture<Result<LogStream, ProvisioningError>>;

    fn handle(&mut self, _: Logs, _: &mut Context<Self>) -> Self::Result {
        let (files, readers) = (self.files.clone(), self.readers.clone());
        let read = self.read.clone();
        let (dir, device) = (
            self.settings.logs.clone(),
            self.identity.known.borrow().clone(),
        );
        Box::pin(async move {
            let (to, parts) = mpsc::channel(PARTS_AHEAD);
            let listed = dir.clone();
            let names = files.run(move || logs::names(&listed)).await;
            let names = names.map_err(BusError::from)??;
            spawn(async move {
                if let Err(error) = readers
                    .run(move || logs::send(&dir, names, &to, &read))
                    .await
                {
                    tracing::error!(%error, "log files were not sent");
                }
            });
            Ok(LogStream { device, parts })
        })
    }
}

impl Handler<RemoveLogs> for Provisioning {
    type Result = ResponseFuture<Result<(), ProvisioningError>>;

    fn handle(&mut self, request: RemoveLogs, _: &mut Context<Self>) -> Self::Result {
        let (files, dir) = (self.files.clone(), self.settings.logs.clone());
        let read = self.read.clone();
        Box::pin(async move {
            let removed = files
                .run(move || logs::remove(&dir, &request.names, &read))
                .await;
            removed.map_err(BusError::from)?
        })
    }
}

impl Handler<Destroy> for Provisioning {
    type Result = Result<(), ProvisioningError>;

    fn handle(&mut self, _: Destroy, _: &mut Context<Self>) -> Self::Result {
        let destroyed = Err(ProvisioningError::NoTpm(match self.settings.tpm {
            false => "the device has no TPM in use, so there is nothing to clear",
            true => "clearing the TPM is not available in this version",
        }));
        let note = Did::DestroySystem.here().result(&destroyed);
        self.ports.events.audit(note);
        destroyed
    }
}
