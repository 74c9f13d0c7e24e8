//! Control sockets inside containers.

use std::{
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream as StdStream},
    },
    path::Path,
    sync::{Arc, Mutex},
};

use cml_bus::{api::container::ControlSocket, event::Event, id::ContainerId, testing::fake};
use cml_wire::proto::{
    ContainerState, controller_to_daemon::Command, daemon_to_controller::Response,
};
use tokio::time::{sleep, timeout};

use super::rig::{Client, OPEN, PATIENCE, Rig, bare, id, system};

/// The sockets that the container service knows of.
type Known = Arc<Mutex<Vec<ControlSocket>>>;

fn bound(known: &Known, path: &Path, id: ContainerId, privileged: bool) {
    let socket: OwnedFd = UnixListener::bind(path).unwrap().into();
    let socket = Arc::new(socket);
    known.lock().unwrap().push(ControlSocket {
        id,
        socket,
        privileged,
    });
}

fn rig(known: &Known) -> Rig {
    let rig = Rig::new(OPEN);
    let answered = known.clone();
    let _ = fake(&rig.container.control_sockets, move |_| {
        Ok(answered.lock().unwrap().clone())
    });
    rig
}

fn tell(rig: &Rig) {
    rig.events.publish(Event::StateChanged {
        id: id(),
        state: ContainerState::Booting,
    });
}

fn client(path: &Path) -> Client {
    Client::of(StdStream::connect(path).unwrap())
}

#[test]
fn core0_may_ask_what_the_host_may_and_a_guest_only_what_installs() {
    let dir = tempfile::tempdir().unwrap();
    let (core0, guest) = (dir.path().join("core0"), dir.path().join("guest"));
    let known = Known::default();
    bound(&known, &core0, ContainerId::CORE0, true);
    bound(&known, &guest, id(), false);
    system(|| async {
        let rig = rig(&known);
        let _ = fake(&rig.container.reload, |_| Ok(()));
        let _ = fake(&rig.guestos.list, |_| Ok(vec![]));
        let answer = client(&core0).ask(&bare(Command::ReloadContainers)).await;
        assert_eq!(answer.response(), Response::CmdOk);
        let mut guest = client(&guest);
        let answer = guest.ask(&bare(Command::ReloadContainers)).await;
        assert_eq!(answer.response(), Response::CmdUnsupported);
        let answer = guest.ask(&bare(Command::ListGuestosConfigs)).await;
        assert_eq!(answer.response, None, "a list, and no refusal");
    });
}

#[test]
fn a_socket_is_served_as_long_as_its_container_runs_and_its_next_one_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let known = Known::default();
    system(|| async {
        let rig = rig(&known);
        bound(&known, &first, id(), false);
        tell(&rig);
        let mut old = client(&first);
        old.ask(&bare(Command::ReloadContainers)).await;
        known.lock().unwrap().clear();
        bound(&known, &second, id(), false);
        tell(&rig);
        client(&second).ask(&bare(Command::ReloadContainers)).await;
        old.closed_without_reply().await;
        // Whoever is left of the container finds nobody.
        timeout(PATIENCE, async {
            while StdStream::connect(&first).is_ok() {
                sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    });
}
