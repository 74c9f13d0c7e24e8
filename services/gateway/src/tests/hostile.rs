use std::time::Duration;

use cml_bus::testing::fake;
use cml_wire::proto::{controller_to_daemon::Command, daemon_to_controller::Code};
use tokio::time::{Instant, pause};

use super::rig::{OPEN, Rig, bare, framed, system};

async fn still_serves(rig: &Rig) {
    let reply = rig.client().ask(&bare(Command::GetProvisioned)).await;
    assert_eq!(reply.code(), Code::DeviceProvisionedState);
}

#[test]
fn what_is_not_a_message_closes_that_connection_without_a_reply() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let bad: [&[u8]; 7] = [
            &[0, 0, 0, 0],
            &[4, 0, 0, 0],
            &[0xff; 4],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0, 0, 0, 3, 0xff, 0xff, 0xff],
            // A message without its required command.
            &[0, 0, 0, 3, 0x68, 0x01, 0x00],
            // A string that is longer than the body.
            &[0, 0, 0, 4, 8, 3, 0x52, 0x7f],
        ];
        for bytes in bad {
            let mut client = rig.client();
            client.raw(bytes).await;
            client.closed_without_reply().await;
            still_serves(&rig).await;
        }
    });
}

#[test]
fn replies_before_the_garbage_still_arrive() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut client = rig.client();
        let mut bytes = framed(&bare(Command::GetProvisioned));
        bytes.extend([0; 4]);
        client.raw(&bytes).await;
        assert_eq!(client.reply().await.code(), Code::DeviceProvisionedState);
        client.closed_without_reply().await;
    });
}

#[test]
fn a_frame_may_arrive_byte_by_byte() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let mut client = rig.client();
        for byte in framed(&bare(Command::GetProvisioned)) {
            client.raw(&[byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.reply().await.code(), Code::DeviceProvisionedState);
    });
}

#[test]
fn a_half_sent_frame_is_given_up_and_blocks_nobody() {
    system(|| async {
        let rig = Rig::new(OPEN);
        for half in [&[0][..], &[0, 0, 0, 9, 8], &[0, 1, 0, 0, 8, 3]] {
            let mut client = rig.client();
            client.raw(half).await;
            still_serves(&rig).await;
        }
        pause();
        let mut client = rig.client();
        let started = Instant::now();
        client.raw(&[0, 0, 0, 9, 8]).await;
        client.closed_without_reply().await;
        let patience = started.elapsed();
        assert!(patience >= Duration::from_secs(29) && patience < Duration::from_secs(40));
    });
}

#[test]
fn dripping_bytes_does_not_extend_the_deadline() {
    system(|| async {
        let rig = Rig::new(OPEN);
        pause();
        let mut client = rig.client();
        let started = Instant::now();
        client.raw(&[0, 0, 0, 200]).await;
        while started.elapsed() < Duration::from_secs(28) {
            client.raw(&[8]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        client.closed_without_reply().await;
        assert!(started.elapsed() < Duration::from_secs(40));
    });
}

#[test]
fn an_idle_connection_is_not_closed() {
    system(|| async {
        let rig = Rig::new(OPEN);
        pause();
        let mut client = rig.client();
        client.ask(&bare(Command::GetProvisioned)).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        client.ask(&bare(Command::GetProvisioned)).await;
    });
}

#[test]
fn a_large_frame_is_accepted() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let created = fake(&rig.container.create, |_| {
            Ok(cml_bus::api::container::Stored {
                id: super::rig::id(),
                config: Default::default(),
                warnings: vec![],
            })
        });
        let mut request = bare(Command::CreateContainer);
        request.container_config_file = Some(vec![b' '; 8 << 20]);
        let mut client = rig.client();
        let reply = client.ask(&request).await;
        assert_eq!(reply.code(), Code::ContainerConfig);
        assert_eq!(created.take()[0].config.len(), 8 << 20);
        let reply = client.ask(&bare(Command::GetProvisioned)).await;
        assert_eq!(reply.code(), Code::DeviceProvisionedState);
    });
}
