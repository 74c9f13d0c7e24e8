//! The container service on the bus: knows which containers there are, and passes on what concerns one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use cml_bus::{
    actor::{
        Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture,
        ResponseFuture, WrapFuture, fut, spawn,
    },
    api::{
        container::{
            ChangePin, Configs, ContainerError, ControlSocket, ControlSockets, Create, Exec,
            ExecSession, PinEntry, PinNeeds, Reload, Remove, RemoveGuestOs, SetAudio, SetDevice,
            SetFrozen, Shutdown, Start, Started, Stats, Status, Stop, StopAll, StoppedAll,
            UpdateConfig, Wipe, WipeAll,
        },
        guestos::Rescan,
        token,
    },
    audit::Did,
    error::BusError,
    event::Event,
    id::ContainerId,
    supervisor::{Throttle, Watch, supervise},
};
use cml_wire::{
    proto::{ContainerConfig, ContainerStats, ContainerStatus, ContainerTokenType},
    text,
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    actor::One,
    autostart, core0,
    entry::Entry,
    env::Env,
    fsm::State,
    guestos::Followup,
    hotplug,
    load::Loaded,
    noted,
    one::{OnePort, Reconfigure},
    stats,
    unlock::holder,
    view::View,
};

/// How long all containers together may take to stop when the daemon ends: the limit of one and a little
/// (runtime.md 0.5).
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(55);

/// The name under which the actors of single containers are supervised.
const ONE: &str = "container.one";

/// The container service.
#[derive(Debug)]
pub struct Manager {
    pub(crate) env: Arc<Env>,
    /// In list order: the oldest first.
    entries: Vec<Entry>,
    /// Being taken apart: not in the list any more, and not to be found on disk again.
    removing: HashSet<ContainerId>,
    /// Whoever changes files and list together does so in turn.
    pub(crate) changes: Arc<Mutex<()>>,
    /// Its end tells the actors of the containers that a successor will replace them.
    presence: watch::Sender<()>,
    _watch: Watch,
}

impl Manager {
    /// Starts the service on the current arbiter. It loads its store before it answers anything.
    pub fn start(env: Arc<Env>, watch: Watch) -> Addr<Self> {
        Actor::start(Self {
            env,
            entries: Vec::new(),
            removing: HashSet::new(),
            changes: Arc::default(),
            presence: watch::Sender::new(()),
            _watch: watch,
        })
    }

    pub(crate) fn find(&self, id: ContainerId) -> Result<&Entry, ContainerError> {
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

    /// Starts the actor of a container and puts it into the list, unless it is there.
    fn register(&mut self, loaded: Loaded) {
        // One whose actor is gone can only be replaced.
        self.entries
            .retain(|entry| entry.id != loaded.id || entry.port.retire.is_bound());
        if self.find(loaded.id).is_ok() || self.removing.contains(&loaded.id) {
            return;
        }
        let (tell, view) = watch::channel(View {
            config: loaded.config,
            state: State::Stopped,
            known: false,
            started: None,
            created: loaded.created,
            guest: loaded.guest,
            audio: self.env.store.audio(loaded.id),
            control: None,
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

    /// Follows what becomes of the guest OSes, one event after the other.
    fn follow(&self, context: &mut Context<Self>) {
        let changes = self.changes.clone();
        let (env, mut events, me) = (
            self.env.clone(),
            self.env.events.subscribe(),
            context.address(),
        );
        let follow = async move {
            // What has become obsolete while nobody looked.
            let purge = async || {
                // A container that is being created has chosen its version already.
                let _turn = changes.lock().await;
                env.purge_guestos().await;
            };
            purge().await;
            while let Some(followup) = Followup::next(&mut events).await {
                if followup == Followup::Reassess
                    && let Ok(Ok(entries)) = me.send(Entries).await
                {
                    env.reassess(entries).await;
                }
                purge().await;
            }
        };
        context.spawn(follow.into_actor(self));
    }

    /// Follows what becomes of the devices of the host.
    fn follow_devices(&self, context: &mut Context<Self>) {
        let me = context.address();
        let entries = async move || match me.send(Entries).await {
            Ok(Ok(entries)) => entries,
            _ => Vec::new(),
        };
        context.spawn(hotplug::follow(entries).into_actor(self));
    }

    /// Takes over what is new on disk. What changed of the others, and what is gone, comes back: their actors
    /// have to be asked.
    fn refresh(&mut self, loaded: Vec<Loaded>) -> Refreshed {
        let on_disk = |entry: &&Entry| loaded.iter().any(|loaded| loaded.id == entry.id);
        let gone = self.entries.iter().filter(|entry| !on_disk(entry));
        let gone = gone
            .filter(|entry| entry.view.borrow().state.is_at_rest())
            .cloned()
            .collect();
        let mut changed = Vec::new();
        for loaded in loaded {
            match self.find(loaded.id) {
                Ok(entry) if entry.port.retire.is_bound() => changed.push((
                    entry.clone(),
                    Reconfigure {
                        config: loaded.config,
                        guest: loaded.guest,
                    },
                )),
                _ => self.register(loaded),
            }
        }
        Refreshed { changed, gone }
    }
}

/// What a look at the store found about containers that are known.
struct Refreshed {
    changed: Vec<(Entry, Reconfigure)>,
    gone: Vec<Entry>,
}

impl Refreshed {
    /// Tells the actors; returns those that have ended.
    async fn apply(self) -> Vec<ContainerId> {
        for (entry, reconfigure) in self.changed {
            // One container's trouble is not the others'.
            if let Err(error) = entry.port.reconfigure.call(reconfigure).await {
                tracing::error!(container = %entry.id, %error, "not reloaded");
            }
        }
        let mut ended = Vec::new();
        for entry in self.gone {
            match entry.retire().await {
                Ok(()) => ended.push(entry.id),
                Err(error) => tracing::warn!(container = %entry.id, %error, "kept"),
            }
        }
        ended
    }
}

impl Actor for Manager {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.follow(context);
        self.follow_devices(context);
        let env = self.env.clone();
        let load = async move {
            let loaded = env.load_all().await.unwrap_or_else(|error| {
                tracing::error!(%error, "the store of containers cannot be read");
                Vec::new()
            });
            env.clean_up_unknown().await;
            env.finish_removals().await;
            loaded
        };
        let load = load.into_actor(self).then(|loaded, manager, _| {
            tracing::info!(count = loaded.len(), "containers loaded");
            for loaded in loaded {
                manager.register(loaded);
            }
            let (env, entries) = (manager.env.clone(), manager.entries.clone());
            let known = async move {
                for entry in &entries {
                    entry.known().await;
                }
                spawn(async move {
                    // It is the way of the others to the network, and they wait for it.
                    let core0 = entries.iter().find(|entry| entry.id.is_core0());
                    if let Some(core0) = core0.cloned() {
                        core0::bring_up(&env, core0).await;
                    }
                    autostart::run(env, entries).await;
                });
            };
            known.into_actor(manager)
        });
        // Nothing is answered from a half-read list. The services asked meanwhile lie below this one and
        // never ask back (bus/order.rs), so the wait cannot become a circle.
        context.wait(load);
    }
}

/// The containers at this moment: what the manager asks itself between two events.
#[derive(Debug)]
struct Entries;

impl Message for Entries {
    type Result = Result<Vec<Entry>, ContainerError>;
}

impl Handler<Entries> for Manager {
    type Result = Result<Vec<Entry>, ContainerError>;

    fn handle(&mut self, _: Entries, _: &mut Context<Self>) -> Self::Result {
        Ok(self.entries.clone())
    }
}

impl Handler<RemoveGuestOs> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, request: RemoveGuestOs, _: &mut Context<Self>) -> Self::Result {
        let views = self.entries.iter().map(|entry| entry.view.borrow());
        let running = views.map(|view| view.config.clone()).collect();
        let (env, changes) = (self.env.clone(), self.changes.clone());
        Box::pin(async move {
            // No container comes to use it meanwhile.
            let _turn = changes.lock().await;
            env.remove_guestos(request.name, running).await
        })
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

impl Handler<Stats> for Manager {
    type Result = ResponseFuture<Result<Vec<ContainerStats>, ContainerError>>;

    fn handle(&mut self, request: Stats, _: &mut Context<Self>) -> Self::Result {
        let views = self.selected(&request.ids).map(|entry| {
            let view = entry.view.borrow();
            (entry.id, view.config.name.clone(), view.state)
        });
        let named = !request.ids.is_empty();
        let wanted = views.filter(|(_, _, state)| named || !state.is_at_rest());
        let wanted: Vec<_> = wanted.collect();
        let env = self.env.clone();
        Box::pin(async move {
            let pool = env.groups.clone();
            let count = move || {
                let each = wanted.into_iter();
                each.map(|(id, name, state)| stats::of(&env, id, name, state))
                    .collect()
            };
            Ok(pool.run(count).await.map_err(BusError::from)?)
        })
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
            let reader = env.clone();
            let read = move || {
                let readable = ids.into_iter().filter_map(|id| {
                    let stored = reader.store.read(id).ok()?;
                    Some((id, text::parse(&stored.config).ok()?))
                });
                readable.collect::<Vec<_>>()
            };
            let mut all = storage.run(read).await.map_err(BusError::from)?;
            for (id, config) in &mut all {
                env.show_interfaces(*id, config).await;
            }
            Ok(all)
        })
    }
}

impl Handler<Create> for Manager {
    type Result = ResponseActFuture<Self, Result<(ContainerId, ContainerConfig), ContainerError>>;

    fn handle(&mut self, request: Create, _: &mut Context<Self>) -> Self::Result {
        let (env, changes) = (self.env.clone(), self.changes.clone());
        let create = async move {
            let turn = changes.lock_owned().await;
            (env.create(request).await, turn)
        };
        Box::pin(create.into_actor(self).map(|(created, turn), manager, _| {
            manager.env.events.audit(match &created {
                Ok(created) => Did::Create
                    .to(created.id)
                    .meta("name", &created.config.name),
                Err(_) => noted::outcome(Did::Create.here(), &created),
            });
            let created = created?;
            let answer = (created.id, (*created.config).clone());
            tracing::info!(container = %created.id, name = created.config.name, "created");
            manager.register(created);
            drop(turn);
            manager.env.events.publish(Event::ContainerListChanged);
            Ok(answer)
        }))
    }
}

impl Handler<UpdateConfig> for Manager {
    type Result = ResponseFuture<Result<(ContainerId, ContainerConfig), ContainerError>>;

    fn handle(&mut self, request: UpdateConfig, _: &mut Context<Self>) -> Self::Result {
        let entry = self.find(request.id).cloned();
        let (env, changes) = (self.env.clone(), self.changes.clone());
        Box::pin(async move {
            let entry = entry?;
            let turn = changes.lock().await;
            let present = entry.view.borrow().config.clone();
            let updated = env.update(request, &present).await;
            let note = Did::UpdateConfig.to(entry.id);
            env.events.audit(noted::outcome(note, &updated));
            let reconfigure = updated?;
            let answer = (entry.id, (*reconfigure.config).clone());
            entry.port.reconfigure.call(reconfigure).await?;
            // Nobody else's change waits for this.
            drop(turn);
            if env.store.is_wiping(entry.id) {
                tracing::warn!(container = %entry.id, "another token: what it has stored is wiped");
                entry.wipe().await?;
            }
            tracing::info!(container = %entry.id, name = answer.1.name, "configuration updated");
            Ok(answer)
        })
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
        self.removing.insert(id);
        let (env, changes) = (self.env.clone(), self.changes.clone());
        let remove = async move {
            let removed = match entry.end().await {
                Ok(()) => {
                    let _turn = changes.lock().await;
                    env.delete(id).await
                }
                Err(error) => Err(error),
            };
            // One that could not be removed comes back as it is on disk, if its actor has ended.
            let left = match &removed {
                Ok(()) => None,
                Err(_) => env.load(id).await.ok(),
            };
            (entry, removed, left)
        };
        let remove = remove.into_actor(self);
        Box::pin(remove.map(move |(entry, removed, left), manager, _| {
            manager.removing.remove(&id);
            let note = Did::Remove.to(id);
            manager.env.events.audit(noted::outcome(note, &removed));
            match &removed {
                Ok(()) => {
                    tracing::info!(container = %id, "removed");
                    manager.env.forget(id);
                    manager.env.events.publish(Event::ContainerListChanged);
                }
                Err(error) => {
                    tracing::error!(container = %id, %error, "a container was not removed");
                    match (entry.port.retire.is_bound(), left) {
                        (true, _) => manager.entries.insert(at.min(manager.entries.len()), entry),
                        (false, Some(left)) => manager.register(left),
                        (false, None) => {}
                    }
                }
            }
            removed
        }))
    }
}

/// Begins the same work on all of these containers, before any of it is waited for.
fn at_once<T: 'static>(
    entries: Vec<Entry>,
    work: impl AsyncFn(&Entry) -> T + Clone + 'static,
) -> Vec<JoinHandle<(ContainerId, T)>> {
    let begin = |entry: Entry| {
        let work = work.clone();
        spawn(async move { (entry.id, work(&entry).await) })
    };
    entries.into_iter().map(begin).collect()
}

/// Asks all of these containers to stop; each tells whether it has.
fn halt_all(entries: Vec<Entry>) -> Vec<JoinHandle<(ContainerId, bool)>> {
    let limit = Instant::now() + SHUTDOWN_LIMIT;
    at_once(entries, async move |entry| entry.halt(limit).await)
}

impl Handler<Wipe> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, request: Wipe, _: &mut Context<Self>) -> Self::Result {
        let entry = match request.id.is_core0() {
            true => Err(ContainerError::Protected),
            false => self.find(request.id).cloned(),
        };
        Box::pin(async move { entry?.wipe().await })
    }
}

impl Handler<WipeAll> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, _: WipeAll, _: &mut Context<Self>) -> Self::Result {
        // core0 has to end for it, and with it the device: it keeps what it has, which is under no PIN anyway.
        let guests = self.entries.iter().filter(|entry| !entry.id.is_core0());
        let wipes = at_once(guests.cloned().collect(), async |entry| entry.wipe().await);
        let events = self.env.events.clone();
        Box::pin(async move {
            let mut outcome = Ok(());
            for wipe in wipes {
                if let Ok((id, Err(error))) = wipe.await {
                    tracing::error!(container = %id, %error, "not wiped");
                    outcome = Err(error);
                }
            }
            events.audit(noted::outcome(Did::WipeDevice.here(), &outcome));
            outcome
        })
    }
}

impl Handler<Reload> for Manager {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, _: Reload, _: &mut Context<Self>) -> Self::Result {
        let (env, changes) = (self.env.clone(), self.changes.clone());
        let load = async move {
            let turn = changes.lock_owned().await;
            // A guest OS that was put into the store by hand counts from now on as well.
            if let Err(error) = env.guestos.rescan.call(Rescan).await {
                tracing::error!(%error, "the guest OS store was not read again");
            }
            (env.load_all().await, turn)
        };
        let refresh = load.into_actor(self).then(|(loaded, turn), manager, _| {
            let refreshed = loaded.map(|loaded| manager.refresh(loaded));
            async move {
                let ended = match refreshed {
                    Ok(refreshed) => Ok(refreshed.apply().await),
                    Err(error) => Err(error),
                };
                (ended, turn)
            }
            .into_actor(manager)
        });
        Box::pin(refresh.map(|(ended, turn), manager, _| {
            let note = noted::outcome(Did::Reload.here(), &ended);
            manager.env.events.audit(note);
            let ended = ended?;
            manager.entries.retain(|entry| !ended.contains(&entry.id));
            drop(turn);
            Ok(())
        }))
    }
}

impl Handler<Shutdown> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, _: Shutdown, _: &mut Context<Self>) -> Self::Result {
        self.env.close();
        self.env.events.audit(Did::Shutdown.here());
        // What was running comes back with the next daemon.
        autostart::forget(&self.env);
        let entries = self.entries.clone();
        let hierarchies = self.env.hierarchies.clone();
        Box::pin(async move {
            for halt in halt_all(entries) {
                if let Ok((id, false)) = halt.await {
                    tracing::error!(container = %id, "still there; it is left running");
                }
            }
            hierarchies.remove_parent();
            Ok(())
        })
    }
}

impl Handler<StopAll> for Manager {
    type Result = ResponseFuture<Result<StoppedAll, ContainerError>>;

    fn handle(&mut self, request: StopAll, _: &mut Context<Self>) -> Self::Result {
        self.env.events.audit(Did::Shutdown.here());
        let running = |entry: &&Entry| {
            (request.core0 || !entry.id.is_core0()) && !entry.view.borrow().state.is_at_rest()
        };
        let entries: Vec<_> = self.entries.iter().filter(running).cloned().collect();
        Box::pin(async move {
            let mut all = StoppedAll {
                stopped: 0,
                left: Vec::new(),
            };
            for halt in halt_all(entries) {
                match halt.await {
                    Ok((_, true)) => all.stopped += 1,
                    Ok((id, false)) => all.left.push(id),
                    Err(error) => tracing::error!(%error, "a container was not stopped"),
                }
            }
            Ok(all)
        })
    }
}

impl Handler<ControlSockets> for Manager {
    type Result = Result<Vec<ControlSocket>, ContainerError>;

    fn handle(&mut self, _: ControlSockets, _: &mut Context<Self>) -> Self::Result {
        let sockets = self.entries.iter();
        Ok(sockets
            .filter_map(|entry| entry.view.borrow().control.clone())
            .collect())
    }
}

impl Handler<PinEntry> for Manager {
    type Result = Result<PinNeeds, ContainerError>;

    fn handle(&mut self, request: PinEntry, _: &mut Context<Self>) -> Self::Result {
        let view = self.find(request.id)?.view.borrow();
        Ok(PinNeeds {
            usb_reader: view.config.usb_pin_entry(),
            required: !request.id.is_core0()
                && view.config.token_type() != ContainerTokenType::None,
        })
    }
}

impl Handler<ChangePin> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, request: ChangePin, _: &mut Context<Self>) -> Self::Result {
        let holder = match request.id.is_core0() {
            true => Err(ContainerError::Protected),
            false => self.find(request.id).and_then(|entry| {
                let config = entry.view.borrow().config.clone();
                holder(request.id, &config)?.ok_or_else(|| {
                    ContainerError::BadConfig("token_type NONE has no PIN to be changed".into())
                })
            }),
        };
        let token = self.env.token.clone();
        Box::pin(async move {
            let change = token::ChangePin {
                holder: Some(holder?),
                old: request.old,
                new: request.new,
            };
            Ok(token.change_pin.call(change).await?)
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

impl Handler<Start> for Manager {
    type Result = ResponseFuture<Result<Started, ContainerError>>;

    fn handle(&mut self, request: Start, _: &mut Context<Self>) -> Self::Result {
        let port = match request.id.is_core0() {
            true => Err(ContainerError::Protected),
            false => self.port(request.id),
        };
        if let Err(error) = &port {
            // One that does not exist has no log.
            let note = noted::not_started(|did| did.with(request.id), error);
            self.env.events.audit(note);
        }
        Box::pin(async move { port?.start.call(request).await })
    }
}

// The last column: whether core0 takes it too (protocol.md 3.5, 3.6).
passed_on! {
    Stop => (), stop, false;
    SetFrozen => (), set_frozen, true;
    SetDevice => (), set_device, true;
    SetAudio => Option<String>, set_audio, true;
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
