//! Garbage on the control socket: each piece gets its error or a closed connection, nobody else notices.

use std::time::{Duration, Instant};

use cml_integration::{Client, Daemon, median};
use cml_wire::{
    frame,
    proto::{ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code},
};
use prost::Message;

/// Clients that send half a frame and stall.
const STALLED: usize = 500;
/// Round trips per measurement.
const ROUNDS: usize = 200;

/// Measurements of which the best counts.
const ATTEMPTS: usize = 6;

/// The median of a `list` round trip on an open connection.
fn list_median(client: &mut Client) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let reply = client.ask_bare(Command::GetContainerStatus);
            assert_eq!(reply.code(), Code::ContainerStatus);
            start.elapsed()
        })
        .collect();
    median(&mut times)
}

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let step = |state: &u64| {
        Some(
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407),
        )
    };
    std::iter::successors(Some(seed), step).map(|state| (state >> 56) as u8)
}

#[test]
fn stalled_clients_and_random_bytes_cost_nobody_else_time_or_memory() {
    let daemon = Daemon::default();
    for name in ["a", "b", "c", "d"] {
        daemon.create(&format!("name: \"{name}\"\nguest_os: \"busybox\"\n"));
    }
    let mut client = daemon.client();
    list_median(&mut client);
    let memory = daemon.resident_kib();
    let mut stalled = Vec::new();
    // Idle and busy by turns, and the best of several: the machine has other things to do meanwhile.
    let worst = (0..ATTEMPTS).map(|_| {
        stalled.clear();
        let idle = list_median(&mut client);
        stalled.extend((0..STALLED).map(|index| {
            let mut half = daemon.client();
            // A header that promises 50 MiB, and a little of it.
            half.send_raw(&(50_u32 << 20).to_be_bytes());
            half.send_raw(&vec![8; index % 100]);
            half
        }));
        for seed in 0..50 {
            let mut random = daemon.client();
            let bytes: Vec<_> = noise(seed).take(1000).collect();
            random.send_raw(&bytes);
        }
        list_median(&mut client).as_secs_f64() / idle.as_secs_f64()
    });
    let factor = worst.fold(f64::INFINITY, f64::min);
    assert!(
        factor < 3.0,
        "{factor} times as slow with {STALLED} stalled clients"
    );
    let grown = daemon.resident_kib().saturating_sub(memory);
    assert!(
        grown < 16 * 1024,
        "grew by {grown} KiB for {STALLED} stalled clients"
    );
    drop(stalled);
    // Their places are free again.
    for _ in 0..20 {
        daemon.client().ask_bare(Command::GetContainerStatus);
    }
}

#[test]
fn more_clients_than_there_are_places_are_turned_away_and_the_others_served() {
    let daemon = Daemon::default();
    let mut first = daemon.client();
    first.ask_bare(Command::GetContainerStatus);
    // Far more than the 1024 places of the gateway.
    let crowd: Vec<_> = (0..1200)
        .map_while(|_| std::os::unix::net::UnixStream::connect(daemon.socket()).ok())
        .collect();
    first.ask_bare(Command::GetContainerStatus);
    drop(crowd);
    cml_integration::eventually("a new client is served", || {
        let mut client = daemon.client();
        client.send(&ControllerToDaemon {
            command: Command::GetContainerStatus.into(),
            ..Default::default()
        });
        client.reply()
    });
}

#[test]
fn every_command_without_its_parameters_is_answered_or_silent_as_agreed() {
    let daemon = Daemon::default();
    daemon.create("name: \"x\"\nguest_os: \"busybox\"\n");
    // What turns the others off comes last.
    let last = i32::from(Command::SetProvisioned);
    let numbers = (0..1100).filter(|number| *number != last).chain([last]);
    for number in numbers {
        // The one command that is never answered (protocol.md 3.3).
        if number == i32::from(Command::ContainerExecInput) {
            continue;
        }
        // A connection each: some commands are answered by more than one message.
        let mut client = daemon.client();
        let reply = client.ask(&ControllerToDaemon {
            command: number,
            ..Default::default()
        });
        if Command::try_from(number).is_err() {
            assert_eq!(
                reply.response().as_str_name(),
                "CMD_UNSUPPORTED",
                "{number}"
            );
        }
    }
    assert_eq!(daemon.state("x"), "STOPPED");
}

#[test]
fn every_command_with_absurd_parameters_leaves_the_daemon_alive_and_the_disk_unchanged() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"x\"\nguest_os: \"busybox\"\n");
    let absurd = "\u{0}../../\n\u{1}".repeat(1000);
    let before = std::fs::read(daemon.base().join(format!("containers/{uuid}.conf"))).unwrap();
    let last = i32::from(Command::SetProvisioned);
    let numbers = (1..1100).filter(|number| *number != last).chain([last]);
    for number in numbers {
        if Command::try_from(number).is_err() {
            continue;
        }
        for uuids in [
            vec![absurd.clone()],
            vec![uuid.clone(), uuid.clone()],
            vec!["ffffffff-ffff-ffff-ffff-ffffffffffff".to_owned()],
        ] {
            let mut client = daemon.client();
            client.send(&ControllerToDaemon {
                command: number,
                container_uuids: uuids,
                container_config_file: Some(absurd.clone().into_bytes()),
                exec_command: Some(absurd.clone()),
                exec_args: vec![absurd.clone()],
                exec_pty: Some(true),
                exec_cols: Some(u32::MAX),
                exec_env: vec![absurd.clone()],
                dev_rule: Some(absurd.clone()),
                guestos_name: Some(absurd.clone()),
                ..Default::default()
            });
            client.ask_bare(Command::GetContainerStatus);
        }
    }
    let after = std::fs::read(daemon.base().join(format!("containers/{uuid}.conf"))).unwrap();
    assert_eq!(before, after);
    assert_eq!(
        std::fs::read_dir(daemon.base().join("containers"))
            .unwrap()
            .count(),
        2
    );
    daemon.control().ok(&["start", "x", "--key=trustme"]);
}

#[test]
fn absurd_commands_in_a_running_container_are_refused_one_by_one() {
    let daemon = Daemon::default();
    let uuid = daemon.running("x", "busybox");
    let mut client = daemon.client();
    let exec = |argv: Vec<String>, env: Vec<String>, workdir: Option<String>| ControllerToDaemon {
        command: Command::ContainerExecCmd.into(),
        container_uuids: vec![uuid.clone()],
        exec_args: argv,
        exec_env: env,
        exec_workdir: workdir,
        exec_pty: Some(false),
        ..Default::default()
    };
    let one = |word: &str| vec![word.to_owned()];
    for request in [
        exec(one(""), vec![], None),
        exec(one("a\0b"), vec![], None),
        exec(one("true"), one("A\0B=1"), None),
        exec(one("true"), vec![], Some("relative".into())),
        exec(one("true"), vec![], Some("/absent".into())),
        exec(one("true"), vec![], Some("/proc/self/fd/0".into())),
        exec(one("/etc/passwd"), vec![], None),
        exec(one("/"), vec![], None),
        exec(vec!["x".repeat(200_000)], vec![], None),
    ] {
        let reply = client.ask(&request);
        assert_eq!(reply.code(), Code::ExecEnd, "{reply:?}");
        assert!(reply.error_text.is_some_and(|text| !text.is_empty()));
    }
}

#[test]
fn deep_nesting_in_a_configuration_and_in_a_message_is_refused() {
    let daemon = Daemon::default();
    let mut client = daemon.client();
    let reply = client.ask(&ControllerToDaemon {
        command: Command::CreateContainer.into(),
        container_config_file: Some(b"vnet_configs {".repeat(100_000)),
        ..Default::default()
    });
    assert!(reply.container_configs.is_empty() && reply.error_text.is_some());
    // Groups within groups, which no field of ours has: 4 bits of wire type 3 each.
    let mut body = ControllerToDaemon {
        command: Command::GetContainerStatus.into(),
        ..Default::default()
    }
    .encode_to_vec();
    body.extend(std::iter::repeat_n([0x93, 0x3f], 100_000).flatten());
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    let mut nested = daemon.client();
    nested.send_raw(&bytes);
    nested.expect_closed();
    client.ask_bare(Command::GetContainerStatus);
}

#[test]
fn a_message_of_the_largest_size_is_answered_and_its_memory_given_back() {
    let daemon = Daemon::default();
    let mut client = daemon.client();
    client.ask_bare(Command::GetContainerStatus);
    let memory = daemon.resident_kib();
    for _ in 0..3 {
        let reply = client.ask(&ControllerToDaemon {
            command: Command::CreateContainer.into(),
            container_config_file: Some(vec![b'#'; frame::MAX_BODY - 1024]),
            ..Default::default()
        });
        assert!(reply.container_configs.is_empty());
    }
    let grown = daemon.resident_kib().saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB were kept");
}
