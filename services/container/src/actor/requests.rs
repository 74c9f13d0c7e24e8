//! What one container is asked for: the commands of the service's contract and those of the manager.

use cml_bus::{
    actor::{
        ActorContext, ActorFutureExt, Context, Handler, ResponseActFuture, ResponseFuture,
        WrapFuture, fut,
    },
    api::container::{ContainerError, Exec, ExecSession, SetFrozen, Start, Started, Stop},
    audit::Did,
    error::BusError,
};
use cml_sys::{
    exec::{self, RunError, Target},
    idmap::IdRange,
};

use super::One;
use crate::{
    exec::session,
    fsm::{Event, State},
    noted,
    one::{Halt, Kill, Reassess, Reconfigure, Retire, WipeAtRest},
    plan,
};

impl Handler<Start> for One {
    type Result = ResponseActFuture<Self, Result<Started, ContainerError>>;

    fn handle(&mut self, request: Start, _: &mut Context<Self>) -> Self::Result {
        let event = Event::Start {
            setup: request.setup,
        };
        if let Err(error) = self.admits(event).and_then(|()| self.is_open()) {
            self.audit(noted::not_started(|did| did.to(self.id), &error));
            return Box::pin(fut::err(error));
        }
        let unlock = self.unlock(request.setup, request.pin).into_actor(self);
        Box::pin(unlock.then(move |unlocked, one, context| {
            let begun = match unlocked.and_then(|key| one.is_open().map(|()| key)) {
                Ok(key) => {
                    // Of two starts at the same time one is refused, and must not take the other's key.
                    if one.admits(event).is_ok() {
                        one.key = key;
                    }
                    Ok(one.apply_and_wait(event, |one| &mut one.starters, context))
                }
                Err(error) => {
                    one.audit(noted::not_started(|did| did.to(one.id), &error));
                    // Another start may have been quicker; then its launch finds out by itself.
                    let damaged = matches!(error, ContainerError::Damaged { .. });
                    if damaged && one.admits(event).is_ok() {
                        one.report(Event::DataDamaged, context);
                    }
                    Err(error)
                }
            };
            async move { begun?.await }.into_actor(one)
        }))
    }
}

impl Handler<Stop> for One {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, request: Stop, _: &mut Context<Self>) -> Self::Result {
        let launched = self.launched_or_not().into_actor(self);
        let unlocked = launched.then(|(), one, _| {
            let admitted = one.admits(Event::Stop);
            let unlock = one.authorise(request.pin);
            async move {
                admitted?;
                unlock.await
            }
            .into_actor(one)
        });
        Box::pin(unlocked.map(|unlocked, one, context| {
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
            let error = match self.state() {
                State::Freezing { .. } | State::Frozen { .. } => ContainerError::Frozen(id),
                _ => ContainerError::NotRunning(id),
            };
            return Box::pin(std::future::ready(Err(error)));
        };
        let program = request.argv.first().cloned().unwrap_or_default();
        let command = plan::Command {
            argv: request.argv,
            env: request.env,
            workdir: request.workdir,
            user: request.user,
            terminal: request.terminal.map(|size| (size.cols, size.rows)),
        };
        let inside = plan::Inside {
            init_env: &live.running.init_env,
            user_namespace: live.running.id_slot.is_some(),
            confinement: &live.running.confinement,
        };
        let plan = plan::enter(inside, command);
        let (init, group) = (live.pidfd.clone(), live.running.group.clone());
        let emulator = live.emulator.clone();
        let ids = live.running.id_slot.and_then(IdRange::of_slot);
        let (env, events) = (self.env.clone(), self.env.events.clone());
        // Arguments may hold anything, the name of the program is what counts.
        let note = Did::Exec.to(id).meta("command", program);
        let run = async move {
            let failed = |reason: String| ContainerError::Exec { id, reason };
            let commands = env.commands.clone();
            let enter = move || {
                let target = Target {
                    init: &init,
                    group: &group,
                    ids,
                    emulator: emulator.as_deref(),
                };
                exec::run(&env.program, target, &plan)
            };
            let running = commands.run(enter).await.map_err(BusError::from)?;
            let running = running.map_err(|error| match error {
                RunError::NoProgram(name) => ContainerError::NoProgram { id, name },
                RunError::Failed(error) => failed(error.to_string()),
            })?;
            session(running, commands).map_err(|error| failed(error.to_string()))
        };
        Box::pin(async move {
            let session = run.await;
            events.audit(noted::outcome(note, &session));
            session
        })
    }
}

impl Handler<WipeAtRest> for One {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, _: WipeAtRest, context: &mut Context<Self>) -> Self::Result {
        let admitted = match self.state().is_at_rest() && !self.wiping {
            true => Ok(()),
            false => Err(ContainerError::AlreadyRunning(self.id)),
        };
        let wiped = admitted.map(|()| self.wipe(context));
        Box::pin(async move { wiped?.await })
    }
}

impl Handler<Reconfigure> for One {
    type Result = Result<(), ContainerError>;

    fn handle(&mut self, request: Reconfigure, _: &mut Context<Self>) -> Self::Result {
        self.next = Some(request);
        if self.state().is_at_rest() {
            self.reconfigure();
        }
        Ok(())
    }
}

impl Handler<Reassess> for One {
    type Result = Result<(), ContainerError>;

    fn handle(&mut self, request: Reassess, _: &mut Context<Self>) -> Self::Result {
        let waiting = self.next.as_ref().map(|next| next.config.clone());
        let config = waiting.unwrap_or_else(|| self.config());
        if *config == *request.config {
            self.next = Some(Reconfigure {
                config,
                guest: request.guest,
            });
            if self.state().is_at_rest() {
                self.reconfigure();
            }
        }
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
