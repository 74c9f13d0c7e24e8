//! One container: runs the state machine and carries out its effects.
//!
//! The actor can die and be started again at any time; what it needs to go on is in the record
//! (`record.rs`), not in it. A start therefore always begins with adopting what the record says.

mod devices;
mod effects;
mod plug;
mod requests;

use std::{os::fd::OwnedFd, sync::Arc};

use cml_bus::{
    actor::{
        Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, SpawnHandle, WrapFuture,
    },
    api::container::{ContainerError, Started},
    audit::{Did, Note},
    error::BusError,
    event::Event as BusEvent,
    id::ContainerId,
    secret::{Key, Pin},
    supervisor::Watch,
};
use cml_sys::pidfd::Ended;
use cml_wire::{proto::ContainerConfig, text};
use tokio::sync::{Mutex, oneshot, watch};

use crate::{
    core0::{Life, PROOF},
    ending::{self, RebootBrake},
    env::Env,
    fsm::{self, Event, Refusal, State},
    guest_audit::GuestAudit,
    guest_service::{Answers, GuestService},
    launch::{self, Live},
    noted,
    one::Reconfigure,
    unlock::{authorise, unlock},
    view::View,
    volumes::OpenVolumes,
};

type Answer<T> = oneshot::Sender<Result<T, ContainerError>>;

/// The actor of one container.
#[derive(Debug)]
pub struct One {
    env: Arc<Env>,
    id: ContainerId,
    view: watch::Sender<View>,
    live: Option<Live>,
    /// What opens the volumes at the launch that is about to begin.
    key: Option<Key>,
    /// The volumes of a guest that reboots.
    kept: OpenVolumes,
    /// What it has stored is being deleted.
    wiping: bool,
    service: Option<GuestService>,
    /// Who waits for the launch.
    starters: Vec<Answer<Started>>,
    /// Who waits for the freezer.
    freezers: Vec<Answer<()>>,
    /// The limit of the present state.
    limit: Option<SpawnHandle>,
    /// The polite request that is under way.
    asking: Option<SpawnHandle>,
    brake: RebootBrake,
    /// How often in a row `core0` has rebooted itself before it had run well.
    hasty_reboots: u32,
    /// Whoever changes its devices does so in turn.
    device_changes: Arc<Mutex<()>>,
    /// There was news of devices while it was being launched.
    missed_devices: bool,
    /// The pause before a guest that reboots again and again is started.
    pausing: Option<SpawnHandle>,
    /// The configuration from the next launch on.
    next: Option<Reconfigure>,
    /// Closed when the manager is gone; its successor makes new actors.
    manager: watch::Receiver<()>,
    watch: Watch,
}

impl One {
    /// Starts the actor of a container on the current arbiter.
    pub fn start(
        env: Arc<Env>,
        id: ContainerId,
        view: watch::Sender<View>,
        manager: watch::Receiver<()>,
        watch: Watch,
    ) -> Addr<Self> {
        Actor::start(Self {
            env,
            id,
            view,
            live: None,
            key: None,
            kept: OpenVolumes::default(),
            wiping: false,
            service: None,
            starters: Vec::new(),
            freezers: Vec::new(),
            limit: None,
            asking: None,
            brake: RebootBrake::default(),
            hasty_reboots: 0,
            device_changes: Arc::default(),
            missed_devices: false,
            pausing: None,
            next: None,
            manager,
            watch,
        })
    }

    fn state(&self) -> State {
        self.view.borrow().state
    }

    /// What the operator calls it.
    fn name(&self) -> String {
        self.view.borrow().config.name.clone()
    }

    fn audit(&self, note: Note) {
        self.env.events.audit(note);
    }

    fn config(&self) -> Arc<ContainerConfig> {
        self.view.borrow().config.clone()
    }

    /// The only way to another state.
    fn apply(&mut self, event: Event, context: &mut Context<Self>) -> Result<(), Refusal> {
        let before = self.state();
        let (next, effects) = fsm::step(before, event)?;
        if next != before {
            if let Some(did) = noted::change(before, next) {
                self.audit(did.to(self.id));
            }
            if let Some(failed) = event.tells_of_failure() {
                self.view.send_modify(|view| view.failed = failed);
            }
            self.enter(next, context);
        }
        for effect in effects {
            self.perform(effect, context);
        }
        // A guest that is not to be started again need not wait for it.
        if next == State::ShuttingDown
            && let Some(pause) = self.pausing.take()
        {
            context.cancel_future(pause);
            self.clean_up(context);
        }
        Ok(())
    }

    /// An event that is a report: when it comes too late to matter, that is all there is to say.
    fn report(&mut self, event: Event, context: &mut Context<Self>) {
        if self.apply(event, context).is_err() {
            let state = self.state();
            tracing::debug!(container = %self.id, name = %self.name(), ?event, ?state, "a report that no longer matters");
        }
    }

    fn enter(&mut self, next: State, context: &mut Context<Self>) {
        if let Some(limit) = self.limit.take() {
            context.cancel_future(limit);
        }
        // Stopped, or about to be started again after a reboot of the guest.
        if next.is_at_rest() || matches!(next, State::Starting { .. }) {
            self.reconfigure();
        }
        if let Some(live) = &mut self.live {
            live.running.state = next;
            // A small file in a tmpfs; it must be there before anybody hears of the new state.
            if let Err(error) = live.note(&self.env, self.id) {
                tracing::error!(container = %self.id, name = %self.name(), error, "the record is out of date");
            }
        }
        let started = self.live.as_ref().map(|live| live.running.started);
        let control = self.live.as_ref().and_then(|live| live.control.clone());
        self.view.send_modify(|view| {
            view.state = next;
            view.control = control.filter(|_| next.listens());
            view.started = started.filter(|_| !next.is_at_rest());
            view.well &= !matches!(next, State::Starting { .. });
        });
        if next == State::Running && self.id.is_core0() {
            let well = |one: &mut Self, _: &mut _| one.view.send_modify(|view| view.well = true);
            self.limit = Some(context.run_later(PROOF, well));
        }
        let state = match next {
            // As tables call it.
            State::ShuttingDown => "SHUTTING_DOWN",
            _ => next.wire().as_str_name(),
        };
        tracing::info!(container = %self.id, name = %self.name(), state, "state changed");
        self.env.events.publish(BusEvent::StateChanged {
            id: self.id,
            state: next.wire(),
        });
    }

    /// Takes a changed configuration over.
    fn reconfigure(&mut self) {
        if let Some(next) = self.next.take() {
            self.view.send_modify(|view| {
                view.config = next.config;
                view.guest = next.guest;
            });
        }
    }

    /// Takes a running guest over: its end is noticed and its service socket served from now on.
    fn hold(&mut self, mut live: Live, context: &mut Context<Self>) {
        let ended = ending::wait(
            live.pidfd.clone(),
            live.running.pid,
            live.running.start_time,
            self.env.groups.clone(),
        );
        let (pool, group) = (self.env.groups.clone(), live.running.group.clone());
        let ended = async move {
            let ended = ended.await;
            // The group still counts: it is cleaned up after this.
            let kills = move || group.usage().oom_kills.unwrap_or_default();
            let kills = match ending::is_failure(ended) {
                true => pool.run(kills).await.unwrap_or_default(),
                false => 0,
            };
            (ended, kills)
        };
        context.spawn(
            ended
                .into_actor(self)
                .map(|(ended, oom_kills), one, context| {
                    let end = ending::told(ended, one.state() == State::ShuttingDown, oom_kills);
                    let (name, reason) = (one.name(), &end.reason);
                    match end.out_of_memory() {
                        true => {
                            tracing::warn!(container = %one.id, name, ?ended, reason, "init ended")
                        }
                        false => {
                            tracing::info!(container = %one.id, name, ?ended, reason, "init ended")
                        }
                    }
                    one.view.send_modify(|view| view.last_end = Some(end));
                    let again = match one.id.is_core0() {
                        true => !one.ended_in_vain(ended) && ending::is_reboot(ended),
                        false => ending::is_reboot(ended) || one.restarts_after(ended),
                    };
                    one.report(Event::Ended { reboot: again }, context);
                }),
        );
        if let Some(socket) = live.service.take() {
            self.serve_guest(socket, context);
        }
        if let Some(emulator) = live.emulator.clone() {
            let lost = ending::lost(emulator, live.pidfd.clone()).into_actor(self);
            context.spawn(lost.map(Self::emulator_lost));
        }
        self.live = Some(live);
    }

    fn restarts_after(&self, ended: Ended) -> bool {
        self.config().restart_on_failure() && ending::is_failure(ended)
    }

    /// Whether `core0` has come to nothing: whoever keeps it decides then how it is started again (`core0.rs`).
    fn ended_in_vain(&mut self, ended: Ended) -> bool {
        let well = self.view.borrow().well;
        let life = Life {
            ended,
            asked: self.state() == State::ShuttingDown,
            well,
            reboots: self.hasty_reboots,
        };
        self.hasty_reboots = match well || !ending::is_reboot(ended) {
            true => 0,
            false => self.hasty_reboots.saturating_add(1),
        };
        let in_vain = life.was_in_vain();
        if in_vain {
            self.view.send_modify(|view| view.failed = true);
        }
        in_vain
    }

    /// Nothing hangs: what nobody does any more does not exist for the guest (docs/adr/0041-system-calls.md).
    fn emulator_lost(reason: Option<String>, one: &mut Self, _: &mut Context<Self>) {
        let Some(reason) = reason else { return };
        if let Some(live) = &mut one.live {
            live.emulator = None;
        }
        tracing::error!(
            container = %one.id, name = %one.name(), reason,
            "the process that does its system calls has ended; until it is started again mknod, sysinfo and \
             the others answer ENOSYS",
        );
    }

    fn serve_guest(&mut self, socket: OwnedFd, context: &mut Context<Self>) {
        let config = self.config();
        let dns = config.dns_server().to_owned();
        let audit = GuestAudit::new(self.env.audit.clone(), self.id, self.view.subscribe());
        let answers = Answers {
            audit,
            name: config.name.clone(),
            dns: match dns.is_empty() {
                true => self.env.settings.host_dns.clone(),
                false => dns,
            },
        };
        match GuestService::start(socket, answers) {
            Ok((service, mut booted)) => {
                self.service = Some(service);
                let booted = async move { booted.recv().await };
                context.spawn(booted.into_actor(self).map(|booted, one, context| {
                    if booted.is_some() {
                        one.report(Event::BootCompleted, context);
                    }
                }));
            }
            Err(error) => {
                tracing::warn!(container = %self.id, name = %self.name(), %error, "the guest's socket is not served");
            }
        }
    }

    /// Why an event was refused, in the words of the service.
    fn refused(&self, refusal: Refusal) -> ContainerError {
        match refusal {
            Refusal::AlreadyRunning if self.state() == State::ShuttingDown => {
                ContainerError::StillStopping(self.id)
            }
            Refusal::AlreadyRunning => ContainerError::AlreadyRunning(self.id),
            Refusal::NotRunning | Refusal::Stale => ContainerError::NotRunning(self.id),
            Refusal::Zombie => ContainerError::Zombie(self.id),
        }
    }

    /// Whether the event would be taken now; asked before a PIN is looked at (protocol.md 3.5).
    fn admits(&self, event: Event) -> Result<(), ContainerError> {
        match fsm::step(self.state(), event) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Asks the container's token, without holding up anything else.
    fn authorise(
        &self,
        pin: Option<Pin>,
    ) -> impl Future<Output = Result<(), ContainerError>> + use<> {
        let (env, id, config) = (self.env.clone(), self.id, self.config());
        async move { authorise(&env, id, &config, pin).await }
    }

    /// As [`One::authorise`], for a start.
    fn unlock(
        &self,
        setup: bool,
        pin: Option<Pin>,
    ) -> impl Future<Output = Result<Option<Key>, ContainerError>> + use<> {
        let (env, id, config) = (self.env.clone(), self.id, self.config());
        async move { unlock(&env, id, &config, setup, pin).await }
    }

    /// A device that shuts down starts nothing any more, and nothing starts while it is being wiped.
    fn is_open(&self) -> Result<(), ContainerError> {
        let reason = if self.env.is_closing() {
            "cmld is shutting down"
        } else if self.wiping {
            "it is being wiped"
        } else if self.env.store.is_wiping(self.id) {
            "it was not wiped completely; wipe it again"
        } else {
            return Ok(());
        };
        Err(ContainerError::Launch {
            id: self.id,
            reason: reason.into(),
        })
    }

    /// Waits for the end of a launch that is under way: it cannot be interrupted, but what comes of it can be
    /// stopped.
    fn launched_or_not(&mut self) -> impl Future<Output = ()> + use<> {
        let outcome = matches!(self.state(), State::Starting { .. }).then(|| {
            let (answer, answered) = oneshot::channel();
            self.starters.push(answer);
            answered
        });
        async move {
            if let Some(outcome) = outcome {
                let _ = outcome.await;
            }
        }
    }

    /// Applies the event and waits for what the list of answers is told about its effect.
    fn apply_and_wait<T>(
        &mut self,
        event: Event,
        answers: fn(&mut Self) -> &mut Vec<Answer<T>>,
        context: &mut Context<Self>,
    ) -> impl Future<Output = Result<T, ContainerError>> + use<T> {
        let (answer, answered) = oneshot::channel();
        let applied = self
            .apply(event, context)
            .map_err(|refusal| self.refused(refusal));
        // The effect was only scheduled, so its outcome finds the answer here.
        if applied.is_ok() {
            answers(self).push(answer);
        }
        async move {
            applied?;
            let lost = ContainerError::Bus(BusError::ServerDeath("container.one"));
            answered.await.unwrap_or(Err(lost))
        }
    }

    /// Deletes what the container has stored; nothing of it runs.
    fn wipe(
        &mut self,
        context: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), ContainerError>> + use<> {
        let (answer, answered) = oneshot::channel();
        let (env, id) = (self.env.clone(), self.id);
        self.wiping = true;
        let wipe = async move { env.wipe(id).await };
        context.spawn(wipe.into_actor(self).map(|wiped, one, context| {
            one.wiping = false;
            match &wiped {
                Ok(()) if one.state() == State::Zombie => one.report(Event::Wiped, context),
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(container = %one.id, name = %one.name(), %error, "not wiped")
                }
            }
            let _ = answer.send(wiped);
        }));
        async move {
            let lost = ContainerError::Bus(BusError::ServerDeath("container.one"));
            answered.await.unwrap_or(Err(lost))
        }
    }

    /// A wipe that a daemon before this one has begun is finished before anything else happens.
    fn finish_wipe(&self, context: &mut Context<Self>) {
        if !self.state().is_at_rest() || !self.env.store.is_wiping(self.id) {
            return;
        }
        tracing::warn!(container = %self.id, name = %self.name(), "finishing an interrupted wipe");
        let (env, id) = (self.env.clone(), self.id);
        let wipe = async move { env.wipe(id).await };
        context.wait(wipe.into_actor(self).map(|wiped, one, _| {
            if let Err(error) = wiped {
                tracing::error!(container = %one.id, name = %one.name(), %error, "not wiped");
            }
        }));
    }

    fn adopted(&mut self, live: Live, context: &mut Context<Self>) {
        // What a dead daemon was about to do to the container is done again or taken back.
        let (state, event) = match live.running.state {
            State::Freezing { setup } => (State::Frozen { setup }, Some(Event::Thaw)),
            State::Booting => (State::Starting { setup: false }, Some(Event::Launched)),
            State::ShuttingDown => (State::Running, Some(Event::Stop)),
            state @ (State::Running | State::Setup | State::Frozen { .. }) => (state, None),
            _ => (State::Running, None),
        };
        let guest = live.running.guest();
        // What lies on disk may be an update that it has not taken yet.
        let running_with = text::parse(live.running.config.as_bytes()).ok();
        self.view.send_modify(|view| {
            if let Some(config) = running_with.filter(|config| *config != *view.config) {
                self.next = Some(Reconfigure {
                    config: std::mem::replace(&mut view.config, Arc::new(config)),
                    guest: view.guest,
                });
            }
            view.guest = Some(guest);
            view.state = state;
        });
        tracing::info!(container = %self.id, name = %self.name(), ?state, pid = live.running.pid, "running container adopted");
        self.audit(Did::Adopt.to(self.id));
        self.hold(live, context);
        self.enter(state, context);
        if let Some(event) = event {
            self.report(event, context);
        }
        // A device may have come or gone while there was no daemon.
        self.catch_up(context);
    }
}

impl Actor for One {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (env, id) = (self.env.clone(), self.id);
        // In turn: a launch that a predecessor began is over then, and what it started is found.
        let adopt = async move {
            let adopt = move |env: &Env| launch::adopt(env, id);
            env.in_turn(id, &env.groups, adopt).await
        };
        let adopt = adopt.into_actor(self).map(|adopted, one, context| {
            // A new actor of a container that does not run begins anew.
            let fresh = |view: &mut View| (view.state, view.started) = (State::Stopped, None);
            match adopted.ok().flatten() {
                Some(live) => one.adopted(live, context),
                None => one.view.send_modify(fresh),
            }
            one.finish_wipe(context);
            one.view.send_modify(|view| view.known = true);
        });
        // Nothing is answered before it is known whether the container runs. The job asks no actor.
        context.wait(adopt);
        let mut manager = self.manager.clone();
        let orphaned = async move { while manager.changed().await.is_ok() {} };
        context.spawn(orphaned.into_actor(self).map(|(), one, context| {
            one.watch.ends_cleanly();
            context.stop();
        }));
    }
}
