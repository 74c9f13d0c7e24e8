//! The gateway actor: accepts connections on one socket and ends them in an orderly way (ACT-06).

use std::{io, os::unix::net::UnixListener as StdListener, rc::Rc, time::Duration};

use cml_bus::{
    actor::{
        Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message,
        ResponseFuture, WrapFuture,
    },
    supervisor::Watch,
};
use tokio::{
    net::UnixListener,
    select,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    inside,
    policy::Admission,
    session::{self, Ports, Shared, closed},
};

/// Connections at the same time; one more is accepted and closed at once (SEC-15).
pub const SESSIONS_MAX: usize = 1024;

/// How long requests may go on after [`Shutdown`].
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Pause after `accept` failed. With all file descriptors in use it would fail again at once, for as long
/// as a client is waiting in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Stop accepting, let requests that are being carried out finish within [`SHUTDOWN_DEADLINE`], end.
/// The answer comes when the last connection is closed.
#[derive(Debug)]
pub struct Shutdown;

impl Message for Shutdown {
    type Result = ();
}

/// Serves the control protocol on one listening socket.
#[derive(Debug)]
pub struct Gateway {
    listener: Option<StdListener>,
    ports: Ports,
    admission: Admission,
    closing: watch::Sender<bool>,
    /// Closed when the accept loop has ended.
    drained: Option<watch::Receiver<()>>,
    sessions_max: usize,
    watch: Watch,
}

impl Gateway {
    /// Starts the actor on the current arbiter. It serves until [`Shutdown`].
    ///
    /// The socket is bound by the caller, who can keep a clone of it for a restart: connections that wait
    /// in its backlog survive.
    pub fn start(
        listener: StdListener,
        ports: Ports,
        admission: Admission,
        watch: Watch,
    ) -> Addr<Self> {
        Self::start_limited(listener, ports, admission, watch, SESSIONS_MAX)
    }

    pub(crate) fn start_limited(
        listener: StdListener,
        ports: Ports,
        admission: Admission,
        watch: Watch,
        sessions_max: usize,
    ) -> Addr<Self> {
        Actor::start(Self {
            listener: Some(listener),
            ports,
            admission,
            closing: watch::Sender::new(false),
            drained: None,
            sessions_max,
            watch,
        })
    }

    fn shared(&self) -> Rc<Shared> {
        Rc::new(Shared::new(self.ports.clone(), self.admission.clone()))
    }
}

impl Actor for Gateway {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let (alive, drained) = watch::channel(());
        self.drained = Some(drained);
        let shared = self.shared();
        let closing = self.closing.subscribe();
        let events = self.admission.events.subscribe();
        let inside = inside::serve(shared.clone(), events, self.closing.subscribe());
        context.spawn(inside.into_actor(self));
        let sessions_max = self.sessions_max;
        let serve = async move {
            let served = accept(listener, shared, closing, sessions_max).await;
            drop(alive);
            served
        };
        context.spawn(serve.into_actor(self).map(|served, gateway, context| {
            match served {
                Ok(()) => gateway.watch.ends_cleanly(),
                Err(error) => {
                    tracing::error!(%error, "the control socket cannot be served");
                }
            }
            context.stop();
        }));
    }
}

impl Handler<Shutdown> for Gateway {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Shutdown, _: &mut Context<Self>) -> ResponseFuture<()> {
        self.closing.send_replace(true);
        let drained = self.drained.clone();
        Box::pin(async move {
            if let Some(mut drained) = drained {
                // Fails when the accept loop is gone, which is what is waited for.
                let _ = drained.changed().await;
            }
        })
    }
}

/// Accepts until the gateway closes. Sessions are tasks of their own, so that a panic in one ends only
/// that one; they end with this future.
pub(crate) async fn accept(
    listener: StdListener,
    shared: Rc<Shared>,
    mut closing: watch::Receiver<bool>,
    sessions_max: usize,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let mut sessions = JoinSet::new();
    let for_sessions = closing.clone();
    loop {
        let accepted = select! {
            biased;
            () = closed(&mut closing) => break,
            Some(ended) = sessions.join_next() => {
                note(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if sessions.len() < sessions_max => {
                sessions.spawn_local(session::serve(stream, shared.clone(), for_sessions.clone()));
            }
            Ok(_) => tracing::warn!(sessions_max, "too many connections; one more was refused"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = timeout(SHUTDOWN_DEADLINE, async {
        while let Some(ended) = sessions.join_next().await {
            note(ended);
        }
    })
    .await;
    if drained.is_err() {
        tracing::warn!(left = sessions.len(), "connections cut off at shutdown");
        sessions.shutdown().await;
    }
    Ok(())
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session panicked");
    }
}

/// Makes the actor panic.
#[cfg(test)]
#[derive(Debug)]
pub struct Panic;

#[cfg(test)]
impl Message for Panic {
    type Result = ();
}

#[cfg(test)]
impl Handler<Panic> for Gateway {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}
