//! `cmld`, the daemon of the container management layer: reads its command line and configuration, puts the
//! services together, and ends when it is told to. No logic of any service lives here.
#![forbid(unsafe_code)]

mod args;
mod compose;
mod device;
mod log;
mod socket;

use std::{error::Error, process::ExitCode};

use args::Args;
use clap::Parser;
use cml_bus::{actor::System, api::container::Shutdown};
use compose::{Places, Services, compose};
use device::Device;
use socket::RunDir;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
};

/// sysexits.h, EX_SOFTWARE: a service died again and again.
const CRASH_LOOP: u8 = 70;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("cmld: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<u8, Box<dyn Error>> {
    cml_sys::proc::forbid_core_dumps()?;
    cml_sys::proc::raise_file_limit()?;
    // Before the first thread (LIF-10): mounts of images are nobody else's business.
    cml_sys::proc::own_mount_namespace()?;
    let base = args.base();
    let device = Device::read(&args.conf, &base)?;
    compose::make_base(&base)
        .map_err(|error| format!("cannot make `{}`: {error}", base.display()))?;
    let run = RunDir::take(&args.run)?;
    log::start(&args.logs).map_err(|error| format!("`{}`: {error}", args.logs.display()))?;
    let places = Places {
        base,
        run: run.private().to_owned(),
        mounts: run.mounts()?,
        init: args.init(),
    };
    let listener = run.listen()?;
    let status = System::new().block_on(async {
        let services = compose(&device, places, listener)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "cmld is ready");
        serve(services, &run).await
    });
    run.close();
    status
}

/// Waits for a reason to end, and ends in an orderly way.
async fn serve(mut services: Services, run: &RunDir) -> Result<u8, Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that goes away is no reason to end (protocol.md 1.4).
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {}
            Some(crash_loop) = services.fatal.recv() => {
                tracing::error!(%crash_loop, "giving up; running containers are left alone");
                return Ok(CRASH_LOOP);
            }
        }
    }
    tracing::info!("stopping all containers");
    // New clients shall learn at once that nobody serves them.
    run.close();
    select! {
        () = wind_down(&services) => tracing::info!("cmld ends"),
        _ = terminate.recv() => tracing::warn!("ending at once; containers are left running"),
        _ = interrupt.recv() => tracing::warn!("ending at once; containers are left running"),
    }
    Ok(0)
}

/// Clients first, then the containers (ACT-06).
async fn wind_down(services: &Services) {
    let gateway = services.gateway.borrow_mut().take();
    if let Some(gateway) = gateway
        && let Err(error) = gateway.send(cml_gateway::Shutdown).await
    {
        tracing::warn!(%error, "the gateway did not end in an orderly way");
    }
    if let Err(error) = services.container.shutdown.call(Shutdown).await {
        tracing::error!(%error, "containers are left running");
    }
}
