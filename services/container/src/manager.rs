//! The container service on the bus: knows which containers there are, and passes on what concerns one.

use std::{sync::Arc, time::Duration};

use cml_bus::{
    actor::{
        Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseActFuture,
        ResponseFuture, WrapFuture, fut, spawn,
    },
    api::{
        container::{
            Configs, ContainerError, Create, Exec, ExecSession, PinEntry, PinNeeds, Reload, Remove,
            SetFrozen, Shutdown, Signature, Start, Status, Stop,
        },
        guestos::Find,
        token::VerifySignature,
    },
    error::BusError,
    event::Event,
    id::ContainerId,
    supervisor::{Throttle, Watch, supervise},
};
use cml_wire::{
    proto::{ContainerConfig, ContainerStatus, ContainerTokenType, ContainerTrust},
    text,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    actor::{Halt, Kill, One, OnePort, Reconfigure, Retire},
    check::check,
    env::{Env, died},
    fsm::State,
    view::View,
};

/// How long a container that is being removed may take to end once it was killed.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// How long all containers together may take to stop when the daemon ends: the limit of one and a little
/// (runtime.md 0.5).
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(55);

/// The name under which the actors of single containers are supervised.
const ONE: &str = "container.one";

/// A container that the service knows.
#[derive(Debug, Clone)]
struct Entry {
    id: ContainerId,
    port: OnePort,
    view: watch::Receiver<View>,
}

/// The container service.
#[derive(Debug)]
pub struct Manager {
    env: Arc<Env>,
    /// In list order: the oldest first.
    entries: Vec<Entry>,
    /// Its end tells the actors of the containers that a successor will replace them.
    presence: watch::Sender<()>,
    _watch: Watch,
}

/// A configuration that was read, verified and checked.
#[derive(Debug)]
struct Loaded {
    id: ContainerId,
    config: Arc<ContainerConfig>,
    created: u64,
    trust: Option<ContainerTrust>,
}

impl Manager {
    /// Starts the service on the current arbiter. It loads its store before it answers anything.
    pub fn start(env: Arc<Env>, watch: Watch) -> Addr<Self> {
        Actor::start(Self {
            env,
            entries: Vec::new(),
            presence: watch::Sender::new(()),
            _watch: watch,
        })
    }

    fn find(&self, id: ContainerId) -> Result<&Entry, ContainerError> {
        let found = self.entries.iter().find(|entry| entry.id == id);
        found.ok_or(ContainerError::NotFound(id))
    }

    fn port(&self, id: ContainerId) -> Result<OnePort, ContainerError> {
        Ok(self.find(id)?.port.clone())
    }

    /// Of the named containers those that exist, or all.
    fn selected<'a>(&'a self, ids: &'a [ContainerId]) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |entry| ids.is_empty() || ids.contains(&entry.id))
    }

    /// Starts the actor of a container and puts it into the list.
    fn register(&mut self, loaded: Loaded) {
        let (tell, view) = watch::channel(View {
            config: loaded.config,
            state: State::Stopped,
            known: false,
            started: None,
            created: loaded.created,
            trust: loaded.trust,
        });
        let (env, id) = (self.env.clone(), loaded.id);
        let port = OnePort::default();
        let bound = port.clone();
        let presence = self.presence.subscribe();
        spawn(async move {
            let start = |watch| {
                // Whether it runs is found out from its record (`One::started`).
                tell.send_modify(|view| view.known = false);
                let one = One::start(env.clone(), id, tell.clone(), presence.clone(), watch);
                bound.bind(&one);
            };
            let ended = supervise(ONE, Throttle::default(), env.events.clone(), start).await;
            bound.clear();
            if let Err(error) = ended {
                tracing::error!(container = %id, %error, "only removing it helps");
                tell.send_modify(|view| (view.state, view.known) = (State::Zombie, true));
            }
        });
        self.entries.push(Entry { id, port, view });
    }

    /// Takes over what is new on disk, and what changed of containers that are stopped.
    fn refresh(&mut self, loaded: Vec<Loaded>) -> Vec<(OnePort, Reconfigure)> {
        let mut changed = Vec::new();
        self.entries.retain(|entry| {
            let on_disk = loaded.iter().any(|loaded| loaded.id == entry.id);
            on_disk || !entry.view.borrow().state.is_at_rest()
        });
        for loaded in loaded {
            match self.find(loaded.id) {
                Err(_) => self.register(loaded),
                Ok(entry) => changed.push((
                    entry.port.clone(),
                    Reconfigure {
                        config: loaded.config,
                        trust: loaded.trust,
                    },
                )),
            }
        }
        changed
    }
}

impl Env {
    /// Every configuration of the store that can be used. The others are reported and left alone.
    async fn load_all(self: &Arc<Self>) -> Result<Vec<Loaded>, ContainerError> {
        let env = self.clone();
        let ids = self.storage.run(move || env.store.list()).await;
        let mut all = Vec::new();
        for id in ids.map_err(died)?? {
            match self.load(id).await {
                Ok(loaded) => all.push(loaded),
                Err(error) => tracing::warn!(container = %id, %error, "container skipped"),
            }
        }
        Ok(all)
    }

    async fn load(self: &Arc<Self>, id: ContainerId) -> Result<Loaded, ContainerError> {
        let env = self.clone();
        let stored = self.storage.run(move || env.store.read(id)).await;
        let stored = stored.map_err(died)??;
        let config = self.accept(&stored.config, stored.signature).await?;
        Ok(Loaded {
            id,
            trust: self.trust(&config).await,
            config: Arc::new(config),
            created: stored.created,
        })
    }

    /// The configuration from exactly the bytes whose signature was checked (SEC-09).
    async fn accept(
        &self,
        bytes: &[u8],
        signature: Option<Signature>,
    ) -> Result<ContainerConfig, ContainerError> {
        let bad = |reason: String| ContainerError::BadConfig(reason);
        if self.settings.signed_configs {
            let signature = signature.ok_or_else(|| {
                bad(
                    "it is not signed, and device.conf demands signatures (`signed_configs`)"
                        .into(),
                )
            })?;
            let verify = VerifySignature {
                data: bytes.to_vec(),
                signature: signature.signature,
                certificate: signature.certificate,
            };
            // The local CA does not count here (protocol.md 6.3).
            if self.token.verify_signature.call(verify).await? != ContainerTrust::Signed {
                return Err(bad("only the local CA vouches for its signature".into()));
            }
        }
        let config = text::parse(bytes).map_err(|error| bad(error.to_string()))?;
        check(&config).map_err(|error| bad(error.to_string()))?;
        Ok(config)
    }

    /// Who vouches for the guest OS; `None` when it is not installed.
    async fn trust(&self, config: &ContainerConfig) -> Option<ContainerTrust> {
        let find = Find {
            name: config.guest_os.clone(),
            version: self.version_for(config),
        };
        let found = self.guestos.find.call(find).await;
        found.ok().map(|installed| installed.trust)
    }

    /// A new container, stored. The version of the guest OS is written down where nobody signed for the
    /// bytes (protocol.md 6.4).
    async fn create(self: &Arc<Self>, request: Create) -> Result<Loaded, ContainerError> {
        let mut config = self
            .accept(&request.config, request.signature.clone())
            .await?;
        let find = Find {
            name: config.guest_os.clone(),
            version: self.version_for(&config),
        };
        let installed = self.guestos.find.call(find).await?;
        let bytes = match self.settings.signed_configs {
            true => request.config,
            false => {
                config.guestos_version = Some(installed.config.version);
                text::print_file(&config).into_bytes()
            }
        };
        let signature = request.signature.filter(|_| self.settings.signed_configs);
        let id = ContainerId::random();
        let env = self.clone();
        let added = self
            .storage
            .run(move || env.store.add(id, &bytes, signature.as_ref()))
            .await;
        Ok(Loaded {
            id,
            config: Arc::new(config),
            created: added.map_err(died)??,
            trust: Some(installed.trust),
        })
    }

    /// Cleans up after containers whose configuration is gone but whose record is not.
    async fn clean_up_unknown(self: &Arc<Self>, known: &[Loaded]) {
        for id in self.records.list() {
            if known.iter().any(|loaded| loaded.id == id) {
                continue;
            }
            let env = self.clone();
            let forget = move || {
                if let Some(live) = crate::launch::adopt(&env, id) {
                    tracing::warn!(container = %id, "killing a container that has no configuration");
                    crate::launch::clean_up(&env, id, live);
                }
            };
            let _ = self.storage.run(forget).await;
        }
    }
}

impl Entry {
    /// Waits until it is known whether the container runs.
    async fn known(&self) {
        let mut view = self.view.clone();
        // Fails when the actor is given up, and then there is nothing to know.
        let _ = view.wait_for(|view| view.known).await;
    }

    /// Waits until the state is one of these, or the limit has passed.
    async fn wait_for(&self, wanted: impl Fn(State) -> bool, limit: Instant) -> bool {
        let mut view = self.view.clone();
        let waited = timeout_at(limit, view.wait_for(|view| wanted(view.state))).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Ends whatever runs of the container, and its actor.
    async fn end(&self) -> Result<(), ContainerError> {
        let limit = Instant::now() + REMOVE_LIMIT;
        // A launch cannot be interrupted, but it ends soon.
        self.wait_for(|state| !matches!(state, State::Starting { .. }), limit)
            .await;
        if !self.view.borrow().state.is_at_rest() {
            match self.port.kill.call(Kill).await {
                Ok(()) | Err(ContainerError::NotRunning(_)) => {}
                Err(error) => return Err(error),
            }
            self.wait_for(State::is_at_rest, limit).await;
        }
        match self.port.retire.call(Retire).await {
            // An actor that was given up is gone already.
            Err(ContainerError::Bus(BusError::Unbound(_))) => Ok(()),
            other => other,
        }
    }

    /// Asks the container to stop and waits until it has.
    async fn halt(&self, limit: Instant) -> bool {
        self.wait_for(|state| !matches!(state, State::Starting { .. }), limit)
            .await;
        // A container that is stopped or stopping refuses, which is fine.
        let _ = self.port.halt.call(Halt).await;
        self.wait_for(State::is_at_rest, limit).await
    }
}

impl Actor for Manager {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let env = self.env.clone();
        let load = async move {
            let loaded = env.load_all().await.unwrap_or_else(|error| {
                tracing::error!(%error, "the store of containers cannot be read");
                Vec::new()
            });
            env.clean_up_unknown(&loaded).await;
            loaded
        };
        let load = load.into_actor(self).then(|loaded, manager, _| {
            tracing::info!(count = loaded.len(), "containers loaded");
            for loaded in loaded {
                manager.register(loaded);
            }
            let entries = manager.entries.clone();
            let known = async move {
                for entry in entries {
                    entry.known().await;
                }
            };
            known.into_actor(manager)
        });
        // Nothing is answered from a half-read list. The services asked meanwhile lie below this one and
        // never ask back (bus/order.rs), so the wait cannot become a circle.
        context.wait(load);
    }
}

impl Handler<Status> for Manager {
    type Result = Result<Vec<ContainerStatus>, ContainerError>;

    fn handle(&mut self, request: Status, _: &mut Context<Self>) -> Self::Result {
        let selected = self.selected(&request.ids);
        Ok(selected
            .map(|entry| entry.view.borrow().status(entry.id))
            .collect())
    }
}

impl Handler<Configs> for Manager {
    type Result = ResponseFuture<Result<Vec<(ContainerId, ContainerConfig)>, ContainerError>>;

    /// The files on disk are read, so that a change that is not in effect yet shows (protocol.md 3.4).
    fn handle(&mut self, request: Configs, _: &mut Context<Self>) -> Self::Result {
        let ids: Vec<_> = self.selected(&request.ids).map(|entry| entry.id).collect();
        let env = self.env.clone();
        Box::pin(async move {
            let storage = env.storage.clone();
            let read = move || {
                let readable = ids.into_iter().filter_map(|id| {
                    let stored = env.store.read(id).ok()?;
                    Some((id, text::parse(&stored.config).ok()?))
                });
                readable.collect()
            };
            storage.run(read).await.map_err(died)
        })
    }
}

impl Handler<Create> for Manager {
    type Result = ResponseActFuture<Self, Result<(ContainerId, ContainerConfig), ContainerError>>;

    fn handle(&mut self, request: Create, _: &mut Context<Self>) -> Self::Result {
        let env = self.env.clone();
        let create = async move { env.create(request).await };
        Box::pin(create.into_actor(self).map(|created, manager, _| {
            let created = created?;
            let answer = (created.id, (*created.config).clone());
            tracing::info!(container = %created.id, name = created.config.name, "created");
            manager.register(created);
            manager.env.events.publish(Event::ContainerListChanged);
            Ok(answer)
        }))
    }
}

impl Handler<Remove> for Manager {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, request: Remove, _: &mut Context<Self>) -> Self::Result {
        let id = request.id;
        if id.is_core0() {
            return Box::pin(fut::err(ContainerError::Protected));
        }
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else {
            return Box::pin(fut::err(ContainerError::NotFound(id)));
        };
        // Out of the list first: nobody can start it any more while it is being taken apart.
        let entry = self.entries.remove(at);
        let env = self.env.clone();
        let remove = async move {
            let ended = entry.end().await;
            let storage = env.storage.clone();
            let removed = match ended {
                Ok(()) => storage
                    .run(move || env.store.remove(id))
                    .await
                    .map_err(died)
                    .and_then(|removed| removed),
                Err(error) => Err(error),
            };
            (entry, removed)
        };
        Box::pin(
            remove
                .into_actor(self)
                .map(move |(entry, removed), manager, _| {
                    match &removed {
                        Ok(()) => {
                            tracing::info!(container = %id, "removed");
                            manager.env.events.publish(Event::ContainerListChanged);
                        }
                        Err(error) => {
                            tracing::error!(container = %id, %error, "a container was not removed");
                            let at = at.min(manager.entries.len());
                            manager.entries.insert(at, entry);
                        }
                    }
                    removed
                }),
        )
    }
}

impl Handler<Reload> for Manager {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, _: Reload, _: &mut Context<Self>) -> Self::Result {
        let env = self.env.clone();
        let load = async move { env.load_all().await };
        Box::pin(load.into_actor(self).then(|loaded, manager, _| {
            let changed = loaded.map(|loaded| manager.refresh(loaded));
            async move {
                for (port, reconfigure) in changed? {
                    match port.reconfigure.call(reconfigure).await {
                        // One that runs keeps what it was started with.
                        Ok(()) | Err(ContainerError::AlreadyRunning(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
            .into_actor(manager)
        }))
    }
}

impl Handler<Shutdown> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, _: Shutdown, _: &mut Context<Self>) -> Self::Result {
        let entries = self.entries.clone();
        let hierarchies = self.env.hierarchies.clone();
        Box::pin(async move {
            let limit = Instant::now() + SHUTDOWN_LIMIT;
            let halts = entries
                .into_iter()
                .map(|entry| spawn(async move { (entry.id, entry.halt(limit).await) }));
            // Collected first: all of them stop at the same time.
            let halts: Vec<_> = halts.collect();
            for halt in halts {
                if let Ok((id, false)) = halt.await {
                    tracing::error!(container = %id, "still there; it is left running");
                }
            }
            hierarchies.remove_parent();
            Ok(())
        })
    }
}

impl Handler<PinEntry> for Manager {
    type Result = Result<PinNeeds, ContainerError>;

    fn handle(&mut self, request: PinEntry, _: &mut Context<Self>) -> Self::Result {
        let view = self.find(request.id)?.view.borrow();
        Ok(PinNeeds {
            usb_reader: view.config.usb_pin_entry(),
            required: view.config.token_type() != ContainerTokenType::None,
        })
    }
}

/// Commands about one container: its actor answers.
macro_rules! passed_on {
    ($($message:ident => $reply:ty, $slot:ident, $core0:literal;)+) => {$(
        impl Handler<$message> for Manager {
            type Result = ResponseFuture<Result<$reply, ContainerError>>;

            fn handle(&mut self, request: $message, _: &mut Context<Self>) -> Self::Result {
                let port = match request.id.is_core0() && !$core0 {
                    true => Err(ContainerError::Protected),
                    false => self.port(request.id),
                };
                Box::pin(async move { port?.$slot.call(request).await })
            }
        }
    )+};
}

// The last column: whether core0 takes it too (protocol.md 3.5, 3.6).
passed_on! {
    Start => (), start, false;
    Stop => (), stop, false;
    SetFrozen => (), set_frozen, true;
    Exec => ExecSession, exec, true;
}

/// Makes the service panic.
#[cfg(test)]
#[derive(Debug)]
pub struct Panic;

#[cfg(test)]
impl cml_bus::actor::Message for Panic {
    type Result = ();
}

#[cfg(test)]
impl Handler<Panic> for Manager {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}
