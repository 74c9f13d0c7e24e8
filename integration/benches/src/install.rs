//! The installation of a large image from a server that hangs up twice, and what everybody else notices of it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    process::{Command as Program, Stdio},
    time::{Duration, Instant},
};

use cml_integration::{
    Client, Daemon, Host, Setup,
    http::{Answer, Body, Server},
    median,
    package::Package,
};
use cml_wire::proto::{controller_to_daemon::Command, daemon_to_controller::Response};

/// Bytes of the image.
const SIZE: u64 = 1 << 30;

/// What is printed about an installation.
#[derive(Debug)]
pub struct Report {
    /// From the push to its last reply.
    pub install: Duration,
    /// `sha256sum` and `cp` of the same file, the latter to the disk.
    pub programs: [(&'static str, Duration); 2],
    /// Medians of other commands, alone and meanwhile.
    pub others: Vec<(&'static str, Duration, Duration)>,
}

/// Installs, and measures.
pub fn measure() -> Report {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    let mut random = File::open("/dev/urandom").unwrap().take(SIZE);
    io::copy(&mut random, &mut File::create(&file).unwrap()).unwrap();
    let hashed = Instant::now();
    let sum = Program::new("sha256sum").arg(&file).output().unwrap();
    let hashing = hashed.elapsed();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let copying = copy(&file, &dir.path().join("copy"));
    let body: Body = fs::read(&file).unwrap().into();
    fs::remove_file(&file).unwrap();

    let part = |percent| usize::try_from(SIZE / 100 * percent).unwrap();
    let server = Server::new(move |number, _| match number {
        // Up to 40 % and 80 %.
        0 | 1 => Answer::Cut(body.clone(), part(40)),
        _ => Answer::File(body.clone()),
    });
    let daemon = Daemon::new(Setup {
        quiet: true,
        // Where the server is.
        host: Host::TheMachine,
        ..Setup::default()
    });
    let uuid = daemon.create("name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let base = server.base.clone();
    let package = Package::new(&daemon, "large", 1, |guest| {
        guest.update_base_url = Some(base);
        guest.mounts[0].image_size = Some(SIZE);
        guest.mounts[0].image_sha2_256 = Some(sum.split(' ').next().unwrap().into());
    });
    let mut alone = Others::new(&daemon, &uuid);
    for _ in 0..20 {
        alone.round();
    }
    let mut pushing = daemon.client();
    let begun = Instant::now();
    let started = pushing.ask(&package.message());
    assert_eq!(
        started.response(),
        Response::GuestosMgrInstallStarted,
        "{started:?}"
    );
    pushing.stream.set_read_timeout(None).unwrap();
    let ended = std::thread::spawn(move || {
        let reply = pushing.reply().expect("the end of the installation");
        assert_eq!(
            reply.response(),
            Response::GuestosMgrInstallCompleted,
            "{reply:?}"
        );
        begun.elapsed()
    });
    let mut meanwhile = Others::new(&daemon, &uuid);
    while !ended.is_finished() {
        meanwhile.round();
    }
    let medians = alone.medians().into_iter().zip(meanwhile.medians());
    Report {
        install: ended.join().unwrap(),
        programs: [("sha256sum", hashing), ("cp", copying)],
        others: medians.map(|((name, a), (_, b))| (name, a, b)).collect(),
    }
}

/// As an installation does it: on the disk when it is done.
fn copy(from: &Path, to: &Path) -> Duration {
    let begun = Instant::now();
    let status = Program::new("cp")
        .arg("--reflink=never")
        .arg(from)
        .arg(to)
        .status();
    assert!(status.unwrap().success());
    File::open(to).unwrap().sync_all().unwrap();
    let took = begun.elapsed();
    fs::remove_file(to).unwrap();
    took
}

/// What others do on the device.
struct Others<'a> {
    daemon: &'a Daemon,
    client: Client,
    uuid: &'a str,
    times: Vec<(&'static str, Vec<Duration>)>,
}

impl<'a> Others<'a> {
    fn new(daemon: &'a Daemon, uuid: &'a str) -> Self {
        let names = [
            "list",
            "config",
            "list_guestos",
            "device_stats",
            "start",
            "run true",
            "stop",
        ];
        Self {
            daemon,
            client: daemon.client(),
            uuid,
            times: names.map(|name| (name, Vec::new())).into(),
        }
    }

    fn time(&mut self, name: &str, act: impl FnOnce(&mut Self)) {
        let begun = Instant::now();
        act(self);
        let took = begun.elapsed();
        let times = self.times.iter_mut().find(|(known, _)| *known == name);
        times.unwrap().1.push(took);
    }

    fn round(&mut self) {
        let uuid = self.uuid;
        for _ in 0..10 {
            self.time("list", |me| {
                drop(me.client.ask_bare(Command::GetContainerStatus))
            });
            self.time("config", |me| {
                drop(me.client.ask_about(Command::GetContainerConfig, uuid))
            });
            self.time("list_guestos", |me| {
                drop(me.client.ask_bare(Command::ListGuestosConfigs))
            });
            self.time("device_stats", |me| {
                drop(me.client.ask_bare(Command::GetDeviceStats))
            });
        }
        self.time("start", |me| {
            let reply = me.client.ask_about(Command::ContainerStart, uuid);
            assert_eq!(reply.response(), Response::ContainerStartOk, "{reply:?}");
        });
        self.time("run true", |me| {
            let mut run = me.daemon.control().command(&["run", uuid, "nopty", "true"]);
            assert!(run.stdin(Stdio::null()).status().unwrap().success());
        });
        self.time("stop", |me| {
            let reply = me.client.ask_about(Command::ContainerStop, uuid);
            assert_eq!(reply.response(), Response::ContainerStopOk, "{reply:?}");
            while me.daemon.state(uuid) != "STOPPED" {}
        });
    }

    fn medians(&mut self) -> Vec<(&'static str, Duration)> {
        let times = self.times.iter_mut();
        times.map(|(name, times)| (*name, median(times))).collect()
    }
}
