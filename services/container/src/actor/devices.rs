//! Changes of the devices of a running container, and the commands for them.

use cml_bus::{
    actor::{ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture, fut},
    api::container::{ContainerError, SetAudio, SetDevice},
    audit::Did,
    error::BusError,
};
use cml_sys::device::{Verdict, node::Dev};

use super::One;
use crate::{
    devices::{self, Held, Plugged},
    env::Env,
    noted,
};

/// What is to become of a container's devices.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// By command.
    Rule(Verdict),
    /// A USB device that it wants was plugged in.
    PlugIn { plugged: Plugged, own: bool },
    /// One that it has was plugged out.
    PlugOut(Plugged),
}

impl Change {
    /// Notes it, and reserves what it is about.
    fn note(&self, env: &Env, one: &One, held: &mut Held) -> Result<(), String> {
        let ledger = &env.devices.ledger;
        match self {
            Self::Rule(verdict @ Verdict::Allow(rule)) => {
                ledger.grant(one.id, false, *rule)?;
                if !held.shared.contains(rule) {
                    held.shared.push(*rule);
                }
                held.rules.push(*verdict);
            }
            Self::Rule(verdict @ Verdict::Deny(rule)) => {
                // What it has for itself stays its own, or others could have what it may still have open.
                held.shared.retain(|one| one != rule);
                held.rules.push(*verdict);
            }
            Self::PlugIn { plugged, own } => {
                ledger.grant(one.id, *own, plugged.rule)?;
                match own {
                    true => held.own.push(plugged.rule),
                    false => held.shared.push(plugged.rule),
                }
                held.usb.push(plugged.clone());
                held.rules.push(Verdict::Allow(plugged.rule));
            }
            Self::PlugOut(Plugged { rule, .. }) => {
                held.usb.retain(|plugged| plugged.rule != *rule);
                held.shared.retain(|one| one != rule);
                held.own.retain(|one| one != rule);
                // A rule of the configuration that is about it as well goes on.
                let mut left = held.shared.iter().chain(&held.own);
                if !left.any(|one| one.overlaps(rule)) {
                    held.rules.push(Verdict::Deny(*rule));
                }
            }
        }
        Ok(())
    }

    /// Brings `/dev` into line.
    fn show(&self, env: &Env, dev: &Dev, held: &Held) -> Result<(), String> {
        match self {
            Self::Rule(verdict) => env.devices.follow(dev, &held.rules, verdict.rule()),
            Self::PlugIn { plugged, .. } => env.devices.follow(dev, &held.rules, &plugged.rule),
            Self::PlugOut(plugged) => match plugged.rule.device() {
                Some(device) => dev
                    .remove(&plugged.node, device)
                    .map_err(|error| error.to_string()),
                None => Ok(()),
            },
        }
    }
}

impl One {
    fn device_error(&self, reason: impl ToString) -> ContainerError {
        ContainerError::Device {
            id: self.id,
            reason: reason.to_string(),
        }
    }

    /// Looks at the machine, which may take a moment.
    pub(super) fn look<T: Send + 'static, J: FnOnce(&Env) -> T + Send + 'static>(
        &self,
        job: J,
    ) -> impl Future<Output = Result<T, ContainerError>> + use<T, J> {
        let env = self.env.clone();
        async move {
            let pool = env.groups.clone();
            Ok(pool.run(move || job(&env)).await.map_err(BusError::from)?)
        }
    }

    /// Carries a change out: first in the kernel, then in `/dev`. One change after the other, so that each
    /// begins with what the one before has left.
    pub(super) fn change_devices(
        &self,
        change: Change,
    ) -> ResponseActFuture<Self, Result<(), ContainerError>> {
        let turn = self.device_changes.clone().lock_owned().into_actor(self);
        Box::pin(turn.then(move |turn, one, _| {
            let begun = one.begin(change);
            let work = async move {
                let (held, work) = begun?;
                Ok::<_, ContainerError>((held, work.await))
            };
            work.into_actor(one).map(move |done, one, _| {
                let _turn = turn;
                let (held, outcome) = done?;
                one.finish(held, outcome)
            })
        }))
    }

    /// The devices after the change, and the work that makes them so. It tells apart what did not work at all,
    /// and what did not work in `/dev` alone.
    #[expect(clippy::type_complexity, reason = "named once, here")]
    fn begin(
        &self,
        change: Change,
    ) -> Result<
        (
            Held,
            impl Future<Output = Result<Result<(), String>, ContainerError>> + use<>,
        ),
        ContainerError,
    > {
        let live = self.live.as_ref();
        let live = live.ok_or(ContainerError::NotRunning(self.id))?;
        let mut held = live.running.devices.clone();
        change
            .note(&self.env, self, &mut held)
            .map_err(|reason| self.device_error(reason))?;
        let (group, dev) = (live.running.group.clone(), live.dev.clone());
        let emulator = live.emulator.clone();
        let (env, id, after) = (self.env.clone(), self.id, held.clone());
        let work = async move {
            let failed = move |reason: String| ContainerError::Device { id, reason };
            let work = move |env: &Env| {
                match group.confine_devices(&after.rules) {
                    Ok(true) => {}
                    Ok(false) => {
                        return Err(failed(
                            "this kernel cannot confine it to its devices".into(),
                        ));
                    }
                    Err(error) => return Err(failed(error.to_string())),
                }
                // If it is gone, nobody makes nodes for the guest anyway.
                if let Some(emulator) = emulator {
                    let _ = emulator.allow(&after.rules);
                }
                let shown = match dev {
                    Some(dev) => change.show(env, &dev, &after),
                    None => Err("its /dev was not found after a restart of the daemon".into()),
                };
                Ok(shown)
            };
            env.in_turn(id, &env.groups, work).await?
        };
        Ok((held, work))
    }

    fn finish(
        &mut self,
        held: Held,
        outcome: Result<Result<(), String>, ContainerError>,
    ) -> Result<(), ContainerError> {
        let name = self.config().name.clone();
        let Some(live) = &mut self.live else {
            return outcome.map(|_| ());
        };
        if outcome.is_ok() {
            live.running.devices = held;
            if let Err(error) = live.note(&self.env, self.id) {
                tracing::error!(container = %self.id, %name, error, "the record is out of date");
            }
        }
        // Only now, when the kernel keeps it from what it has lost, may others have that; and what it was to get and did
        // not is free again.
        let present = &live.running.devices;
        self.env.devices.ledger.restore(self.id, &name, present);
        outcome?.map_err(|reason| {
            self.device_error(format!("the rule holds, but not in /dev: {reason}"))
        })
    }

    /// Does something to the nodes of a running container, without changing its rules.
    pub(super) fn on_dev(
        &self,
        work: impl FnOnce(&Env, &Dev, &Held) -> Result<(), String> + Send + 'static,
    ) -> ResponseActFuture<Self, Result<(), ContainerError>> {
        let live = self.live.as_ref();
        let Some((dev, held)) =
            live.and_then(|live| Some((live.dev.clone()?, live.running.devices.clone())))
        else {
            return Box::pin(fut::ok(()));
        };
        let (env, id) = (self.env.clone(), self.id);
        let work = async move {
            let work = move |env: &Env| work(env, &dev, &held);
            let done = env.in_turn(id, &env.groups, work).await?;
            done.map_err(|reason| ContainerError::Device { id, reason })
        };
        Box::pin(work.into_actor(self))
    }
}

impl Handler<SetDevice> for One {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, request: SetDevice, _: &mut Context<Self>) -> Self::Result {
        let changed = match request.rule.parse() {
            Ok(verdict) => self.change_devices(Change::Rule(verdict)),
            Err(error) => Box::pin(fut::err(self.device_error(error))),
        };
        let note = Did::SetDevice.to(self.id).meta("rule", request.rule);
        Box::pin(changed.map(|changed, one, _| {
            one.env.events.audit(noted::outcome(note, &changed));
            changed
        }))
    }
}

impl Handler<SetAudio> for One {
    type Result = ResponseActFuture<Self, Result<Option<String>, ContainerError>>;

    fn handle(&mut self, request: SetAudio, _: &mut Context<Self>) -> Self::Result {
        let allowed = request.allowed;
        let id = self.id;
        let look = self.look(|env| env.devices.has_sound()).into_actor(self);
        let changed = look.then(move |sound, one, _| {
            let sound = sound.unwrap_or_default();
            let verdict = match allowed {
                true => Verdict::Allow(devices::sound()),
                false => Verdict::Deny(devices::sound()),
            };
            let changed = match (sound, allowed, one.live.is_some()) {
                (false, true, _) => Box::pin(fut::err(one.device_error(
                    "this device has no sound: there is no node with major number 116 below /dev",
                ))),
                (_, _, true) => one.change_devices(Change::Rule(verdict)),
                (_, _, false) => Box::pin(fut::ok(())),
            };
            changed.map(move |changed, _, _| changed.map(|()| sound))
        });
        let kept = changed.then(move |changed, one: &mut Self, _| {
            let env = one.env.clone();
            let keep = async move {
                let sound = changed?;
                let keep = move |env: &Env| env.store.set_audio(id, allowed);
                env.in_turn(id, &env.storage, keep).await??;
                Ok::<_, ContainerError>(sound)
            };
            keep.into_actor(one)
        });
        Box::pin(kept.map(move |kept, one, _| {
            let did = match allowed {
                true => Did::AllowAudio,
                false => Did::DenyAudio,
            };
            let note = noted::outcome(did.to(one.id), &kept);
            one.env.events.audit(note);
            let sound = kept?;
            one.view.send_modify(|view| view.audio = allowed);
            Ok((!sound).then(|| "denied; this device has no sound anyway".to_owned()))
        }))
    }
}
