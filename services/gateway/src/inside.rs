//! Control sockets inside containers: each is served like that of the host for as long as its container runs, with the
//! rights of its own (protocol.md 1.1).
//!
//! The container service says which there are; what happens to containers only makes us look again, so that no event that
//! is lost leaves a socket deaf.

use std::{
    collections::HashMap,
    os::{fd::OwnedFd, unix::net::UnixListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use cml_bus::{
    actor::spawn,
    api::container::{ControlSocket, ControlSockets},
    event::Event,
    id::ContainerId,
};
use tokio::{
    select,
    sync::{
        broadcast::{
            Receiver,
            error::{RecvError, TryRecvError},
        },
        watch,
    },
    time::sleep,
};

use crate::{
    actor::{SESSIONS_MAX, accept},
    session::{Shared, closed},
};

/// Connections of one guest at the same time: it shall not use up the descriptors of the daemon.
const GUEST_SESSIONS_MAX: usize = 32;
/// Pause before the container service is asked again that could not be reached.
const RETRY: Duration = Duration::from_secs(1);

/// A socket that is being served; dropping it ends that.
#[derive(Debug)]
struct Served {
    socket: Arc<OwnedFd>,
    _closing: watch::Sender<bool>,
}

/// Serves whatever sockets there are, until the gateway closes.
pub async fn serve(
    shared: Rc<Shared>,
    mut events: Receiver<Event>,
    mut closing: watch::Receiver<bool>,
) {
    let mut served = HashMap::new();
    loop {
        match shared
            .ports
            .container
            .control_sockets
            .call(ControlSockets)
            .await
        {
            Ok(sockets) => reconcile(&mut served, sockets, &shared),
            // It is being started, or started again.
            Err(_) => {
                select! {
                    () = closed(&mut closing) => return,
                    () = sleep(RETRY) => continue,
                }
            }
        }
        select! {
            () = closed(&mut closing) => return,
            changed = change(&mut events) => if !changed {
                return;
            },
        }
    }
}

/// Waits until another container may have a socket; false when there will be no more.
async fn change(events: &mut Receiver<Event>) -> bool {
    loop {
        match events.recv().await {
            Ok(Event::StateChanged { .. } | Event::ServiceRestarted { .. })
            | Err(RecvError::Lagged(_)) => break,
            Ok(_) => {}
            Err(RecvError::Closed) => return false,
        }
    }
    // Many containers may start at once; one look is enough for all that has happened by now.
    while matches!(events.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
    true
}

/// Serves what is new, and ends what is gone or was replaced.
fn reconcile(
    served: &mut HashMap<ContainerId, Served>,
    sockets: Vec<ControlSocket>,
    shared: &Rc<Shared>,
) {
    served.retain(|id, one| {
        let same =
            |socket: &ControlSocket| socket.id == *id && Arc::ptr_eq(&socket.socket, &one.socket);
        sockets.iter().any(same)
    });
    for socket in sockets {
        if served.contains_key(&socket.id) {
            continue;
        }
        let listener = match socket.socket.try_clone() {
            Ok(listener) => UnixListener::from(listener),
            Err(error) => {
                tracing::error!(container = %socket.id, %error, "its control socket is not served");
                continue;
            }
        };
        let (closing, until) = watch::channel(false);
        let limit = match socket.privileged {
            true => SESSIONS_MAX,
            false => GUEST_SESSIONS_MAX,
        };
        let (shared, id) = (Rc::new(shared.inside(socket.privileged)), socket.id);
        spawn(async move {
            if let Err(error) = accept(listener, shared, until, limit).await {
                tracing::error!(container = %id, %error, "its control socket is not served");
            }
        });
        let one = Served {
            socket: socket.socket,
            _closing: closing,
        };
        served.insert(socket.id, one);
    }
}
