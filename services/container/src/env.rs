//! What all containers of a device have in common.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cml_bus::{
    api::{
        audit::AuditPort,
        container::ContainerError,
        guestos::{Find, GuestOsError, GuestOsPort, Installed, Version},
        network::NetworkPort,
        token::TokenPort,
    },
    blocking::Pool,
    error::BusError,
    event::Events,
    id::ContainerId,
};
use cml_sys::{cgroup::Hierarchies, file, host, loopdev, mount::Restrict, mounted::Mounted};
use cml_wire::{proto::ContainerConfig, rules::SHARED_STORE};

use crate::{
    devices::Devices,
    fifos::Fifos,
    ids::Slots,
    record::Records,
    resources::Defaults,
    store::Store,
    volumes::{Policy, Volumes},
};

/// What the service needs to know of the device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything durable lies.
    pub base: PathBuf,
    /// A directory of ours for what means nothing after a reboot.
    pub run: PathBuf,
    /// The static program that becomes every container.
    pub init: PathBuf,
    /// Demand signatures on configurations.
    pub signed_configs: bool,
    /// The guest OS of a `core0` that nobody has configured; `None` where there is no `core0` (hosted mode).
    pub core0: Option<String>,
    /// Name server for guests whose configuration names none.
    pub host_dns: String,
    /// An empty directory of ours for mounts of volumes.
    pub mounts: PathBuf,
    /// How volumes may be stored.
    pub volumes: Policy,
    /// Where the host's ends of pipes into containers are.
    pub fifos: PathBuf,
    /// What a container may use that names no limits.
    pub limits: Defaults,
    /// `/dev` of the host.
    pub dev: PathBuf,
    /// `/sys` of the host.
    pub sys: PathBuf,
}

/// What the actors of the service share.
#[derive(Debug)]
pub struct Env {
    pub(crate) settings: Settings,
    pub(crate) token: TokenPort,
    pub(crate) guestos: GuestOsPort,
    pub(crate) audit: AuditPort,
    pub(crate) network: NetworkPort,
    pub(crate) events: Events,
    /// Launches and files.
    pub(crate) storage: Pool,
    /// Freezing, killing, cleaning up: never behind a launch that takes its time.
    pub(crate) groups: Pool,
    /// Entering containers.
    pub(crate) commands: Pool,
    pub(crate) hierarchies: Hierarchies,
    /// The sealed copy of `cml-init` (SEC-01).
    pub(crate) program: OwnedFd,
    pub(crate) slots: Slots,
    pub(crate) devices: Devices,
    pub(crate) fifos: Fifos,
    pub(crate) store: Store,
    pub(crate) volumes: Volumes,
    pub(crate) records: Records,
    turns: Turns,
    closing: AtomicBool,
    _shared_store: Option<Mounted>,
}

/// Where the files lie that BIND_FILE mounts show (runtime.md 7).
const SHARED_FILES: &str = "files_shared";

/// Shows the files of such an image where ours would lie, if there is one.
fn shared_store(dir: &Path) -> Option<Mounted> {
    let image = dir.join(SHARED_STORE);
    if !image.exists() {
        return None;
    }
    let mount = || {
        // A container that has outlived its daemon may still show files of it.
        let device = loopdev::attach_shared(&image)?;
        let restrict = Restrict {
            no_dev: true,
            no_exec: true,
            no_suid: true,
            ..Restrict::default()
        };
        Mounted::new(&device.path, "ext4", &[], restrict, dir)
    };
    let mounted = mount();
    mounted
        .inspect_err(|error| tracing::error!(%error, "shared files are not what they were"))
        .ok()
}

impl Env {
    /// Opens the store, copies `cml-init`, looks at the machine.
    ///
    /// # Errors
    /// A directory or program that is missing, in words for the operator.
    pub fn open(
        settings: Settings,
        token: TokenPort,
        guestos: GuestOsPort,
        audit: AuditPort,
        network: NetworkPort,
        events: Events,
    ) -> Result<Arc<Self>, ContainerError> {
        let program = host::load_init(&settings.init).map_err(|error| ContainerError::Store {
            path: settings.init.display().to_string(),
            reason: error.to_string(),
        })?;
        let hierarchies = Hierarchies::detect().map_err(|error| ContainerError::Store {
            path: "/proc/self/mounts".into(),
            reason: error.to_string(),
        })?;
        let shared = settings.base.join(SHARED_FILES);
        private_dir(&shared)?;
        let env = Self {
            _shared_store: shared_store(&shared),
            store: Store::open(&settings.base)?,
            volumes: Volumes::new(
                settings.base.join("containers"),
                settings.mounts.clone(),
                settings.volumes,
            ),
            records: Records::open(&settings.run.join("containers"))?,
            token,
            guestos,
            audit,
            network,
            events,
            // Mounts and clones wait for kernel locks more than for a core; 8 keep two cores busy.
            storage: Pool::new("storage", 8),
            groups: Pool::new("groups", 8),
            commands: Pool::new("commands", 8),
            hierarchies,
            program,
            slots: Slots::default(),
            devices: Devices::new(settings.dev.clone(), settings.sys.clone()),
            fifos: Fifos::new(settings.fifos.clone()),
            turns: Turns::default(),
            closing: AtomicBool::new(false),
            settings,
        };
        Ok(Arc::new(env))
    }

    /// The files that BIND_FILE mounts show (runtime.md 7).
    pub(crate) fn shared_files(&self) -> PathBuf {
        self.settings.base.join(SHARED_FILES)
    }

    /// Runs a job that changes what the kernel has of a container: one at a time, in the order they were
    /// asked for. A job keeps its turn to its end even when the actor that asked for it is gone, so that its
    /// successor never finds half of it.
    pub(crate) async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        id: ContainerId,
        pool: &Pool,
        job: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, ContainerError> {
        let turn = self.turns.of(id).lock_owned().await;
        let env = self.clone();
        let done = pool.run(move || {
            let _turn = turn;
            job(&env)
        });
        Ok(done.await.map_err(BusError::from)?)
    }

    /// The container is gone.
    pub(crate) fn forget(&self, id: ContainerId) {
        self.turns.forget(id);
    }

    /// From now on nothing is started any more.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the daemon is about to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// The guest OS that a container starts with: the version that was written down when it was loaded. Where
    /// nobody signed for that version a newer one will do, should it be gone.
    pub(crate) async fn installed(
        &self,
        config: &ContainerConfig,
    ) -> Result<Installed, GuestOsError> {
        let exact = Version::Exactly(config.guestos_version());
        match self.find(config, exact).await {
            Err(GuestOsError::NotInstalled { .. }) if !self.settings.signed_configs => {
                self.newest(config).await
            }
            found => found,
        }
    }

    /// The guest OS that a container moves to when it is loaded (protocol.md 6.4).
    pub(crate) async fn newest(&self, config: &ContainerConfig) -> Result<Installed, GuestOsError> {
        let version = config.guestos_version();
        let version = match self.settings.signed_configs {
            true => Version::Exactly(version),
            false => Version::AtLeast(version),
        };
        self.find(config, version).await
    }

    /// The newest version that is installed, whatever the configuration says.
    pub(crate) async fn newest_of(
        &self,
        config: &ContainerConfig,
    ) -> Result<Installed, GuestOsError> {
        self.find(config, Version::AtLeast(0)).await
    }

    async fn find(
        &self,
        config: &ContainerConfig,
        version: Version,
    ) -> Result<Installed, GuestOsError> {
        let find = Find {
            name: config.guest_os.clone(),
            version,
        };
        self.guestos.find.call(find).await
    }
}

/// Who may change what the kernel has of a container.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<ContainerId, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, id: ContainerId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(id).or_default().clone()
    }

    fn forget(&self, id: ContainerId) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.remove(&id);
    }
}

/// Makes a directory that only root enters.
pub(crate) fn private_dir(path: &Path) -> Result<(), ContainerError> {
    file::make_dir(path, 0o700).map_err(|error| ContainerError::Store {
        path: path.display().to_string(),
        reason: error.source.to_string(),
    })
}
