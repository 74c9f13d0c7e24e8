//! One container: runs the state machine and carries out its effects.
//!
//! The actor can die and be started again at any time; what it needs to go on is in the record
//! (`record.rs`), not in it. A start therefore always begins with adopting what the record says.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use cml_bus::{
    actor::{
        Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler,
        ResponseActFuture, ResponseFuture, SpawnHandle, WrapFuture, fut,
    },
    api::{
        container::{ContainerError, Exec, ExecSession, SetFrozen, Start, Stop},
        guestos::Find,
        token::{TokenError, Unlock},
    },
    error::BusError,
    event::Event as BusEvent,
    id::ContainerId,
    secret::Pin,
    supervisor::Watch,
};
use cml_sys::{
    exec,
    pidfd::{self, Ended},
    ready::watch_readable,
    signal,
};
use cml_wire::proto::{ContainerConfig, ContainerTokenType, ContainerTrust};
use rustix::process::Signal;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep},
};

use crate::{
    env::{Env, died},
    exec::session,
    fsm::{self, Effect, Event, Refusal, State},
    guest_service::{Answers, GuestService},
    launch::{self, Live},
    plan,
    view::View,
};

/// How long a guest may boot before it is killed (runtime.md 0.5).
const BOOT_LIMIT: Duration = Duration::from_secs(800);
/// How long a guest may take to shut down before it is killed (runtime.md 0.5).
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// How long a guest that was told on its service socket may do nothing before init gets the signal too:
/// the existing client reads the message and ignores it (runtime.md 9, number 4).
const MESSAGE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between looks whether init listens to its signal yet; it may have been started a moment ago.
const SIGNAL_PAUSE: Duration = Duration::from_millis(20);

/// Stop without a PIN: the device shuts down.
#[derive(Debug)]
pub struct Halt;

/// End at once: the container is about to be removed.
#[derive(Debug)]
pub struct Kill;

/// Use this configuration from now on; only while nothing runs.
#[derive(Debug)]
pub struct Reconfigure {
    /// The configuration.
    pub config: Arc<ContainerConfig>,
    /// Who vouches for its guest OS.
    pub trust: Option<ContainerTrust>,
}

/// End this actor; the container is gone.
#[derive(Debug)]
pub struct Retire;

cml_bus::request!(Halt => (), ContainerError, "container.one.halt", 10 s);
cml_bus::request!(Kill => (), ContainerError, "container.one.kill", 10 s);
cml_bus::request!(Reconfigure => (), ContainerError, "container.one.reconfigure", 10 s);
cml_bus::request!(Retire => (), ContainerError, "container.one.retire", 10 s);

cml_bus::service_port! {
    /// What the manager asks of one container.
    OnePort {
        /// Start.
        start: Start,
        /// Stop.
        stop: Stop,
        /// Freeze or thaw.
        set_frozen: SetFrozen,
        /// Run a command.
        exec: Exec,
        /// Stop without a PIN.
        halt: Halt,
        /// End at once.
        kill: Kill,
        /// New configuration.
        reconfigure: Reconfigure,
        /// End the actor.
        retire: Retire,
    }
}

type Answer = oneshot::Sender<Result<(), ContainerError>>;

/// The actor of one container.
#[derive(Debug)]
pub struct One {
    env: Arc<Env>,
    id: ContainerId,
    view: watch::Sender<View>,
    live: Option<Live>,
    service: Option<GuestService>,
    /// Who waits for the launch.
    starters: Vec<Answer>,
    /// Who waits for the freezer.
    freezers: Vec<Answer>,
    /// The limit of the present state.
    limit: Option<SpawnHandle>,
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
            service: None,
            starters: Vec::new(),
            freezers: Vec::new(),
            limit: None,
            manager,
            watch,
        })
    }

    fn state(&self) -> State {
        self.view.borrow().state
    }

    fn config(&self) -> Arc<ContainerConfig> {
        self.view.borrow().config.clone()
    }

    /// The only way to another state.
    fn apply(&mut self, event: Event, context: &mut Context<Self>) -> Result<(), Refusal> {
        let before = self.state();
        let (next, effects) = fsm::step(before, event)?;
        if next != before {
            self.enter(next, context);
        }
        for effect in effects {
            self.perform(effect, context);
        }
        Ok(())
    }

    /// An event that is a report: when it comes too late to matter, that is all there is to say.
    fn report(&mut self, event: Event, context: &mut Context<Self>) {
        if self.apply(event, context).is_err() {
            let state = self.state();
            tracing::debug!(container = %self.id, ?event, ?state, "a report that no longer matters");
        }
    }

    fn enter(&mut self, next: State, context: &mut Context<Self>) {
        if let Some(limit) = self.limit.take() {
            context.cancel_future(limit);
        }
        if let Some(live) = &mut self.live {
            live.running.state = next;
            // A small file in a tmpfs; it must be there before anybody hears of the new state.
            live.note(&self.env, self.id);
        }
        let started = self.live.as_ref().map(|live| live.running.started);
        self.view.send_modify(|view| {
            view.state = next;
            view.started = started.filter(|_| !next.is_at_rest());
        });
        let name = next.wire().as_str_name();
        tracing::info!(container = %self.id, state = name, "state changed");
        self.env.events.publish(BusEvent::StateChanged {
            id: self.id,
            state: next.wire(),
        });
    }

    fn perform(&mut self, effect: Effect, context: &mut Context<Self>) {
        match effect {
            Effect::Launch { .. } => self.launch(context),
            Effect::AwaitBoot => self.await_boot(context),
            Effect::AskToStop => self.ask_to_stop(context),
            Effect::Kill => self.kill(context),
            Effect::Freeze => self.freeze(context),
            Effect::Thaw => self.thaw(context),
            Effect::CleanUp => self.clean_up(context),
        }
    }

    fn launch(&mut self, context: &mut Context<Self>) {
        let (env, id, config) = (self.env.clone(), self.id, self.config());
        let launch = async move { launch::launch(&env, id, &config).await };
        context.spawn(launch.into_actor(self).map(|outcome, one, context| {
            let answer = outcome.map(|live| one.launched(live, context));
            if let Err(error) = &answer {
                tracing::warn!(container = %one.id, %error, "launch failed");
                one.report(Event::LaunchFailed, context);
            }
            for starter in one.starters.drain(..) {
                let _ = starter.send(answer.clone());
            }
        }));
    }

    fn launched(&mut self, live: Live, context: &mut Context<Self>) {
        self.view
            .send_modify(|view| view.trust = Some(live.running.trust()));
        self.hold(live, context);
        self.report(Event::Launched, context);
    }

    /// Takes a running guest over: its end is noticed and its service socket served from now on.
    fn hold(&mut self, mut live: Live, context: &mut Context<Self>) {
        let ended = wait_for_end(live.pidfd.clone());
        context.spawn(ended.into_actor(self).map(|ended, one, context| {
            tracing::info!(container = %one.id, ?ended, "init ended");
            // reboot(2) inside a PID namespace ends its init by this signal (pid_namespaces(7)).
            let reboot = ended == Ended::Signalled(Signal::HUP.as_raw());
            one.report(Event::Ended { reboot }, context);
        }));
        if let Some(socket) = live.service.take() {
            self.serve_guest(socket, context);
        }
        self.live = Some(live);
    }

    fn serve_guest(&mut self, socket: OwnedFd, context: &mut Context<Self>) {
        let config = self.config();
        let dns = config.dns_server().to_owned();
        let answers = Answers {
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
                tracing::warn!(container = %self.id, %error, "the guest's socket is not served");
            }
        }
    }

    fn await_boot(&mut self, context: &mut Context<Self>) {
        let reports = |live: &Live| live.running.init.boot_by_service;
        if self.live.as_ref().is_some_and(reports) {
            self.limit_state(BOOT_LIMIT, Event::BootOverdue, context);
        } else {
            // docs/adr/0002-init-modes.md: a guest that does not report runs when its init runs.
            self.report(Event::BootCompleted, context);
        }
    }

    fn limit_state(&mut self, limit: Duration, event: Event, context: &mut Context<Self>) {
        let limit = context.run_later(limit, move |one, context| {
            tracing::warn!(container = %one.id, ?event, "too late");
            one.report(event, context);
        });
        self.limit = Some(limit);
    }

    fn ask_to_stop(&mut self, context: &mut Context<Self>) {
        self.limit_state(STOP_LIMIT, Event::StopOverdue, context);
        let told = self
            .service
            .as_ref()
            .is_some_and(GuestService::ask_to_shut_down);
        let Some(live) = &self.live else { return };
        let (pid, pidfd) = (live.running.pid, live.pidfd.clone());
        let stop_signal = live.running.init.stop_signal;
        let ask = async move {
            if told {
                sleep(MESSAGE_PATIENCE).await;
            }
            let end = Instant::now() + STOP_LIMIT;
            while !signal::is_awaited(pid, stop_signal) && Instant::now() < end {
                sleep(SIGNAL_PAUSE).await;
            }
            // Fails when the guest has gone meanwhile.
            let _ = pidfd::signal(&pidfd, stop_signal);
        };
        context.spawn(ask.into_actor(self));
    }

    fn kill(&mut self, context: &mut Context<Self>) {
        let Some(live) = &self.live else { return };
        let (group, storage, id) = (
            live.running.group.clone(),
            self.env.storage.clone(),
            self.id,
        );
        let kill = async move {
            if let Ok(Err(error)) = storage.run(move || group.kill()).await {
                tracing::error!(container = %id, %error, "the container was not killed");
            }
        };
        context.spawn(kill.into_actor(self));
    }

    fn freeze(&mut self, context: &mut Context<Self>) {
        let Some(live) = &self.live else { return };
        let group = live.running.group.clone();
        let storage = self.env.storage.clone();
        let freeze = async move { storage.run(move || group.set_frozen(true)).await };
        context.spawn(freeze.into_actor(self).map(|frozen, one, context| {
            let id = one.id;
            let answer = frozen.map_err(died).and_then(|frozen| {
                frozen.map_err(|error| ContainerError::Freeze {
                    id,
                    reason: error.to_string(),
                })
            });
            let event = match answer {
                Ok(()) => Event::Froze,
                Err(_) => Event::FreezeFailed,
            };
            one.report(event, context);
            for freezer in one.freezers.drain(..) {
                let _ = freezer.send(answer.clone());
            }
        }));
    }

    fn thaw(&mut self, context: &mut Context<Self>) {
        let Some(live) = &self.live else { return };
        let group = live.running.group.clone();
        let (storage, id) = (self.env.storage.clone(), self.id);
        let thaw = async move {
            if let Ok(Err(error)) = storage.run(move || group.set_frozen(false)).await {
                tracing::error!(container = %id, %error, "the container was not thawed");
            }
        };
        context.spawn(thaw.into_actor(self));
    }

    fn clean_up(&mut self, context: &mut Context<Self>) {
        self.service = None;
        let live = self.live.take();
        let (env, id) = (self.env.clone(), self.id);
        let storage = env.storage.clone();
        let clean_up = async move {
            if let Some(live) = live {
                let done = storage.run(move || launch::clean_up(&env, id, live)).await;
                if let Err(error) = done {
                    tracing::error!(container = %id, %error, "cleaning up broke off");
                }
            }
        };
        context.spawn(clean_up.into_actor(self).map(|(), one, context| {
            one.report(Event::CleanedUp, context);
        }));
    }

    /// Why an event was refused, in the words of the service.
    fn refused(&self, refusal: Refusal) -> ContainerError {
        match refusal {
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

    /// Checks the PIN (protocol.md 3.5, paths B and C).
    fn unlock(&self, pin: Option<Pin>) -> impl Future<Output = Result<(), ContainerError>> + use<> {
        let (env, container, config) = (self.env.clone(), self.id, self.config());
        async move {
            match (config.token_type(), pin) {
                // Starts and stops without a PIN, whatever the client sends (design.md section 1).
                (ContainerTokenType::None, _) => Ok(()),
                (ContainerTokenType::Soft, Some(pin)) => {
                    let unlock = Unlock { container, pin };
                    Ok(env.token.unlock.call(unlock).await?)
                }
                (ContainerTokenType::Soft, None) => {
                    let find = Find {
                        name: config.guest_os.clone(),
                        version: env.version_for(&config),
                    };
                    let found = env.guestos.find.call(find).await?;
                    match plan::has_encrypted_volumes(&found.config) {
                        true => Err(TokenError::WrongPin.into()),
                        false => Ok(()),
                    }
                }
                (kind, _) => Err(ContainerError::BadConfig(format!(
                    "token_type {} is not available in this version",
                    kind.as_str_name()
                ))),
            }
        }
    }

    /// Applies the event and waits for what the list of answers is told about its effect.
    fn apply_and_wait(
        &mut self,
        event: Event,
        answers: fn(&mut Self) -> &mut Vec<Answer>,
        context: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), ContainerError>> + use<> {
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

    fn adopted(&mut self, live: Live, context: &mut Context<Self>) {
        // What a dead daemon was about to do to the container is done again or taken back.
        let (state, event) = match live.running.state {
            State::Freezing { setup } => (State::Frozen { setup }, Some(Event::Thaw)),
            State::Booting => (State::Starting { setup: false }, Some(Event::Launched)),
            State::ShuttingDown => (State::Running, Some(Event::Stop)),
            state @ (State::Running | State::Setup | State::Frozen { .. }) => (state, None),
            _ => (State::Running, None),
        };
        let trust = live.running.trust();
        self.view.send_modify(|view| {
            view.trust = Some(trust);
            view.state = state;
        });
        tracing::info!(container = %self.id, ?state, pid = live.running.pid, "running container adopted");
        self.hold(live, context);
        self.enter(state, context);
        if let Some(event) = event {
            self.report(event, context);
        }
    }
}

/// Waits until a process has ended and collects it if it is ours.
async fn wait_for_end(process: Arc<OwnedFd>) -> Ended {
    match watch_readable(&*process) {
        Ok(ready) => {
            let _ = ready.readable().await;
        }
        Err(error) => tracing::error!(%error, "cannot wait for a container in the event loop"),
    }
    pidfd::reap(&*process).unwrap_or(Ended::Unknown)
}

impl Actor for One {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (env, id) = (self.env.clone(), self.id);
        let storage = env.storage.clone();
        let adopt = async move { storage.run(move || launch::adopt(&env, id)).await };
        let adopt = adopt.into_actor(self).map(|adopted, one, context| {
            // A new actor of a container that does not run begins anew.
            let fresh = |view: &mut View| (view.state, view.started) = (State::Stopped, None);
            match adopted.ok().flatten() {
                Some(live) => one.adopted(live, context),
                None => one.view.send_modify(fresh),
            }
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

impl Handler<Start> for One {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, request: Start, _: &mut Context<Self>) -> Self::Result {
        let event = Event::Start {
            setup: request.setup,
        };
        if let Err(error) = self.admits(event) {
            return Box::pin(fut::err(error));
        }
        if request.setup {
            return Box::pin(fut::err(ContainerError::Launch {
                id: self.id,
                reason: "setup mode is not available in this version".into(),
            }));
        }
        let unlock = self.unlock(request.pin).into_actor(self);
        Box::pin(unlock.then(move |unlocked, one, context| {
            let begun =
                unlocked.map(|()| one.apply_and_wait(event, |one| &mut one.starters, context));
            async move { begun?.await }.into_actor(one)
        }))
    }
}

impl Handler<Stop> for One {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, request: Stop, _: &mut Context<Self>) -> Self::Result {
        if let Err(error) = self.admits(Event::Stop) {
            return Box::pin(fut::err(error));
        }
        let unlock = self.unlock(request.pin).into_actor(self);
        Box::pin(unlock.map(|unlocked, one, context| {
            unlocked?;
            let stopped = one.apply(Event::Stop, context);
            stopped.map_err(|refusal| one.refused(refusal))
        }))
    }
}

impl Handler<Halt> for One {
    type Result = Result<(), ContainerError>;

    fn handle(&mut self, _: Halt, context: &mut Context<Self>) -> Self::Result {
        let halted = self.apply(Event::Stop, context);
        halted.map_err(|refusal| self.refused(refusal))
    }
}

impl Handler<Kill> for One {
    type Result = Result<(), ContainerError>;

    fn handle(&mut self, _: Kill, context: &mut Context<Self>) -> Self::Result {
        let killed = self.apply(Event::Kill, context);
        killed.map_err(|refusal| self.refused(refusal))
    }
}

impl Handler<SetFrozen> for One {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, request: SetFrozen, context: &mut Context<Self>) -> Self::Result {
        if matches!(self.state(), State::Frozen { .. }) && request.frozen {
            return Box::pin(fut::ok(()));
        }
        if request.frozen {
            let frozen = self.apply_and_wait(Event::Freeze, |one| &mut one.freezers, context);
            return Box::pin(frozen.into_actor(self));
        }
        let thawed = self.apply(Event::Thaw, context);
        let thawed = thawed.map_err(|refusal| self.refused(refusal));
        Box::pin(fut::result(thawed))
    }
}

impl Handler<Exec> for One {
    type Result = ResponseFuture<Result<ExecSession, ContainerError>>;

    fn handle(&mut self, request: Exec, _: &mut Context<Self>) -> Self::Result {
        let id = self.id;
        let live = self.live.as_ref().filter(|_| self.state().takes_commands());
        let Some(live) = live else {
            return Box::pin(std::future::ready(Err(ContainerError::NotRunning(id))));
        };
        let command = plan::Command {
            argv: request.argv,
            env: request.env,
            workdir: request.workdir,
            terminal: request.terminal.map(|size| (size.cols, size.rows)),
        };
        let plan = plan::enter(
            &live.running.init_env,
            live.running.id_slot.is_some(),
            command,
        );
        let (init, group) = (live.pidfd.clone(), live.running.group.clone());
        let env = self.env.clone();
        Box::pin(async move {
            let failed = |reason: String| ContainerError::Exec { id, reason };
            let commands = env.commands.clone();
            let running = commands
                .run(move || exec::run(&env.program, &init, &group, &plan))
                .await
                .map_err(died)?
                .map_err(|error| failed(error.to_string()))?;
            session(running, commands).map_err(|error| failed(error.to_string()))
        })
    }
}

impl Handler<Reconfigure> for One {
    type Result = Result<(), ContainerError>;

    fn handle(&mut self, request: Reconfigure, _: &mut Context<Self>) -> Self::Result {
        if !self.state().is_at_rest() {
            return Err(ContainerError::AlreadyRunning(self.id));
        }
        self.view.send_modify(|view| {
            view.config = request.config;
            view.trust = request.trust;
        });
        Ok(())
    }
}

impl Handler<Retire> for One {
    type Result = Result<(), ContainerError>;

    fn handle(&mut self, _: Retire, context: &mut Context<Self>) -> Self::Result {
        if !self.state().is_at_rest() {
            return Err(ContainerError::AlreadyRunning(self.id));
        }
        self.watch.ends_cleanly();
        context.stop();
        Ok(())
    }
}
