//! The networks of all containers: one thing is done at a time, and written down before.

mod claims;
mod look;
mod physical;
mod virtual_ends;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use cml_bus::{
    api::network::{Interface, NetworkError, VirtualInterface},
    id::ContainerId,
};
use cml_sys::net::{link::Link, namespace::Namespace, pin::Place};
use cml_wire::proto::{ContainerConfig, ContainerVnetConfig, container_iface::Kind};

use self::claims::wishes;
use crate::{
    lease::Leases,
    names::Identity,
    record::{Record, Records},
    router, show,
    state::State,
    veth,
};

/// What the service needs to know of the device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A directory of ours for what lasts.
    pub store: PathBuf,
    /// A directory of ours for what means nothing after a reboot.
    pub run: PathBuf,
    /// Where namespaces get their names: `/run/netns`, where `ip netns` looks.
    pub pins: PathBuf,
    /// The host is somebody else's; else core0 is its router as soon as it runs.
    pub hosted: bool,
    /// Containers cannot reach each other.
    pub isolate: bool,
    /// The host's network.
    pub host: Arc<Namespace>,
    /// Where the names of namespaces are mounted: where they outlive this process.
    pub place: Arc<Place>,
}

/// A container that has interfaces of ours.
#[derive(Debug)]
struct Connected {
    record: Record,
    /// `None` if it died before it got a name: then nothing of ours is in it.
    namespace: Option<Namespace>,
}

/// The networks of all containers. Every function blocks.
#[derive(Debug)]
pub struct Networks {
    settings: Settings,
    records: Records,
    leases: Leases,
    state: State,
    place: Arc<Place>,
    host: Arc<Namespace>,
    connected: BTreeMap<ContainerId, Connected>,
    /// The rules between containers and the rest are set here, and in core0.
    routing: [bool; 2],
}

type Result<T> = std::result::Result<T, NetworkError>;

impl Networks {
    /// Takes over what a daemon before this one has left.
    ///
    /// # Errors
    /// The directories cannot be used.
    pub fn open(settings: Settings) -> Result<Self> {
        let records = Records::open(&settings.run)?;
        let store = |error: cml_sys::Error| NetworkError::Store {
            path: settings.store.display().to_string(),
            reason: error.to_string(),
        };
        cml_sys::file::make_dir(&settings.store, 0o700).map_err(store)?;
        let mut networks = Self {
            leases: Leases::open(&settings.store.join("leases.json"))?,
            records,
            state: State::open(&settings.run.join("device.json")),
            place: settings.place.clone(),
            host: settings.host.clone(),
            connected: BTreeMap::new(),
            routing: [false; 2],
            settings,
        };
        for (id, record) in networks.records.load() {
            let namespace = networks.place.find(&record.pin).unwrap_or_else(|error| {
                tracing::error!(container = %id, %error, "its network cannot be looked at");
                None
            });
            let connected = Connected { record, namespace };
            networks.connected.insert(id, connected);
        }
        networks.reconcile();
        Ok(networks)
    }

    /// Rules that somebody has removed while no daemon ran are set again (runtime.md 9, number 51), and so are ends that
    /// a daemon was about to make.
    fn reconcile(&mut self) {
        for id in self.connected.keys().copied().collect::<Vec<_>>() {
            let record = self.connected[&id].record.clone();
            let mut configured = record.veths.iter().filter(|veth| veth.configure);
            let routed = configured.try_for_each(|veth| self.route_for(id, veth));
            let mut filtered = record.nics.iter().filter(|nic| nic.filter.is_some());
            let filtered = filtered.try_for_each(|nic| self.set_filters(nic.from_core0, id));
            if let Err(error) = routed.and(filtered) {
                tracing::error!(container = %id, %error, "its rules are not set");
            }
            if self.inside(id).is_ok()
                && let Err(error) = self.replug_if_cut_off(id)
            {
                tracing::error!(container = %id, %error, "it is cut off");
            }
        }
    }

    fn identity(&self) -> Identity {
        self.leases.identity()
    }

    /// core0, if it is the router.
    fn core0(&self) -> Option<&Namespace> {
        let router = self.connected.get(&ContainerId::CORE0)?;
        router.namespace.as_ref().filter(|_| !self.settings.hosted)
    }

    /// Where interfaces are at home, or ways to containers end.
    fn side(&self, in_core0: bool) -> &Namespace {
        self.core0().filter(|_| in_core0).unwrap_or(&self.host)
    }

    /// Connects a container. A failure leaves nothing behind.
    ///
    /// # Errors
    /// What another container has is not given twice; what the kernel said.
    pub fn attach(
        &mut self,
        id: ContainerId,
        namespace: Namespace,
        config: &ContainerConfig,
    ) -> Result<()> {
        self.detach(id)?;
        if namespace.is(&self.host) {
            return Err(bad(id, "it has no network of its own"));
        }
        let router = id.is_core0() && !self.settings.hosted;
        let mut wishes = wishes(id, &config.net_ifaces)?;
        for wish in &wishes {
            self.must_be_free(id, &wish.claim)?;
        }
        let veths = match router {
            true => vec![router::uplink()],
            false => self.plan(id, config)?,
        };
        if router {
            let links = self.links(&self.host).map_err(system(id))?;
            wishes.extend(router::all_cards(&links, self.identity()));
        }
        let record = Record {
            boot_id: cml_sys::proc::boot_id().map_err(system(id))?,
            pin: self.settings.pins.join(id.to_string()),
            veths,
            nics: Vec::new(),
            wishes,
            declined: Vec::new(),
        };
        let connected = Connected {
            record,
            namespace: Some(namespace),
        };
        self.connected.insert(id, connected);
        self.connect(id).map_err(|error| match self.detach(id) {
            Ok(()) => error,
            Err(also) => NetworkError::System {
                id,
                reason: format!("{error}; and while undoing it: {also}"),
            },
        })?;
        if router {
            self.replug_all();
        }
        Ok(())
    }

    fn connect(&mut self, id: ContainerId) -> Result<()> {
        self.write(id)?;
        let connected = self.get(id)?;
        let (pin, wishes) = (&connected.record.pin, connected.record.wishes.clone());
        // From here on nothing that is in it can be lost, whoever is killed.
        self.place.pin(self.inside(id)?, pin).map_err(system(id))?;
        self.plug(id)?;
        for wish in wishes {
            match self.fulfil(id, &wish) {
                // core0 starts without what it cannot have, such as a card that somebody else has.
                Err(error) if wish.automatic => {
                    tracing::warn!(container = %id, %error, "it starts without");
                }
                other => other.map(drop)?,
            }
        }
        Ok(())
    }

    /// Takes everything away that a container has; what is not there is fine.
    ///
    /// # Errors
    /// What the kernel said. The container stays known, and this can be done again.
    pub fn detach(&mut self, id: ContainerId) -> Result<()> {
        let Some(connected) = self.connected.get_mut(&id) else {
            return Ok(());
        };
        // Nobody takes one of them again that has just come home.
        connected.record.wishes.clear();
        let released = self.release_all(id);
        self.unplug(id).and(released)?;
        let connected = self.get(id)?;
        self.place
            .unpin(&connected.record.pin)
            .map_err(system(id))?;
        let configured = connected.record.veths.iter().any(|veth| veth.configure);
        let Some(gone) = self.connected.remove(&id) else {
            return Ok(());
        };
        if id.is_core0() {
            self.routing[1] = false;
        }
        let unrouted = match configured {
            true => self.unroute(id),
            false => Ok(()),
        };
        if let Err(error) = unrouted.and_then(|()| self.records.remove(id)) {
            self.connected.insert(id, gone);
            return Err(error);
        }
        Ok(())
    }

    /// The container was removed.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn forget(&mut self, id: ContainerId) -> Result<()> {
        self.detach(id)?;
        self.leases.forget(id)
    }

    /// The interfaces that a container sees.
    ///
    /// # Errors
    /// It is not connected; what the kernel said.
    pub fn list(&self, id: ContainerId, shared: bool) -> Result<Vec<Interface>> {
        if shared {
            return show::shown(&self.host, |_| (Kind::Other, None)).map_err(system(id));
        }
        let connected = self.get(id)?;
        let inside = self.inside(id)?;
        let shown = show::interfaces(inside, &connected.record, self.identity());
        shown.map_err(system(id))
    }

    /// The virtual interfaces that a container gets.
    pub fn virtual_interfaces(
        &self,
        id: ContainerId,
        configured: &[ContainerVnetConfig],
    ) -> Vec<VirtualInterface> {
        let veths = self.connected.get(&id).map(|one| &one.record.veths);
        let all = veth::complete(id, configured).into_iter();
        let named = all.map(|config| VirtualInterface {
            host_name: veths.and_then(|all| {
                let live = all.iter().find(|veth| veth.name == config.if_name)?;
                Some(live.near_name(self.identity()))
            }),
            config,
        });
        named.collect()
    }

    fn links(&self, namespace: &Namespace) -> cml_sys::Result<Vec<Link>> {
        namespace.netlink()?.links()
    }

    fn get(&self, id: ContainerId) -> Result<&Connected> {
        self.connected
            .get(&id)
            .ok_or(NetworkError::NotConnected(id))
    }

    fn get_mut(&mut self, id: ContainerId) -> Result<&mut Connected> {
        self.connected
            .get_mut(&id)
            .ok_or(NetworkError::NotConnected(id))
    }

    fn inside(&self, id: ContainerId) -> Result<&Namespace> {
        let namespace = self.get(id)?.namespace.as_ref();
        namespace.ok_or(NetworkError::NotConnected(id))
    }

    fn write(&self, id: ContainerId) -> Result<()> {
        self.records.write(id, &self.get(id)?.record)
    }
}

fn system(id: ContainerId) -> impl Fn(cml_sys::Error) -> NetworkError {
    move |error| bad(id, error)
}

fn bad(id: ContainerId, error: impl ToString) -> NetworkError {
    NetworkError::System {
        id,
        reason: error.to_string(),
    }
}
