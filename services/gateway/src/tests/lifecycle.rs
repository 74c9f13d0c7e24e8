use cml_bus::testing::fake;
use cml_wire::proto::{controller_to_daemon::Command, daemon_to_controller::Code};
use tokio::sync::mpsc;

use super::rig::{OPEN, Rig, bare, system, targeted};
use crate::{Shutdown, actor::Panic};

#[test]
fn one_session_too_many_is_closed_and_its_place_can_be_taken_later() {
    system(|| async {
        let rig = Rig::with_limit(OPEN, 2);
        let mut first = rig.client();
        let mut second = rig.client();
        first.ask(&bare(Command::GetProvisioned)).await;
        second.ask(&bare(Command::GetProvisioned)).await;
        rig.client().closed_without_reply().await;
        drop(first);
        loop {
            // Retried: the daemon may see the new connection before the end of the old one.
            let mut next = rig.client();
            next.send(&bare(Command::GetProvisioned)).await;
            let mut byte = [0];
            if matches!(
                tokio::io::AsyncReadExt::read(&mut next.stream, &mut byte).await,
                Ok(1)
            ) {
                break;
            }
        }
        second.ask(&bare(Command::GetProvisioned)).await;
    });
}

#[test]
fn shutdown_closes_idle_sessions_and_lets_a_request_finish() {
    system(|| async {
        let mut rig = Rig::new(OPEN);
        let (release, gate) = tokio::sync::watch::channel(false);
        let (tell, mut arrived) = mpsc::unbounded_channel();
        rig.container.stop.bind_fn(move |_| {
            let _ = tell.send(());
            let mut gate = gate.clone();
            async move {
                let _ = gate.wait_for(|open| *open).await;
                Ok(())
            }
        });
        let mut idle = rig.client();
        let mut busy = rig.client();
        idle.ask(&bare(Command::GetProvisioned)).await;
        busy.send(&targeted(Command::ContainerStop)).await;
        arrived.recv().await.unwrap();

        let gateway = rig.started.recv().await.unwrap();
        let ended = cml_bus::actor::spawn(async move { gateway.send(Shutdown).await });
        idle.closed_without_reply().await;
        assert!(!ended.is_finished());
        release.send_replace(true);
        assert_eq!(busy.reply().await.code(), Code::Response);
        busy.closed_without_reply().await;
        ended.await.unwrap().unwrap();
        assert!(
            rig.supervisor.await.unwrap(),
            "ends cleanly, is not restarted"
        );
        assert!(rig.started.try_recv().is_err());
    });
}

#[test]
fn shutdown_does_not_wait_for_a_request_that_hangs() {
    system(|| async {
        let mut rig = Rig::new(OPEN);
        let (tell, mut arrived) = mpsc::unbounded_channel();
        rig.container.stop.bind_fn(move |_| {
            let _ = tell.send(());
            std::future::pending()
        });
        let mut stuck = rig.client();
        stuck.send(&targeted(Command::ContainerStop)).await;
        arrived.recv().await.unwrap();
        tokio::time::pause();
        let gateway = rig.started.recv().await.unwrap();
        gateway.send(Shutdown).await.unwrap();
        stuck.closed_without_reply().await;
    });
}

#[test]
fn after_a_panic_the_same_socket_is_served_again() {
    system(|| async {
        let mut rig = Rig::new(OPEN);
        let _ = fake(&rig.container.status, |_| Ok(vec![]));
        let mut client = rig.client();
        client.ask(&bare(Command::GetContainerStatus)).await;
        let gateway = rig.started.recv().await.unwrap();
        assert!(gateway.send(Panic).await.is_err());
        client.closed_without_reply().await;
        let mut client = rig.client();
        let reply = client.ask(&bare(Command::GetContainerStatus)).await;
        assert_eq!(reply.code(), Code::ContainerStatus);
    });
}

#[test]
fn a_panic_in_one_session_leaves_the_others_alone() {
    system(|| async {
        let rig = Rig::new(OPEN);
        rig.container
            .reload
            .bind_fn(|_| -> std::future::Ready<_> { panic!("on purpose") });
        let mut well = rig.client();
        well.ask(&bare(Command::GetProvisioned)).await;
        let mut unlucky = rig.client();
        unlucky.send(&bare(Command::ReloadContainers)).await;
        unlucky.closed_without_reply().await;
        well.ask(&bare(Command::GetProvisioned)).await;
    });
}
