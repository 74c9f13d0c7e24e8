//! Containers that are there already: a daemon that was started anew takes over what runs, and what has ended is taken
//! down.

use std::{path::Path, sync::Arc};

use cml_bus::{api::container::ContainerError, id::ContainerId};
use cml_sys::{device::node::Dev, emulator::Emulator, exec, idmap::IdRange, pidfd, proc};
use cml_wire::{proto::ContainerConfig, text};

use super::Live;
use crate::{
    control_socket,
    env::Env,
    plan::SERVICE_SOCKET,
    record::{Found, Record, Undo, unwind},
    volumes::OpenVolumes,
};

/// Takes over a container from its record: one that runs is returned, anything else is undone.
pub fn adopt(env: &Env, id: ContainerId) -> Option<Live> {
    let undo = match env.records.read(id) {
        Found::Nothing => {
            env.records.remove(id);
            return None;
        }
        Found::Record(record) => match reopen(env, id, &record) {
            Some(live) => return Some(live),
            None => record.undo,
        },
        // Whatever runs of it has no one who knows it; its groups are known by its identity alone.
        Found::Unreadable => {
            vec![
                Undo::Network,
                Undo::Group(env.hierarchies.group(&id.to_string())),
            ]
        }
    };
    tracing::warn!(container = %id, "cleaning up what is left of a container");
    match unwind(env, id, &undo) {
        Ok(()) => env.records.remove(id),
        Err(error) => tracing::error!(container = %id, error, "something is left of a container"),
    }
    None
}

fn reopen(env: &Env, id: ContainerId, record: &Record) -> Option<Live> {
    let running = record.running.clone()?;
    let pidfd = pidfd::open(running.pid, running.start_time).ok()?;
    if proc::is_zombie(running.pid) {
        // Still our child, if it was the actor that died and not the daemon.
        let _ = pidfd::reap(&pidfd);
        return None;
    }
    if let Some(slot) = running.id_slot {
        env.slots.take(id, Some(slot), || env.store.id_slots());
    }
    let path = Path::new(SERVICE_SOCKET);
    let in_userns = running.id_slot.is_some();
    let service = exec::bind_socket(&env.program, &pidfd, path, in_userns);
    let service = service
        .inspect_err(|error| tracing::warn!(container = %id, %error, "the guest cannot report"))
        .ok();
    let emulator = running.emulator.map(|identity| {
        let emulator = Emulator::find(identity)?;
        // The daemon may have died between a change and telling it.
        emulator.allow(&running.devices.rules)?;
        Ok::<_, cml_sys::Error>(emulator)
    });
    let emulator = emulator
        .transpose()
        .inspect_err(
            |error| tracing::warn!(container = %id, %error, "nobody does its system calls"),
        )
        .ok()
        .flatten();
    let ids = running.id_slot.and_then(IdRange::of_slot);
    let held = &running.devices;
    let config: Option<ContainerConfig> = text::parse(running.config.as_bytes()).ok();
    let name = config.map_or_else(|| id.to_string(), |config| config.name);
    env.devices.ledger.restore(id, &name, held);
    let dev = held.dev.map(|dev| Dev::of(running.pid, dev, ids));
    let dev = dev.and_then(|dev| {
        dev.inspect_err(|error| tracing::warn!(container = %id, %error, "it gets no new devices"))
            .ok()
    });
    Some(Live {
        emulator: emulator.map(Arc::new),
        dev: dev.map(Arc::new),
        warnings: Vec::new(),
        control: control_socket::bind_again(env, id, &running, &pidfd),
        record: record.clone(),
        running,
        pidfd: Arc::new(pidfd),
        images: Vec::new(),
        volumes: OpenVolumes::default(),
        service,
    })
}

/// Takes a container down whose init has ended: everything that its launch did is undone. What cannot be
/// undone keeps its record and its ids; the next launch or the next daemon tries again. Of a guest that
/// reboots the volumes stay open and are returned.
pub fn clean_up(env: &Env, id: ContainerId, live: Live, reboots: bool) -> OpenVolumes {
    let Live {
        mut record,
        images,
        volumes,
        emulator,
        ..
    } = live;
    let keeps = reboots && !volumes.is_empty();
    let (kept, undone) = match keeps {
        true => {
            let of_guest = |undo: &Undo| !matches!(undo, Undo::Volumes(_));
            let undone: Vec<_> = record
                .undo
                .iter()
                .filter(|undo| of_guest(undo))
                .cloned()
                .collect();
            (volumes, undone)
        }
        false => {
            drop(volumes);
            (OpenVolumes::default(), record.undo.clone())
        }
    };
    match unwind(env, id, &undone) {
        Ok(()) if keeps => {
            record.running = None;
            if let Err(error) = env.records.write(id, &record) {
                tracing::error!(container = %id, error, "the record is out of date");
            }
        }
        Ok(()) => {
            env.records.remove(id);
            env.slots.give_back(id);
            env.devices.ledger.release(id);
        }
        Err(error) => tracing::error!(container = %id, error, "something is left of a container"),
    }
    drop(images);
    // Last: it ends when the last process of the container has gone.
    if let Some(emulator) = emulator {
        emulator.end();
    }
    kept
}

/// Undoes what an earlier run of a container that does not run has left.
pub fn settle(env: &Env, id: ContainerId) -> Result<(), ContainerError> {
    let Found::Record(record) = env.records.read(id) else {
        return Ok(());
    };
    unwind(env, id, &record.undo).map_err(|reason| ContainerError::Store {
        path: id.to_string(),
        reason,
    })?;
    env.records.remove(id);
    Ok(())
}

/// Closes volumes that were kept for a reboot that does not happen.
pub fn give_up(env: &Env, id: ContainerId, kept: OpenVolumes) {
    drop(kept);
    adopt(env, id);
    env.slots.give_back(id);
    env.devices.ledger.release(id);
}
