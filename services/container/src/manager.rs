//! The container service on the bus: knows which containers there are, and passes on what concerns one.

mod all;
mod changes;
mod one;
mod queries;

use std::{collections::HashSet, sync::Arc};

use cml_bus::{
    actor::{
        Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WrapFuture, spawn,
    },
    api::container::ContainerError,
    id::ContainerId,
    supervisor::{Throttle, Watch, supervise},
};
use tokio::sync::{Mutex, watch};

use crate::{
    actor::One,
    autostart, core0,
    entry::Entry,
    env::Env,
    fsm::State,
    guestos::Followup,
    hotplug,
    load::Loaded,
    one::{OnePort, Reconfigure},
    view::View,
};

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

    /// One that more can be done with than to look at it and to remove it.
    pub(crate) fn usable(&self, id: ContainerId) -> Result<&Entry, ContainerError> {
        let entry = self.find(id)?;
        entry.usable().map(|()| entry)
    }

    fn port(&self, id: ContainerId) -> Result<OnePort, ContainerError> {
        Ok(self.usable(id)?.port.clone())
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
        let mut view = View {
            audio: self.env.store.audio(loaded.id),
            damage: loaded.damage,
            ..View::unknown(loaded.config, loaded.created, loaded.guest)
        };
        if view.damage.is_some() {
            (view.state, view.known) = (State::Zombie, true);
            self.entries.push(Entry {
                id: loaded.id,
                port: OnePort::default(),
                view: watch::channel(view).1,
            });
            return;
        }
        let (tell, view) = watch::channel(view);
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
        let (mut changed, mut damaged) = (Vec::new(), Vec::new());
        for loaded in loaded {
            match self.find(loaded.id) {
                Ok(entry) if entry.port.retire.is_bound() && loaded.damage.is_some() => {
                    damaged.push((entry.clone(), loaded));
                }
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
        Refreshed {
            changed,
            gone,
            damaged,
        }
    }
}

/// What a look at the store found about containers that are known.
struct Refreshed {
    changed: Vec<(Entry, Reconfigure)>,
    gone: Vec<Entry>,
    /// Their files are not what they were.
    damaged: Vec<(Entry, Loaded)>,
}

impl Refreshed {
    /// Tells the actors; returns those that have ended, and what is left of some of them.
    async fn apply(self) -> (Vec<ContainerId>, Vec<Loaded>) {
        for (entry, reconfigure) in self.changed {
            // One container's trouble is not the others'.
            if let Err(error) = entry.port.reconfigure.call(reconfigure).await {
                tracing::error!(container = %entry.id, %error, "not reloaded");
            }
        }
        let gone = self.gone.into_iter().map(|entry| (entry, None));
        let damaged = self.damaged.into_iter();
        let damaged = damaged.map(|(entry, left)| (entry, Some(left)));
        let (mut ended, mut all_left) = (Vec::new(), Vec::new());
        for (entry, left) in gone.chain(damaged) {
            match entry.retire().await {
                Ok(()) => {
                    ended.push(entry.id);
                    all_left.extend(left);
                }
                Err(error) => tracing::warn!(container = %entry.id, %error, "kept"),
            }
        }
        (ended, all_left)
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
                    if let Some(core0) = core0 {
                        spawn(core0::keep(env.clone(), core0.clone()));
                        core0::up(core0).await;
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
