//! What the state machine wants done: each effect is begun here, and what came of it is reported as the next event.

use std::time::Duration;

use cml_bus::{
    actor::{ActorFutureExt, AsyncContext, Context, WrapFuture},
    api::container::{ContainerError, Started},
    audit::Did,
};
use cml_sys::{cgroup::Group, proc};

use super::One;
use crate::{
    ending::{self, STOP_LIMIT},
    env::Env,
    fsm::{Effect, Event, State},
    guest_service::GuestService,
    launch::{self, Access, Live},
    noted,
    volumes::OpenVolumes,
};

/// How long a guest may boot before it is killed (runtime.md 0.5).
const BOOT_LIMIT: Duration = Duration::from_secs(800);
/// Pause before a kill that failed is tried again.
const KILL_PAUSE: Duration = Duration::from_secs(1);

impl One {
    pub(super) fn perform(&mut self, effect: Effect, context: &mut Context<Self>) {
        match effect {
            Effect::Launch { setup } => self.launch(setup, context),
            Effect::AwaitBoot => self.await_boot(context),
            Effect::AskToStop => self.ask_to_stop(context),
            Effect::Kill => self.kill(context),
            Effect::Freeze => self.freeze(context),
            Effect::Thaw => self.thaw(context),
            Effect::CleanUp => self.clean_up(context),
        }
    }

    fn launch(&mut self, setup: bool, context: &mut Context<Self>) {
        let (env, id, config) = (self.env.clone(), self.id, self.config());
        let access = Access {
            setup,
            key: self.key.take(),
            kept: std::mem::take(&mut self.kept),
        };
        let launch = async move { launch::launch(&env, id, &config, access).await };
        context.spawn(launch.into_actor(self).map(|outcome, one, context| {
            let answer = outcome.map(|live| one.launched(live, context));
            if let Err(error) = &answer {
                tracing::warn!(container = %one.id, name = %one.name(), %error, "launch failed");
                one.audit(noted::not_started(|did| did.to(one.id), error));
                let end = ending::came_to_nothing(error.to_string());
                one.view.send_modify(|view| view.last_end = Some(end));
                let event = match error {
                    ContainerError::Damaged { .. } => Event::DataDamaged,
                    _ => Event::LaunchFailed,
                };
                one.report(event, context);
            }
            for starter in one.starters.drain(..) {
                let _ = starter.send(answer.clone());
            }
        }));
    }

    fn launched(&mut self, mut live: Live, context: &mut Context<Self>) -> Started {
        let warnings = std::mem::take(&mut live.warnings);
        for warning in &warnings {
            tracing::warn!(container = %self.id, name = %self.name(), "{warning}");
        }
        self.view
            .send_modify(|view| view.guest = Some(live.running.guest()));
        self.hold(live, context);
        self.report(Event::Launched, context);
        if std::mem::take(&mut self.missed_devices) {
            self.catch_up(context);
        }
        Started { warnings }
    }

    /// Brings its devices into line with what is there, after a time in which nobody looked.
    pub(super) fn catch_up(&self, context: &mut Context<Self>) {
        context.spawn(self.look_again().map(|looked, one, _| {
            if let Err(error) = looked {
                tracing::warn!(container = %one.id, name = %one.name(), %error, "it was not told of a device");
            }
        }));
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

    pub(super) fn limit_state(
        &mut self,
        limit: Duration,
        event: Event,
        context: &mut Context<Self>,
    ) {
        if let Some(earlier) = self.limit.take() {
            context.cancel_future(earlier);
        }
        let limit = context.run_later(limit, move |one, context| {
            tracing::warn!(container = %one.id, name = %one.name(), ?event, "too late");
            one.report(event, context);
        });
        self.limit = Some(limit);
    }

    fn ask_to_stop(&mut self, context: &mut Context<Self>) {
        self.limit_state(STOP_LIMIT, Event::StopOverdue, context);
        self.audit(Did::AskToStop.to(self.id));
        let told = self
            .service
            .as_ref()
            .is_some_and(GuestService::ask_to_shut_down);
        let Some(live) = &self.live else { return };
        let running = &live.running;
        let ask = ending::ask(running.init, running.pid, live.pidfd.clone(), told);
        self.asking = Some(context.spawn(ask.into_actor(self)));
    }

    /// Runs a job on the container's groups in its turn, and then `after` with what came of it.
    fn on_group<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Group) -> T + Send + 'static,
        after: impl FnOnce(Result<T, ContainerError>, &mut Self, &mut Context<Self>) + 'static,
        context: &mut Context<Self>,
    ) {
        let Some(live) = &self.live else { return };
        let group = live.running.group.clone();
        let (env, id) = (self.env.clone(), self.id);
        let work = async move { env.in_turn(id, &env.groups, move |_| job(&group)).await };
        context.spawn(work.into_actor(self).map(after));
    }

    fn kill(&self, context: &mut Context<Self>) {
        self.audit(Did::Kill.to(self.id));
        let after = |killed: Result<cml_sys::Result<()>, _>, one: &mut Self, context: &mut _| {
            if matches!(killed, Ok(Ok(()))) || one.state() != State::ShuttingDown {
                return;
            }
            tracing::error!(container = %one.id, name = %one.name(), ?killed, "not killed; trying again");
            one.limit_state(KILL_PAUSE, Event::StopOverdue, context);
        };
        self.on_group(Group::kill, after, context);
    }

    fn freeze(&self, context: &mut Context<Self>) {
        let after = |frozen: Result<cml_sys::Result<()>, _>, one: &mut Self, context: &mut _| {
            let id = one.id;
            let answer = frozen.and_then(|frozen| {
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
        };
        self.on_group(|group| group.set_frozen(true), after, context);
    }

    fn thaw(&self, context: &mut Context<Self>) {
        let after = |thawed: Result<cml_sys::Result<()>, _>, one: &mut Self, _: &mut _| {
            if !matches!(thawed, Ok(Ok(()))) {
                tracing::error!(container = %one.id, name = %one.name(), ?thawed, "the container was not thawed");
            }
        };
        self.on_group(|group| group.set_frozen(false), after, context);
    }

    pub(super) fn clean_up(&mut self, context: &mut Context<Self>) {
        self.service = None;
        if let Some(asking) = self.asking.take() {
            context.cancel_future(asking);
        }
        let live = self.live.take();
        let kept = std::mem::take(&mut self.kept);
        let reboots = self.state() == State::Rebooting;
        let lived = live.as_ref().map_or(0, |live| {
            proc::boottime().saturating_sub(live.running.started)
        });
        let (env, id) = (self.env.clone(), self.id);
        let clean_up = async move {
            let clean = move |env: &Env| match live {
                Some(live) => launch::clean_up(env, id, live, reboots),
                None => {
                    launch::give_up(env, id, kept);
                    OpenVolumes::default()
                }
            };
            let cleaned = env.in_turn(id, &env.groups, clean).await;
            cleaned.unwrap_or_else(|error| {
                tracing::error!(container = %id, %error, "cleaning up broke off");
                OpenVolumes::default()
            })
        };
        context.spawn(clean_up.into_actor(self).map(move |kept, one, context| {
            one.kept = kept;
            // It was asked to stop while it was being cleaned up for its reboot.
            if one.state() == State::ShuttingDown && !one.kept.is_empty() {
                return one.clean_up(context);
            }
            // The state stays REBOOTING during the pause, so that a stop still reaches it.
            let pause = match one.state() {
                State::Rebooting => one.brake.pause(lived),
                _ => Duration::ZERO,
            };
            if pause.is_zero() {
                return one.report(Event::CleanedUp, context);
            }
            tracing::warn!(container = %one.id, name = %one.name(), ?pause, "the guest reboots again and again");
            let resume = context.run_later(pause, |one, context| {
                one.pausing = None;
                one.report(Event::CleanedUp, context);
            });
            one.pausing = Some(resume);
        }));
    }
}
