//! What changes the list of containers or their files: one after the other.

use super::Manager;
use crate::{entry::Entry, noted, remarks};
use cml_bus::{
    actor::{ActorFutureExt, Context, Handler, ResponseActFuture, ResponseFuture, WrapFuture, fut},
    api::{
        container::{ContainerError, Create, Reload, Remove, RemoveGuestOs, Stored, UpdateConfig},
        guestos::Rescan,
    },
    audit::Did,
    event::Event,
    id::ContainerId,
};

impl Manager {
    fn others(&self, id: ContainerId) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.id != id)
    }

    fn remark_on_name(&self, id: ContainerId, name: &str) -> Option<String> {
        let others = self.others(id).filter(|entry| entry.name() == name);
        remarks::of_name(name, others.count())
    }
}

impl Handler<Create> for Manager {
    type Result = ResponseActFuture<Self, Result<Stored, ContainerError>>;

    fn handle(&mut self, request: Create, _: &mut Context<Self>) -> Self::Result {
        let (env, changes) = (self.env.clone(), self.changes.clone());
        let create = async move {
            let turn = changes.lock_owned().await;
            (env.create(request).await, turn)
        };
        Box::pin(create.into_actor(self).map(|(created, turn), manager, _| {
            manager.env.events.audit(match &created {
                Ok((created, _)) => Did::Create
                    .to(created.id)
                    .meta("name", &created.config.name),
                Err(_) => noted::outcome(Did::Create.here(), &created),
            });
            let (created, mut warnings) = created?;
            warnings.extend(manager.remark_on_name(created.id, &created.config.name));
            let answer = Stored {
                id: created.id,
                config: (*created.config).clone(),
                warnings,
            };
            tracing::info!(container = %created.id, name = created.config.name, "created");
            manager.register(created);
            drop(turn);
            manager.env.events.publish(Event::ContainerListChanged);
            Ok(answer)
        }))
    }
}

impl Handler<UpdateConfig> for Manager {
    type Result = ResponseFuture<Result<Stored, ContainerError>>;

    fn handle(&mut self, request: UpdateConfig, _: &mut Context<Self>) -> Self::Result {
        let entry = self.usable(request.id).cloned();
        let names: Vec<_> = self.others(request.id).map(Entry::name).collect();
        let (env, changes) = (self.env.clone(), self.changes.clone());
        Box::pin(async move {
            let entry = entry?;
            let turn = changes.lock().await;
            let present = entry.view.borrow().config.clone();
            let updated = env.update(request, &present).await;
            let note = Did::UpdateConfig.to(entry.id);
            env.events.audit(noted::outcome(note, &updated));
            let (reconfigure, mut warnings) = updated?;
            let config = (*reconfigure.config).clone();
            let same = names.iter().filter(|name| **name == config.name).count();
            warnings.extend(remarks::of_name(&config.name, same));
            let answer = Stored {
                id: entry.id,
                config,
                warnings,
            };
            entry.port.reconfigure.call(reconfigure).await?;
            // Nobody else's change waits for this.
            drop(turn);
            if env.store.is_wiping(entry.id) {
                let name = &answer.config.name;
                tracing::warn!(container = %entry.id, name, "another token: what it has stored is wiped");
                entry.wipe().await?;
            }
            tracing::info!(container = %entry.id, name = answer.config.name, "configuration updated");
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
                Err(_) => env.load_or_tell(id).await,
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
                    tracing::info!(container = %id, name = entry.name(), "removed");
                    manager.env.forget(id);
                    manager.env.events.publish(Event::ContainerListChanged);
                }
                Err(error) => {
                    let name = entry.name();
                    tracing::error!(container = %id, name, %error, "a container was not removed");
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
            let (ended, left) = ended?;
            manager.entries.retain(|entry| !ended.contains(&entry.id));
            for left in left {
                manager.register(left);
            }
            drop(turn);
            Ok(())
        }))
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
