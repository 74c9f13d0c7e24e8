//! What can be asked about containers without changing any.

use cml_bus::{
    actor::{Context, Handler, ResponseFuture},
    api::container::{
        Configs, ContainerError, ControlSocket, ControlSockets, PinEntry, PinNeeds, Stats, Status,
    },
    error::BusError,
    id::ContainerId,
};
use cml_wire::{
    proto::{ContainerConfig, ContainerStats, ContainerStatus, ContainerTokenType},
    text,
};

use super::Manager;
use crate::stats;

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

    /// The files on disk are read, so that a change that is not in effect yet shows. What cannot be read is left out
    /// (protocol.md 3.4), unless it is all that was asked for.
    fn handle(&mut self, request: Configs, _: &mut Context<Self>) -> Self::Result {
        let ids: Vec<_> = self.selected(&request.ids).map(|entry| entry.id).collect();
        let only = ids.first().copied().filter(|_| request.ids.len() == 1);
        let env = self.env.clone();
        Box::pin(async move {
            let storage = env.storage.clone();
            let reader = env.clone();
            let read = move || {
                let of = |id| {
                    if !reader.store.has(id) {
                        return Err(ContainerError::NoConfig(id));
                    }
                    let unusable = |reason| ContainerError::Unusable { id, reason };
                    let stored = reader.store.read(id);
                    let stored = stored.map_err(|error| unusable(error.to_string()))?;
                    let config = text::parse(&stored.config);
                    Ok((id, config.map_err(|error| unusable(error.to_string()))?))
                };
                match only {
                    Some(id) => of(id).map(|one| vec![one]),
                    None => Ok(ids.into_iter().filter_map(|id| of(id).ok()).collect()),
                }
            };
            let mut all: Vec<_> = storage.run(read).await.map_err(BusError::from)??;
            for (id, config) in &mut all {
                env.show_interfaces(*id, config).await;
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
                && view.damage.is_none()
                && view.config.token_type() != ContainerTokenType::None,
        })
    }
}
