//! Who gets which port. Nothing else knows all services, and nothing is decided here but that.

use std::{
    cell::RefCell,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use actix::Addr;
use cml_audit::Audit;
use cml_bus::{
    actor::spawn,
    api::{
        audit::AuditPort,
        container::{ContainerError, ContainerPort},
        guestos::GuestOsPort,
        network::NetworkPort,
        provisioning::ProvisioningPort,
        token::{DeviceKey, TokenPort},
    },
    audit::{Did, Trail},
    event::Events,
    order::{Level, UphillCall, Wiring},
    provisioned,
    supervisor::{CrashLoop, Throttle, Watch, supervise},
};
use cml_container::{Env, Manager};
use cml_gateway::{Admission, Gateway};
use cml_guestos::GuestOs;
use cml_network::Network;
use cml_provisioning::{EndMachine, Machine, Provisioning};
use cml_sys::{
    net::{namespace::Namespace, pin::Place},
    power::Master,
};
use cml_token::{Token, softtoken::Format};
use cml_wire::proto::device_config::{DeviceKeyType, SoftTokenFormat, StorageFallback};
use tokio::sync::mpsc;

use crate::device::{Device, PROVISIONED_FLAG};

/// Either of them is there when the machine has a TPM (crypto.md 4.1).
const TPM: [&str; 2] = ["/dev/tpm0", "/dev/tpmrm0"];
/// Where `ip netns` looks for networks (runtime.md 4.1).
const NETWORKS: &str = "/run/netns";

/// Where things lie.
#[derive(Debug)]
pub struct Places {
    /// Everything durable.
    pub base: PathBuf,
    /// Log files.
    pub logs: PathBuf,
    /// The audit log.
    pub audit: PathBuf,
    /// A directory of ours that means nothing after a reboot.
    pub run: PathBuf,
    /// An empty directory for the mounts of images.
    pub mounts: PathBuf,
    /// The program that becomes every container.
    pub init: PathBuf,
    /// The network of the host.
    pub network: Arc<Namespace>,
    /// The mounts of the host, which outlive the daemon.
    pub host_mounts: Arc<Place>,
    /// Where the host's ends of pipes into containers are.
    pub fifos: PathBuf,
    /// Whether the machine may be ended.
    pub master: Master,
}

/// The services cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Two services would wait for each other.
    #[error(transparent)]
    Uphill(#[from] UphillCall),
    /// The container service found the machine unfit.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

/// The services, one port each, before anybody is behind them.
#[derive(Debug, Default)]
struct Ports {
    audit: AuditPort,
    token: TokenPort,
    guestos: GuestOsPort,
    network: NetworkPort,
    container: ContainerPort,
    provisioning: ProvisioningPort,
}

/// The ports as they are handed out.
#[derive(Debug)]
struct Handed {
    guestos_token: TokenPort,
    container_token: TokenPort,
    container_guestos: GuestOsPort,
    container_audit: AuditPort,
    container_network: NetworkPort,
    provisioning: cml_provisioning::Ports,
    gateway: cml_gateway::Ports,
}

/// The one place that says who may call whom.
fn hand_out(ports: &Ports, events: &Events) -> Result<(Handed, Wiring), UphillCall> {
    let mut wiring = Wiring::default();
    let handed = Handed {
        gateway: cml_gateway::Ports {
            container: wiring.grant(Level::Gateway, Level::Container, &ports.container)?,
            guestos: wiring.grant(Level::Gateway, Level::GuestOs, &ports.guestos)?,
            token: wiring.grant(Level::Gateway, Level::Token, &ports.token)?,
            provisioning: wiring.grant(Level::Gateway, Level::Provisioning, &ports.provisioning)?,
            audit: wiring.grant(Level::Gateway, Level::Audit, &ports.audit)?,
        },
        provisioning: cml_provisioning::Ports {
            container: wiring.grant(Level::Provisioning, Level::Container, &ports.container)?,
            guestos: wiring.grant(Level::Provisioning, Level::GuestOs, &ports.guestos)?,
            token: wiring.grant(Level::Provisioning, Level::Token, &ports.token)?,
            events: events.clone(),
        },
        container_guestos: wiring.grant(Level::Container, Level::GuestOs, &ports.guestos)?,
        container_audit: wiring.grant(Level::Container, Level::Audit, &ports.audit)?,
        container_network: wiring.grant(Level::Container, Level::Network, &ports.network)?,
        container_token: wiring.grant(Level::Container, Level::Token, &ports.token)?,
        guestos_token: wiring.grant(Level::GuestOs, Level::Token, &ports.token)?,
    };
    Ok((handed, wiring))
}

/// The services at work.
#[derive(Debug)]
pub struct Services {
    /// For the orderly end.
    pub container: ContainerPort,
    /// The same.
    pub guestos: GuestOsPort,
    /// For what is noted last.
    pub audit: AuditPort,
    /// The same.
    pub events: Events,
    /// The gateway that serves now.
    pub gateway: Rc<RefCell<Option<Addr<Gateway>>>>,
    /// A service that died too often; the process should end.
    pub fatal: mpsc::UnboundedReceiver<CrashLoop>,
}

/// Starts all services on the current arbiter, each under supervision.
///
/// # Errors
/// The machine lacks something that no container can do without.
pub fn compose(
    device: &Device,
    places: Places,
    listener: UnixListener,
) -> Result<Services, ComposeError> {
    let ports = Ports::default();
    let trail = match device.config.audit_size() {
        0 => Trail::default(),
        _ => Trail::open(),
    };
    let events = Events::new(trail.clone());
    let (handed, _) = hand_out(&ports, &events)?;
    events.audit(
        Did::BootTime
            .here()
            .meta("time", cml_sys::proc::boottime())
            .meta("version", env!("CARGO_PKG_VERSION")),
    );
    let (tell, fatal) = mpsc::unbounded_channel();
    let (provision, provisioned) = provisioned::mode(device.provisioned);

    let settings = cml_audit::Settings {
        dir: places.audit,
        key: places.base.join("keys/audit.key"),
        // MiB per log (protocol.md 2.6).
        limit: device.config.audit_size().saturating_mul(1 << 20),
    };
    let port = ports.audit.clone();
    keep("audit", &events, &tell, move |watch| {
        port.bind(&Audit::start(settings.clone(), trail.clone(), watch));
    });

    let settings = cml_token::Settings {
        places: cml_token::Places {
            tokens: places.base.join("tokens"),
            keys: places.base.join("keys"),
            modules: places.base.join("pkcs11"),
            format: match device.config.softtoken_format() {
                SoftTokenFormat::Hardened => Format::Hardened,
                SoftTokenFormat::P12 => Format::P12,
            },
            require_pairing: device.config.require_token_pairing(),
        },
        // The host's clock is set; that of a device may not be yet (protocol.md 6.3).
        enforce_validity: device.config.hostedmode,
        provisioned: provisioned.clone(),
    };
    let (port, told) = (ports.token.clone(), events.clone());
    keep("token", &events, &tell, move |watch| {
        port.bind(&Token::start(settings.clone(), told.clone(), watch));
    });

    let settings = cml_guestos::Settings {
        store: places.base.join("operatingsystems"),
        mounts: places.mounts.join("images"),
        accept_locally_signed: device.config.locally_signed_images(),
        allow_sha1: device.config.allow_sha1_images(),
        update_base_url: device.config.update_base_url().to_owned(),
        reserve: device.config.free_space_reserve(),
        backups: places.base.join("os_update_bak"),
        flash_targets: device.flash_targets(),
    };
    let (port, token, told) = (ports.guestos.clone(), handed.guestos_token, events.clone());
    keep("guestos", &events, &tell, move |watch| {
        let (settings, token) = (settings.clone(), token.clone());
        port.bind(&GuestOs::start(settings, token, told.clone(), watch));
    });

    let settings = cml_network::Settings {
        store: places.base.join("network"),
        run: places.run.join("network"),
        pins: NETWORKS.into(),
        hosted: device.config.hostedmode,
        isolate: device.config.isolate_containers(),
        host: places.network,
        place: places.host_mounts,
    };
    let port = ports.network.clone();
    keep("network", &events, &tell, move |watch| {
        port.bind(&Network::start(settings.clone(), watch));
    });

    let settings = cml_provisioning::Settings {
        base: places.base.clone(),
        logs: places.logs,
        flag: places.base.join(PROVISIONED_FLAG),
        key: match device.config.device_key_type() {
            DeviceKeyType::EcP256 => DeviceKey::P256,
            DeviceKeyType::Rsa4096 => DeviceKey::Rsa4096,
        },
        machine: match (device.config.hostedmode, places.master.has_the_right()) {
            (true, _) => Machine::Host,
            (false, false) => Machine::NoMaster,
            (false, true) => Machine::Own(EndMachine::new(move |power| {
                places.master.end_machine(power)
            })),
        },
        tpm: device.config.tpm_enabled && TPM.iter().any(|path| Path::new(path).exists()),
    };
    let (port, asks) = (ports.provisioning.clone(), handed.provisioning);
    let mode = (provision, provisioned.clone());
    keep("provisioning", &events, &tell, move |watch| {
        let (settings, asks) = (settings.clone(), asks.clone());
        port.bind(&Provisioning::start(settings, asks, mode.clone(), watch));
    });

    let settings = cml_container::Settings {
        base: places.base,
        run: places.run,
        init: places.init,
        signed_configs: device.config.signed_configs(),
        host_dns: device.config.host_dns().to_owned(),
        core0: (!device.config.hostedmode).then(|| device.config.c0os().to_owned()),
        mounts: places.mounts.join("volumes"),
        fifos: places.fifos,
        limits: cml_container::Defaults {
            pids: device.config.default_pids_limit(),
            ram: device.config.default_ram_limit(),
        },
        dev: "/dev".into(),
        sys: "/sys".into(),
        volumes: cml_container::Policy {
            allow_fscrypt: device.config.storage_fallback() == StorageFallback::Fscrypt,
            reserve: device.config.free_space_reserve(),
        },
    };
    let env = Env::open(
        settings,
        handed.container_token,
        handed.container_guestos,
        handed.container_audit,
        handed.container_network,
        events.clone(),
    )?;
    let port = ports.container.clone();
    keep("container", &events, &tell, move |watch| {
        port.bind(&Manager::start(Arc::clone(&env), watch));
    });

    let admission = Admission {
        provisioned,
        extended: device.extended_profile(),
        privileged: true,
        events: events.clone(),
        hosted: device.config.hostedmode,
    };
    let gateway = Rc::new(RefCell::new(None));
    let (current, gateway_ports) = (gateway.clone(), handed.gateway);
    keep("gateway", &events, &tell, move |watch| {
        match listener.try_clone() {
            Ok(listener) => {
                let (ports, admission) = (gateway_ports.clone(), admission.clone());
                let started = Gateway::start(listener, ports, admission, watch);
                current.replace(Some(started));
            }
            // The watch is dropped: the supervisor tries again.
            Err(error) => tracing::error!(%error, "the control socket cannot be served"),
        }
    });
    Ok(Services {
        container: ports.container,
        guestos: ports.guestos,
        audit: ports.audit,
        events,
        gateway,
        fatal,
    })
}

/// Keeps a service running; one that cannot be kept is the end of the process.
fn keep(
    service: &'static str,
    events: &Events,
    fatal: &mpsc::UnboundedSender<CrashLoop>,
    start: impl FnMut(Watch) + 'static,
) {
    let (events, fatal) = (events.clone(), fatal.clone());
    spawn(async move {
        if let Err(crash_loop) = supervise(service, Throttle::default(), events, start).await {
            let _ = fatal.send(crash_loop);
        }
    });
}

/// Makes the directories that several services expect.
///
/// # Errors
/// What the kernel said.
pub fn make_base(base: &Path) -> cml_sys::Result<()> {
    for dir in ["operatingsystems", "tokens", "keys"] {
        cml_sys::file::make_dir(&base.join(dir), 0o700)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_picture_of_the_actors_in_architecture_md_is_this_composition() {
        let (_, wiring) = hand_out(&Ports::default(), &Events::default()).unwrap();
        let text = include_str!("../../../ARCHITECTURE.md");
        assert!(
            text.contains(&wiring.mermaid()),
            "put this into ARCHITECTURE.md:\n{}",
            wiring.mermaid()
        );
    }
}
