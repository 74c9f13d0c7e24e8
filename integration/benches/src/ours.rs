//! Our side of the measurements.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use cml_integration::{Daemon, Setup, median};
use cml_wire::proto::{controller_to_daemon::Command, daemon_to_controller::Response};

use crate::runtime::{self, Times};

/// Repetitions of everything that is cheap.
pub const ROUNDS: usize = 40;
/// Round trips of `list`.
const LISTS: usize = 1000;
/// Containers that run at once at the end.
const CROWD: usize = 200;

/// Everything that is printed.
#[derive(Debug)]
pub struct Report {
    /// Our medians.
    pub ours: Times,
    /// The runtimes', by name.
    pub others: Vec<(&'static str, Times)>,
    /// A start with a PIN less one without.
    pub pin: Duration,
    /// One `list` round trip on an open connection, four containers.
    pub list: Duration,
    /// The daemon with nothing to do, in KiB.
    pub idle_kib: u64,
    /// More for each running container, in KiB.
    pub per_container_kib: u64,
    /// Until all of the crowd run, started one after the other.
    pub crowd: Duration,
}

/// Runs all measurements.
pub fn measure() -> Report {
    let mut daemon = Daemon::prepared(Setup {
        quiet: true,
        // The cost of a PIN is that of a token as the daemon makes it.
        token: false,
        ..Setup::default()
    });
    daemon.add_guest("bench", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "stubborn".into()];
    });
    daemon.start();
    daemon.wait_for_log("is ready path=");
    // As it is after any start but the very first, on which a token is made.
    daemon.stop();
    daemon.start();
    daemon.control().ok(&["list"]);
    let idle_kib = daemon.resident_kib();
    let ours = life(&daemon);
    let pin = pin(&daemon, ours.start);
    let list = lists(&daemon);
    let (per_container_kib, crowd) = crowd(&daemon);
    drop(daemon);

    let dir = tempfile::tempdir().unwrap();
    runtime::bundle(dir.path());
    let others = ["crun", "runc"].map(|name| (name, runtime::measure(name, dir.path())));
    Report {
        ours,
        others: others.into(),
        pin,
        list,
        idle_kib,
        per_container_kib,
        crowd,
    }
}

fn config(name: &str, token: &str) -> String {
    format!("name: \"{name}\"\nguest_os: \"bench\"\ntoken_type: {token}\n")
}

/// The command line as a whole process, its output thrown away as that of the runtimes.
fn control(daemon: &Daemon, args: &[&str]) -> Duration {
    let start = Instant::now();
    let status = daemon
        .control()
        .command(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{args:?}");
    start.elapsed()
}

/// Until a stop has been completed, asked on an open connection so that asking costs next to nothing.
fn stopped(daemon: &Daemon, uuid: &str, since: Instant) -> Duration {
    let mut client = daemon.client();
    loop {
        let reply = client.ask_about(Command::GetContainerStatus, uuid);
        if reply.container_status[0].state().as_str_name() == "STOPPED" {
            return since.elapsed();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn life(daemon: &Daemon) -> Times {
    // A sibling holds the image, as on a device where several containers share a guest OS.
    let sibling = daemon.create(&config("sibling", "NONE"));
    control(daemon, &["start", &sibling]);
    let uuid = daemon.create(&config("bench", "NONE"));
    let (mut starts, mut execs, mut stops) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        starts.push(control(daemon, &["start", &uuid]));
        assert_eq!(daemon.state(&uuid), "RUNNING");
        execs.push(control(
            daemon,
            &["run", &uuid, "nopty", "/bin/busybox", "true"],
        ));
        let since = Instant::now();
        control(daemon, &["stop", &uuid, "--no-wait"]);
        stops.push(stopped(daemon, &uuid, since));
    }
    Times {
        start: median(&mut starts),
        exec: median(&mut execs),
        stop: median(&mut stops),
    }
}

fn pin(daemon: &Daemon, without: Duration) -> Duration {
    let uuid = daemon.create(&config("pin", "SOFT"));
    let mut starts = vec![];
    for _ in 0..10 {
        starts.push(control(daemon, &["start", &uuid, "--key=trustme"]));
        let since = Instant::now();
        control(daemon, &["stop", &uuid, "--key=trustme", "--no-wait"]);
        stopped(daemon, &uuid, since);
    }
    median(&mut starts).saturating_sub(without)
}

fn lists(daemon: &Daemon) -> Duration {
    daemon.create(&config("fourth", "NONE"));
    let mut client = daemon.client();
    let mut times: Vec<_> = (0..LISTS)
        .map(|_| {
            let start = Instant::now();
            let reply = client.ask_bare(Command::GetContainerStatus);
            assert_eq!(reply.container_status.len(), 4);
            start.elapsed()
        })
        .collect();
    median(&mut times)
}

fn crowd(daemon: &Daemon) -> (u64, Duration) {
    let uuids: Vec<_> = (0..CROWD)
        .map(|index| daemon.create(&config(&format!("c{index}"), "NONE")))
        .collect();
    let mut client = daemon.client();
    let before = daemon.resident_kib();
    let start = Instant::now();
    for uuid in &uuids {
        let reply = client.ask_about(Command::ContainerStart, uuid);
        assert_eq!(reply.response(), Response::ContainerStartOk, "{reply:?}");
    }
    let elapsed = start.elapsed();
    let grown = daemon.resident_kib().saturating_sub(before);
    (grown / CROWD as u64, elapsed)
}
