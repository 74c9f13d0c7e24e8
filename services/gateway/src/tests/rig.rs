//! A gateway on an abstract socket and a client for it.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    },
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cml_bus::{
    actor::{Addr, System},
    api::{
        audit::AuditPort, container::ContainerPort, guestos::GuestOsPort,
        provisioning::ProvisioningPort, token::TokenPort,
    },
    audit::Trail,
    event::Events,
    id::ContainerId,
    provisioned::{self, Provision},
    supervisor::{Throttle, supervise},
};
use cml_wire::proto::{ControllerToDaemon, DaemonToController, controller_to_daemon::Command};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::{Admission, Gateway, Mode, Ports};

/// Far longer than anything here takes: turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const OPEN: Mode = Mode {
    provisioned: false,
    extended: false,
    privileged: true,
    hosted: true,
};

/// Runs the test inside an actix system.
pub fn system<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    System::new().block_on(test());
}

pub fn id() -> ContainerId {
    "b51f6038-aa7e-4cc7-b93a-fe187ef218f1".parse().unwrap()
}

/// A supervised gateway.
pub struct Rig {
    address: SocketAddr,
    pub container: ContainerPort,
    pub guestos: GuestOsPort,
    pub token: TokenPort,
    pub provisioning: ProvisioningPort,
    pub audit: AuditPort,
    /// What the gateway has noted.
    pub trail: Trail,
    /// Puts the device into provisioned mode.
    pub provision: Provision,
    /// What happens.
    pub events: Events,
    /// Every actor that was started, the last one is alive.
    pub started: mpsc::UnboundedReceiver<Addr<Gateway>>,
    pub supervisor: JoinHandle<bool>,
}

impl Rig {
    pub fn new(mode: Mode) -> Self {
        Self::with_limit(mode, crate::actor::SESSIONS_MAX)
    }

    pub fn with_limit(mode: Mode, sessions_max: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "cml-gateway-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = StdListener::bind_addr(&address).unwrap();
        let (container, guestos) = (ContainerPort::default(), GuestOsPort::default());
        let token = TokenPort::default();
        let provisioning = ProvisioningPort::default();
        let (audit, trail) = (AuditPort::default(), Trail::open());
        let events = Events::new(trail.clone());
        let (provision, provisioned) = provisioned::mode(mode.provisioned);
        let admission = Admission {
            provisioned,
            extended: mode.extended,
            privileged: mode.privileged,
            hosted: mode.hosted,
            events: events.clone(),
        };
        let ports = Ports {
            provisioning: provisioning.clone(),
            container: container.clone(),
            guestos: guestos.clone(),
            token: token.clone(),
            audit: audit.clone(),
        };
        let told = events.clone();
        let (tell, started) = mpsc::unbounded_channel();
        let throttle = Throttle {
            pause: Duration::from_millis(1),
            ..Throttle::default()
        };
        let supervisor = cml_bus::actor::spawn(async move {
            supervise("gateway", throttle, told, |watch| {
                let listener = listener.try_clone().unwrap();
                let _ = tell.send(Gateway::start_limited(
                    listener,
                    ports.clone(),
                    admission.clone(),
                    watch,
                    sessions_max,
                ));
            })
            .await
            .is_ok()
        });
        Self {
            address,
            container,
            guestos,
            token,
            provisioning,
            audit,
            trail,
            provision,
            events,
            started,
            supervisor,
        }
    }

    pub fn client(&self) -> Client {
        Client::of(StdStream::connect_addr(&self.address).unwrap())
    }
}

/// A peer that speaks the protocol, or not.
pub struct Client {
    pub stream: UnixStream,
}

impl Client {
    pub fn of(stream: StdStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            stream: UnixStream::from_std(stream).unwrap(),
        }
    }

    pub async fn send(&mut self, message: &ControllerToDaemon) {
        self.raw(&framed(message)).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .unwrap()
            .unwrap();
    }

    pub async fn reply(&mut self) -> DaemonToController {
        timeout(PATIENCE, read_reply(&mut self.stream))
            .await
            .unwrap()
    }

    pub async fn ask(&mut self, message: &ControllerToDaemon) -> DaemonToController {
        self.send(message).await;
        self.reply().await
    }

    /// Waits for the daemon to close the connection; it must not say anything before.
    pub async fn closed_without_reply(&mut self) {
        let mut byte = [0];
        match timeout(PATIENCE * 10, self.stream.read(&mut byte))
            .await
            .unwrap()
        {
            Ok(n) => assert_eq!(n, 0, "a reply came"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

pub async fn read_reply(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> DaemonToController {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.unwrap();
    DaemonToController::decode(body.as_slice()).unwrap()
}

pub fn framed(message: &ControllerToDaemon) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// A command without any parameter.
pub fn bare(command: Command) -> ControllerToDaemon {
    ControllerToDaemon {
        command: command.into(),
        ..Default::default()
    }
}

/// A command for the container `id()`.
pub fn targeted(command: Command) -> ControllerToDaemon {
    ControllerToDaemon {
        container_uuids: vec![id().to_string()],
        ..bare(command)
    }
}
