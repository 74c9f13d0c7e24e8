//! Bringing a container up and taking it down again: the only place where its parts are put together.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cml_bus::{
    api::{
        container::ContainerError,
        guestos::{ImageLease, Resolve, Resolved},
    },
    id::ContainerId,
};
use cml_sys::{
    exec, file,
    host::{self, Tree},
    pidfd, proc,
};
use cml_wire::{proto::ContainerConfig, text};

use crate::{
    env::Env,
    plan::{self, Planned, SERVICE_SOCKET, TreeSource},
    record::{Facts, Found, Record, Running, Undo, unwind},
};

/// A container that runs, with all that the daemon holds of it.
#[derive(Debug)]
pub struct Live {
    /// What is written down about it.
    pub record: Record,
    /// The part of the record about the guest.
    pub running: Running,
    /// The handle of its init.
    pub pidfd: Arc<OwnedFd>,
    /// Keep its images mounted for further containers.
    images: Vec<Arc<ImageLease>>,
    /// The listening service socket.
    pub service: Option<OwnedFd>,
}

impl Live {
    /// Writes the record with the guest's present state.
    pub fn note(&mut self, env: &Env, id: ContainerId) -> Result<(), String> {
        self.record.running = Some(self.running.clone());
        env.records.write(id, &self.record)
    }
}

/// Launches a container up to the point where its init runs. A failure undoes everything.
pub async fn launch(
    env: &Arc<Env>,
    id: ContainerId,
    config: &ContainerConfig,
) -> Result<Live, ContainerError> {
    let request = Resolve {
        name: config.guest_os.clone(),
        version: env.version_for(config),
        setup: false,
    };
    let resolved = env.guestos.resolve.call(request).await?;
    let config = config.clone();
    env.in_turn(id, &env.storage, move |env| {
        blocking_launch(env, id, &config, &resolved)
    })
    .await?
}

fn blocking_launch(
    env: &Env,
    id: ContainerId,
    config: &ContainerConfig,
    resolved: &Resolved,
) -> Result<Live, ContainerError> {
    let failed = |reason: String| ContainerError::Launch { id, reason };
    let slot = match config.userns() {
        true => Some(take_slot(env, id)?),
        false => None,
    };
    let launched = plan::launch(
        config,
        &resolved.installed.config,
        &resolved.mounts,
        slot.map(|(_, range)| range),
    )
    .map_err(|error| error.to_string())
    .and_then(|planned| {
        let facts = Facts {
            id_slot: slot.map(|(slot, _)| slot),
            config: text::print_file(config),
            own_network: config.netns(),
            init_env: planned.launch.init.env.clone(),
            trust: resolved.installed.trust,
            group: env.hierarchies.group(&id.to_string()),
        };
        attempt_or_undo(env, id, &planned, facts)
    });
    launched.map_err(|reason| {
        env.slots.give_back(id);
        failed(reason)
    })
}

fn take_slot(env: &Env, id: ContainerId) -> Result<(u32, cml_sys::idmap::IdRange), ContainerError> {
    let stored = env.store.id_slot(id);
    let taken = env.slots.take(id, stored);
    let (slot, range) = taken.ok_or_else(|| ContainerError::Launch {
        id,
        reason: "all ranges of ids are in use; stop another container".into(),
    })?;
    if stored != Some(slot) {
        env.store
            .set_id_slot(id, slot)
            .inspect_err(|_| env.slots.give_back(id))?;
    }
    Ok((slot, range))
}

fn attempt_or_undo(
    env: &Env,
    id: ContainerId,
    planned: &Planned,
    facts: Facts,
) -> Result<Live, String> {
    let undo = vec![Undo::Group(facts.group.clone())];
    attempt(env, id, planned, undo.clone(), facts).map_err(|reason| match unwind(&undo) {
        Ok(()) => {
            env.records.remove(id);
            reason
        }
        // The record stays: the next daemon tries again.
        Err(also) => format!("{reason}; and while undoing it: {also}"),
    })
}

fn attempt(
    env: &Env,
    id: ContainerId,
    planned: &Planned,
    undo: Vec<Undo>,
    facts: Facts,
) -> Result<Live, String> {
    let text = |error: cml_sys::Error| error.to_string();
    let record = Record {
        boot_id: proc::boot_id().map_err(text)?,
        undo,
        running: None,
    };
    env.records.write(id, &record)?;
    let group = env.hierarchies.create(&id.to_string()).map_err(text)?;
    let opened = planned
        .trees
        .iter()
        .map(|tree| open_tree(env, tree))
        .collect::<Result<Vec<_>, _>>()?;
    let trees: Vec<_> = opened.iter().map(Opened::tree).collect();
    let mut prepared =
        host::prepare(&env.program, &planned.launch, &trees, &group).map_err(text)?;
    prepared.go().map_err(text)?;
    let mut live = Live {
        running: Running::new(&prepared, facts),
        record,
        service: prepared.service.take(),
        pidfd: Arc::new(prepared.pidfd),
        images: opened.into_iter().filter_map(Opened::image).collect(),
    };
    // A guest that the next daemon would not find must not run.
    live.note(env, id).inspect_err(|_| {
        let _ = group.kill();
        let _ = pidfd::wait(&*live.pidfd, KILL_PATIENCE);
    })?;
    Ok(live)
}

/// How long a killed guest may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// A tree whose source is open.
enum Opened {
    Image(Arc<ImageLease>),
    File { file: OwnedFd, read_only: bool },
}

impl Opened {
    fn tree(&self) -> Tree<'_> {
        match self {
            Self::Image(lease) => Tree {
                source: lease.root.as_fd(),
                read_only: true,
                no_suid: false,
            },
            // Two containers may share a file: neither gives the other a program that runs as its owner.
            Self::File { file, read_only } => Tree {
                source: file.as_fd(),
                read_only: *read_only,
                no_suid: true,
            },
        }
    }

    fn image(self) -> Option<Arc<ImageLease>> {
        match self {
            Self::Image(lease) => Some(lease),
            Self::File { .. } => None,
        }
    }
}

fn open_tree(env: &Env, tree: &TreeSource) -> Result<Opened, String> {
    match tree {
        TreeSource::Image(lease) => Ok(Opened::Image(lease.clone())),
        TreeSource::File { name, read_only } => {
            // A missing one is made (runtime.md 3.2).
            let file = file::touch(&env.shared_files().join(name), 0o644);
            Ok(Opened::File {
                file: file.map_err(|error| error.to_string())?.into(),
                read_only: *read_only,
            })
        }
    }
}

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
        Found::Unreadable => vec![Undo::Group(env.hierarchies.group(&id.to_string()))],
    };
    tracing::warn!(container = %id, "cleaning up what is left of a container");
    match unwind(&undo) {
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
        env.slots.take(id, Some(slot));
    }
    let path = Path::new(SERVICE_SOCKET);
    let in_userns = running.id_slot.is_some();
    let service = exec::bind_service(&env.program, &pidfd, path, in_userns);
    let service = service
        .inspect_err(|error| tracing::warn!(container = %id, %error, "the guest cannot report"))
        .ok();
    Some(Live {
        record: record.clone(),
        running,
        pidfd: Arc::new(pidfd),
        images: Vec::new(),
        service,
    })
}

/// Takes a container down whose init has ended: everything that its launch did is undone. What cannot be
/// undone keeps its record and its ids; the next launch or the next daemon tries again.
pub fn clean_up(env: &Env, id: ContainerId, live: Live) {
    match unwind(&live.record.undo) {
        Ok(()) => {
            env.records.remove(id);
            env.slots.give_back(id);
        }
        Err(error) => tracing::error!(container = %id, error, "something is left of a container"),
    }
    drop(live.images);
}
