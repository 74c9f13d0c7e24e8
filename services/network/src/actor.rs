//! The network actor: puts requests in a row, and listens to what happens to the host's network.

use std::sync::{Arc, Mutex, PoisonError};

use cml_bus::{
    actor::{
        Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture,
    },
    api::network::{
        Assign, Attach, Detach, Forget, Identify, Interface, List, Names, NetworkError, Unassign,
        Virtual, VirtualInterface,
    },
    blocking::Pool,
    error::BusError,
    supervisor::Watch,
};
use cml_sys::net::{tables::TableWatch, watch::LinkWatch};

use crate::{
    listen::{Ear, listen},
    networks::{Networks, Settings},
};

type Shared = Arc<Mutex<Result<Networks, NetworkError>>>;

/// The network service.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
    /// One thread: the kernel changes one thing at a time in its networks anyway.
    pool: Pool,
    networks: Option<Shared>,
    _watch: Watch,
}

impl Network {
    /// Starts the service on the current arbiter. It takes over what is there before it answers anything.
    pub fn start(settings: Settings, watch: Watch) -> Addr<Self> {
        Actor::start(Self {
            settings,
            pool: Pool::new("network", 1),
            networks: None,
            _watch: watch,
        })
    }

    /// Runs a job in its turn.
    fn in_turn<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Networks) -> Result<T, NetworkError> + Send + 'static,
    ) -> ResponseFuture<Result<T, NetworkError>> {
        let (pool, networks) = (self.pool.clone(), self.networks.clone());
        Box::pin(async move {
            let networks = networks.ok_or(BusError::Unbound("network"))?;
            let done = pool.run(move || {
                // What a job that panicked has left is in the records, as after a crash of the daemon.
                let mut networks = networks.lock().unwrap_or_else(PoisonError::into_inner);
                networks
                    .as_mut()
                    .map_err(|error| error.clone())
                    .and_then(job)
            });
            done.await.map_err(BusError::from)?
        })
    }
}

impl Actor for Network {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (pool, settings) = (self.pool.clone(), self.settings.clone());
        let open = async move {
            pool.run(move || {
                // In this order: what happens from now on is heard, and what has happened is looked for.
                let links = LinkWatch::open(&settings.host);
                let tables = TableWatch::open(&settings.host);
                (Networks::open(settings), links, tables)
            })
            .await
        };
        let open = open.into_actor(self).map(|opened, network, context| {
            let (opened, links, tables) = match opened {
                Ok((opened, links, tables)) => (opened, Some(links), Some(tables)),
                Err(died) => (Err(BusError::from(died).into()), None, None),
            };
            if let Err(error) = &opened {
                tracing::error!(%error, "no container can be connected");
            }
            network.networks = Some(Arc::new(Mutex::new(opened)));
            let host = &network.settings.host;
            let me = context.address();
            let links = listen(links, host.clone(), me.clone(), || Look);
            let tables = listen(tables, host.clone(), me, || Mend);
            context.spawn(links.into_actor(network));
            context.spawn(tables.into_actor(network));
        });
        // Nothing is answered before it is known what is there. The job asks no actor.
        context.wait(open);
    }
}

/// Something about the host's interfaces has changed.
#[derive(Debug)]
struct Look;

impl cml_bus::actor::Message for Look {
    type Result = Result<(), NetworkError>;
}

/// A table of rules was removed from the host.
#[derive(Debug)]
struct Mend;

impl cml_bus::actor::Message for Mend {
    type Result = Result<(), NetworkError>;
}

/// Requests that are carried out in turn.
macro_rules! in_turn {
    ($($message:ident => $reply:ty, |$request:ident, $networks:ident| $job:expr;)+) => {$(
        impl Handler<$message> for Network {
            type Result = ResponseFuture<Result<$reply, NetworkError>>;

            fn handle(&mut self, $request: $message, _: &mut Context<Self>) -> Self::Result {
                self.in_turn(move |$networks| $job)
            }
        }
    )+};
}

in_turn! {
    Attach => (), |request, networks| {
        let failed = |error: cml_sys::Error| NetworkError::System {
            id: request.id,
            reason: error.to_string(),
        };
        let namespace = request.namespace.try_into().map_err(failed)?;
        networks.attach(request.id, namespace, &request.config)
    };
    Detach => (), |request, networks| networks.detach(request.id);
    Forget => (), |request, networks| networks.forget(request.id);
    Assign => Names, |request, networks| networks.assign(request.id, &request.interface);
    Unassign => Names, |request, networks| networks.unassign(request.id, &request.interface);
    Identify => Names, |request, networks| networks.identify(request.id, &request.interface);
    List => Vec<Interface>, |request, networks| networks.list(request.id, request.shared);
    Virtual => Vec<VirtualInterface>, |request, networks| {
        Ok(networks.virtual_interfaces(request.id, &request.configured))
    };
    Look => (), |_request, networks| {
        networks.look_for_missing();
        Ok(())
    };
    Mend => (), |_request, networks| {
        networks.mend_rules();
        Ok(())
    };
}
