//! `cmld`, the daemon of the container management layer: reads its command line and configuration, puts the
//! services together, and ends when it is told to. No logic of any service lives here.
#![forbid(unsafe_code)]

mod args;
mod compose;
mod device;
mod end;
mod log;
mod log_files;
mod notify;
mod socket;

use std::{error::Error, process::exit};

use args::Args;
use clap::Parser;
use cml_bus::actor::System;
use cml_sys::{
    net::{namespace::Namespace, pin::Place},
    power::Master,
};
use compose::{Places, Services, compose};
use device::Device;
use end::wind_down;
use notify::News;
use socket::RunDir;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};

/// The reason is on standard error.
const CANNOT_START: i32 = 1;
/// sysexits.h, EX_SOFTWARE: a service died again and again.
const CRASH_LOOP: i32 = 70;

fn main() {
    let args = Args::parse();
    let status = run(&args).unwrap_or_else(|error| {
        eprintln!("cmld: {error}");
        CANNOT_START
    });
    exit(status);
}

fn run(args: &Args) -> Result<i32, Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        return Err("containers need root; run cmld as root".into());
    }
    let master = Master::at_start(args.device);
    cml_sys::proc::forbid_core_dumps()?;
    cml_sys::proc::raise_file_limit()?;
    let (network, host_mounts) = (Namespace::current()?.into(), Place::current()?.into());
    // Before the first thread (LIF-10): mounts of images are nobody else's business.
    cml_sys::proc::own_mount_namespace()?;
    let base = args.base();
    let device = Device::read(&args.conf, &base)?;
    compose::make_base(&base)
        .map_err(|error| format!("cannot make `{}`: {}", base.display(), error.source))?;
    let run = RunDir::take(&args.run, &base)?;
    let locked = cml_sys::proc::lock_memory();
    log::start(&args.logs).map_err(|error| format!("`{}`: {error}", args.logs.display()))?;
    // Scripts of the existing system look for these words in retrieved logs (protocol.md 8.5, number 10).
    tracing::info!(
        "device.conf path is {}",
        args.conf.join("device.conf").display()
    );
    if let Err(error) = locked {
        tracing::warn!(%error, "secrets may be swapped out; give cmld CAP_IPC_LOCK");
    }
    let places = Places {
        base,
        logs: args.logs.clone(),
        audit: args.audit(),
        run: run.private().to_owned(),
        mounts: run.mounts()?,
        init: args.init(),
        network,
        host_mounts,
        fifos: run.fifos(),
        master,
    };
    let system = System::new();
    let status = system.block_on(async {
        // Whoever finds the socket may send a signal.
        let signals = Signals::new()?;
        let services = compose(&device, places, run.listen()?)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "cmld is ready");
        notify::tell(News::Ready);
        serve(services, signals, &run).await
    });
    run.close();
    // Dropping the system would wait for every blocking job, be it the hashing of a large image. What is half
    // done is in the records, and the end of the process takes care of the rest.
    std::mem::forget(system);
    status
}

/// The signals that the daemon answers to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that goes away is no reason to end (protocol.md 1.4).
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next wish that the daemon ends.
    async fn end(&mut self) {
        loop {
            select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {}
            }
        }
    }
}

/// Waits for a reason to end, and ends in an orderly way.
async fn serve(
    mut services: Services,
    mut signals: Signals,
    run: &RunDir,
) -> Result<i32, Box<dyn Error>> {
    select! {
        () = signals.end() => {}
        Some(crash_loop) = services.fatal.recv() => {
            tracing::error!(%crash_loop, "giving up; running containers are left alone");
            return Ok(CRASH_LOOP);
        }
    }
    tracing::info!("stopping all containers");
    notify::tell(News::Stopping);
    // New clients shall learn at once that nobody serves them.
    run.close();
    select! {
        () = wind_down(&services) => tracing::info!("cmld ends"),
        () = signals.end() => tracing::warn!("ending at once; containers are left running"),
    }
    Ok(0)
}
