//! Bringing a container up and taking it down again: the only place where its parts are put together.

use std::{
    fs::OpenOptions,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    sync::Arc,
};

use cml_bus::{
    api::{
        container::ContainerError,
        guestos::{ImageLease, Resolve, Resolved},
    },
    id::ContainerId,
};
use cml_sys::{
    exec,
    host::{self, Tree},
    pidfd, proc,
};
use cml_wire::proto::ContainerConfig;
use rustix::fs::OFlags;

use crate::{
    env::{Env, died},
    plan::{self, Planned, SERVICE_SOCKET, TreeSource},
    record::{Record, Running, Undo, unwind},
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
    pub fn note(&mut self, env: &Env, id: ContainerId) {
        self.record.running = Some(self.running.clone());
        if let Err(error) = env.records.write(id, &self.record) {
            tracing::error!(container = %id, error, "a restart of the daemon would not find the container");
        }
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
    let env = env.clone();
    let config = config.clone();
    let storage = env.storage.clone();
    storage
        .run(move || {
            blocking_launch(&env, id, &config, &resolved).inspect_err(|_| env.slots.give_back(id))
        })
        .await
        .map_err(died)?
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
    let planned = plan::launch(
        config,
        &resolved.installed.config,
        &resolved.mounts,
        slot.map(|(_, range)| range),
    )
    .map_err(|error| failed(error.to_string()))?;
    let group = env.hierarchies.group(&id.to_string());
    let undo = vec![Undo::Group(group.clone())];
    let started = attempt(env, id, &planned, undo.clone(), |prepared| {
        Running::new(
            prepared.pid,
            prepared.start_time,
            prepared.init,
            slot.map(|(slot, _)| slot),
            planned.launch.init.env.clone(),
            resolved.installed.trust,
            group.clone(),
        )
    });
    started.map_err(|reason| {
        let undone = unwind(&undo);
        env.records.remove(id);
        failed(match undone {
            Ok(()) => reason,
            Err(also) => format!("{reason}; and while undoing it: {also}"),
        })
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
        env.store.set_id_slot(id, slot)?;
    }
    Ok((slot, range))
}

fn attempt(
    env: &Env,
    id: ContainerId,
    planned: &Planned,
    undo: Vec<Undo>,
    running: impl FnOnce(&host::Prepared) -> Running,
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
        running: running(&prepared),
        record,
        service: prepared.service.take(),
        pidfd: Arc::new(prepared.pidfd),
        images: opened.into_iter().filter_map(Opened::image).collect(),
    };
    live.note(env, id);
    Ok(live)
}

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
            },
            Self::File { file, read_only } => Tree {
                source: file.as_fd(),
                read_only: *read_only,
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
            let path = env.shared_files().join(name);
            let file = touch(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
            Ok(Opened::File {
                file,
                read_only: *read_only,
            })
        }
    }
}

/// Opens a file of the store and makes an empty one if it is missing (runtime.md 3.2).
fn touch(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(flags)
        .open(path)
        .map(Into::into)
}

/// Takes over a container from its record: one that runs is returned, anything else is undone.
pub fn adopt(env: &Env, id: ContainerId) -> Option<Live> {
    let record = env.records.read(id);
    if let Some(record) = &record
        && let Some(live) = reopen(env, id, record)
    {
        return Some(live);
    }
    if let Some(record) = &record {
        tracing::warn!(container = %id, "cleaning up what is left of a container");
        if let Err(error) = unwind(&record.undo) {
            tracing::error!(container = %id, error, "something is left of a container");
        }
    }
    env.records.remove(id);
    None
}

fn reopen(env: &Env, id: ContainerId, record: &Record) -> Option<Live> {
    let running = record.running.clone()?;
    let pidfd = pidfd::open(running.pid, running.start_time).ok()?;
    if proc::is_zombie(running.pid) {
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

/// Takes a container down whose init has ended: everything that its launch did is undone.
pub fn clean_up(env: &Env, id: ContainerId, live: Live) {
    if let Err(error) = unwind(&live.record.undo) {
        tracing::error!(container = %id, error, "something is left of a container");
    }
    env.records.remove(id);
    env.slots.give_back(id);
    drop(live.images);
}
