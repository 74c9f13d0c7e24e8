//! Guests that take all they can get: what others need is left for them.

use std::{
    io::Read,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use cml_integration::{Client, Daemon, eventually, median};
use cml_wire::proto::controller_to_daemon::Command;

/// How much slower the daemon may be while others take all they can get. The measure of the requirement; both
/// medians are taken in turns on the same machine in the same minute.
const FACTOR: u32 = 5;
/// Turns. The median of so many is not what a neighbour's compiler does to some of them.
const ROUNDS: usize = 9;

/// A container with its hog in it. The limits are what an operator gives to a guest that is not trusted.
fn hog(daemon: &Daemon, name: &str, what: &str) -> Child {
    let limits = "ram_limit: 64\npids_limit: 200\ncpu_weight: 10\n";
    daemon.running_with(name, "busybox", limits);
    let script = format!("while :; do probe hog {what}; done");
    let mut run = daemon
        .control()
        .command(&["run", "-T", name, "sh", "-c", &script]);
    let run = run
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    run.spawn().unwrap()
}

/// A container whose terminal is flooded, and somebody who reads all of it.
fn flood(daemon: &Daemon, name: &str) -> (Child, thread::JoinHandle<u64>) {
    daemon.running_with(name, "busybox", "cpu_weight: 10\n");
    let mut run = daemon
        .control()
        .command(&["run", "-t", name, "cat", "/dev/zero"]);
    let run = run
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    let mut out = run.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let (mut buffer, mut total) = ([0; 4096], 0);
        while let Ok(length @ 1..) = out.read(&mut buffer) {
            total += length as u64;
        }
        total
    });
    (run, reader)
}

/// A batch of round trips, so that one is long enough to be compared.
fn lists(client: &mut Client) -> Duration {
    let begun = Instant::now();
    for _ in 0..20 {
        client.ask_bare(Command::ListContainers);
    }
    begun.elapsed()
}

/// Another container from the request to a command that it has carried out, and away again.
fn life(daemon: &Daemon, uuid: &str) -> Duration {
    let begun = Instant::now();
    daemon.control().ok(&["start", uuid]);
    daemon.answers(uuid);
    let took = begun.elapsed();
    daemon.control().ok(&["stop", uuid]);
    daemon.wait_for(uuid, "STOPPED");
    took
}

#[test]
#[ignore = "compares times, so the machine must do nothing else: make test-quiet"]
fn hogs_of_processes_memory_files_groups_and_terminals_hold_up_nobody() {
    let mut daemon = Daemon::default();
    daemon.add_guest("quick", |guest| {
        guest.init_path = Some("/bin/sleep".into());
        guest.init_param = vec!["1000000".into()];
    });
    let other = daemon.create("name: \"other\"\nguest_os: \"quick\"\ntoken_type: NONE\n");
    let mut client = daemon.client();
    life(&daemon, &other);
    let names = ["forks", "memory", "files", "groups"];
    let mut hogs: Vec<_> = names.iter().map(|what| hog(&daemon, what, what)).collect();
    let (mut flooded, reader) = flood(&daemon, "flood");
    eventually("a full house", || {
        let stats = daemon
            .control()
            .ok(&["--format", "json", "stats", "forks"])
            .out;
        stats.contains("\"pids\": 200").then_some(())
    });
    eventually("lack of memory", || {
        let stats = daemon
            .control()
            .ok(&["--format", "json", "stats", "memory"])
            .out;
        (!stats.contains("\"oom_kills\": 0")).then_some(())
    });
    let all = ["forks", "memory", "files", "groups", "flood"];
    let mut turn = |command: &str| {
        for name in all {
            daemon.control().ok(&[command, name]);
        }
        // They take hold again.
        thread::sleep(Duration::from_millis(100));
        (lists(&mut client), life(&daemon, &other))
    };
    // What is done for the first time brings its part of the program into memory.
    let commands = ["freeze", "unfreeze"];
    for command in commands {
        turn(command);
    }
    let before = daemon.resident_kib();
    let [mut idle, mut busy] = [(); 2].map(|()| (Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for (command, times) in commands.into_iter().zip([&mut idle, &mut busy]) {
            let (list, start) = turn(command);
            times.0.push(list);
            times.1.push(start);
        }
    }
    let after = daemon.resident_kib();
    for (what, idle, busy) in [
        ("list", &mut idle.0, &mut busy.0),
        ("start", &mut idle.1, &mut busy.1),
    ] {
        let (idle, busy) = (median(idle), median(busy));
        println!("{what}: {idle:?} while they are frozen, {busy:?} while they are not");
        assert!(busy <= idle * FACTOR, "{what}: {idle:?} became {busy:?}");
    }
    println!("resident: {before} KiB, then {after} KiB");
    assert!(after <= before + 4096, "{before} KiB became {after} KiB");
    for name in all {
        daemon.control().ok(&["remove", name]);
    }
    for run in hogs.iter_mut().chain([&mut flooded]) {
        run.wait().unwrap();
    }
    assert!(
        reader.join().unwrap() > 1 << 20,
        "the terminal was really flooded"
    );
    assert_eq!(daemon.state("other"), "STOPPED");
}
