//! Interfaces of containers: assigned and taken away by command, and as configurations name them.

use std::sync::Arc;

use cml_bus::{
    actor::{Context, Handler, ResponseFuture},
    api::{
        container::{ContainerError, Interfaces, SetInterface},
        network::{Assign, Identify, Interface, List, Names, NetworkError, Unassign, Virtual},
    },
    audit::Did,
    id::ContainerId,
};
use cml_wire::{
    proto::{ContainerConfig, ContainerPnetConfig},
    rules, text,
};

use crate::{entry::Entry, env::Env, manager::Manager, noted, one::Reconfigure};

impl Handler<Interfaces> for Manager {
    type Result = ResponseFuture<Result<Vec<Interface>, ContainerError>>;

    fn handle(&mut self, request: Interfaces, _: &mut Context<Self>) -> Self::Result {
        let view = self
            .find(request.id)
            .map(|entry| entry.view.borrow().clone());
        let env = self.env.clone();
        Box::pin(async move {
            let view = view?;
            if !view.state.has_guest() {
                return Ok(Vec::new());
            }
            let list = List {
                id: request.id,
                shared: !view.config.netns(),
            };
            Ok(env.network.list.call(list).await?)
        })
    }
}

impl Handler<SetInterface> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, request: SetInterface, _: &mut Context<Self>) -> Self::Result {
        let entry = self.usable(request.id).cloned();
        let (env, changes) = (self.env.clone(), self.changes.clone());
        Box::pin(async move {
            let entry = entry?;
            // Nobody else edits the configuration meanwhile.
            let _turn = changes.lock().await;
            let (did, outcome) = match request.assigned {
                true => (Did::AssignInterface, env.assign(&entry, &request).await),
                false => (Did::UnassignInterface, env.unassign(&entry, &request).await),
            };
            let note = did.to(entry.id).meta("interface", &request.interface);
            env.events.audit(noted::outcome(note, &outcome));
            outcome
        })
    }
}

impl Env {
    /// Whether the container runs and has a network of its own, once it is clear that the request can be fulfilled.
    fn runs_apart(&self, entry: &Entry, request: &SetInterface) -> Result<bool, ContainerError> {
        let view = entry.view.borrow();
        if request.persistent && self.settings.signed_configs {
            return Err(ContainerError::Signed(entry.id));
        }
        let runs = view.state.has_guest();
        match view.config.netns() && (runs || request.persistent) {
            true => Ok(runs),
            false => Err(NetworkError::NotConnected(entry.id).into()),
        }
    }

    async fn assign(
        self: &Arc<Self>,
        entry: &Entry,
        request: &SetInterface,
    ) -> Result<(), ContainerError> {
        let (id, interface) = (entry.id, request.interface.clone());
        let names = match self.runs_apart(entry, request)? {
            true => self.network.assign.call(Assign { id, interface }).await?,
            false => {
                self.network
                    .identify
                    .call(Identify { id, interface })
                    .await?
            }
        };
        if !request.persistent {
            return Ok(());
        }
        let wanted = request.interface.clone();
        let add = move |config: &mut ContainerConfig| {
            if !config
                .net_ifaces
                .iter()
                .any(|one| is_one_of(&one.netif, &names))
            {
                config.net_ifaces.push(ContainerPnetConfig {
                    netif: wanted,
                    ..Default::default()
                });
            }
            Ok(())
        };
        let edited = self.edit(entry, add).await;
        if edited.is_err() {
            let interface = request.interface.clone();
            // It was refused as a whole.
            let _ = self.network.unassign.call(Unassign { id, interface }).await;
        }
        edited
    }

    async fn unassign(
        self: &Arc<Self>,
        entry: &Entry,
        request: &SetInterface,
    ) -> Result<(), ContainerError> {
        let (id, interface) = (entry.id, request.interface.clone());
        let (known, had) = match self.runs_apart(entry, request)? {
            true => match self.network.unassign.call(Unassign { id, interface }).await {
                // It may be in the configuration all the same.
                Err(NetworkError::NotAssigned { .. }) if request.persistent => (None, false),
                other => (Some(other?), true),
            },
            false => (None, false),
        };
        if !request.persistent {
            return Ok(());
        }
        let names = match known {
            Some(names) => names,
            None => self.known_names(id, request).await?,
        };
        let not_there = NetworkError::NotAssigned {
            id,
            interface: request.interface.clone(),
        };
        let remove = move |config: &mut ContainerConfig| {
            let before = config.net_ifaces.len();
            config
                .net_ifaces
                .retain(|one| !is_one_of(&one.netif, &names));
            match had || config.net_ifaces.len() < before {
                true => Ok(()),
                false => Err(not_there.into()),
            }
        };
        self.edit(entry, remove).await
    }

    /// What an interface is called that the container does not have at the moment. It need not be there, either.
    async fn known_names(
        &self,
        id: ContainerId,
        request: &SetInterface,
    ) -> Result<Names, ContainerError> {
        let interface = request.interface.clone();
        match self.network.identify.call(Identify { id, interface }).await {
            Err(error @ (NetworkError::BadInterface(_) | NetworkError::Bus(_))) => {
                Err(error.into())
            }
            Err(_) => Ok(Names(vec![request.interface.clone()])),
            Ok(mut names) => {
                names.0.push(request.interface.clone());
                Ok(names)
            }
        }
    }

    /// Changes the stored configuration, which takes effect when the container starts again.
    async fn edit(
        self: &Arc<Self>,
        entry: &Entry,
        change: impl FnOnce(&mut ContainerConfig) -> Result<(), ContainerError> + Send + 'static,
    ) -> Result<(), ContainerError> {
        let (id, guest) = (entry.id, entry.view.borrow().guest);
        let edit = move |env: &Self| {
            let bad = |error: String| ContainerError::BadConfig(error);
            let stored = env.store.read(id)?;
            let mut config: ContainerConfig =
                text::parse(&stored.config).map_err(|error| bad(error.to_string()))?;
            change(&mut config)?;
            let text = text::print_file(&config);
            let config = rules::read(text.as_bytes()).map_err(|error| bad(error.to_string()))?;
            env.store.replace(id, text.as_bytes(), None, false)?;
            Ok::<ContainerConfig, ContainerError>(config)
        };
        let config = self.in_turn(id, &self.storage, edit).await??;
        let reconfigure = Reconfigure {
            config: Arc::new(config),
            guest,
        };
        entry.port.reconfigure.call(reconfigure).await
    }

    /// Writes down what a configuration leaves open about its virtual interfaces (protocol.md 2.3).
    pub(crate) async fn complete_interfaces(&self, id: ContainerId, config: &mut ContainerConfig) {
        if config.vnet_configs.is_empty() {
            return;
        }
        let configured = config.vnet_configs.clone();
        if let Ok(all) = self
            .network
            .virtual_interfaces
            .call(Virtual { id, configured })
            .await
        {
            config.vnet_configs = all.into_iter().map(|one| one.config).collect();
        }
    }

    /// Shows the virtual interfaces that a container gets, or has (protocol.md 3.4).
    pub(crate) async fn show_interfaces(&self, id: ContainerId, config: &mut ContainerConfig) {
        if !config.netns() || id.is_core0() {
            return;
        }
        let configured = config.vnet_configs.clone();
        if let Ok(all) = self
            .network
            .virtual_interfaces
            .call(Virtual { id, configured })
            .await
        {
            let shown = all.into_iter().map(|mut one| {
                one.config.if_rootns_name = one.host_name.or(one.config.if_rootns_name);
                one.config
            });
            config.vnet_configs = shown.collect();
        }
    }
}

/// Addresses may be written in either case.
fn is_one_of(interface: &str, names: &Names) -> bool {
    names
        .0
        .iter()
        .any(|name| name.eq_ignore_ascii_case(interface))
}
