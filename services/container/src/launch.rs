//! Bringing a container up: the only place where its parts are put together. Its end is in `takeover.rs`.

mod takeover;
mod trees;

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use cml_bus::{
    api::{
        container::{ContainerError, ControlSocket},
        guestos::{CopyImage, ImageLease, Resolve, Resolved, Version},
    },
    audit::Did,
    id::ContainerId,
    secret::Key,
};
use cml_sys::{cgroup::Group, device::node::Dev, emulator::Emulator, host, pidfd, proc};
use cml_wire::{proto::ContainerConfig, text};

use crate::{
    control_socket::{CONTROL_SOCKET, Reach},
    devices::{self, Prepared, wanted::Wanted},
    env::Env,
    network,
    plan::{self, Machine, Planned, TreeSource},
    record::{Facts, Found, Record, Running, Undo, unwind},
    resources,
    view::Guest,
    volumes::{
        OpenVolumes,
        backend::VolumeError,
        spec::{self, BadVolume, Content, Volume},
    },
};

pub use takeover::{adopt, clean_up, give_up, settle};
use trees::{Opened, open_tree};

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
    /// Its volumes; they outlive the guest when it reboots, as nobody gives the PIN again then.
    volumes: OpenVolumes,
    /// The listening service socket.
    pub service: Option<OwnedFd>,
    /// Who does system calls for it.
    pub emulator: Option<Arc<Emulator>>,
    /// Its `/dev`; `None` if a daemon that was started anew did not find it.
    pub dev: Option<Arc<Dev>>,
    /// What the operator should know of its launch.
    pub warnings: Vec<String>,
    /// The listening control socket.
    pub control: Option<ControlSocket>,
}

impl Live {
    /// Writes the record with the guest's present state.
    pub fn note(&mut self, env: &Env, id: ContainerId) -> Result<(), String> {
        self.record.running = Some(self.running.clone());
        env.records.write(id, &self.record)
    }
}

/// What a launch gets besides the configuration.
#[derive(Debug, Default)]
pub struct Access {
    /// Launch in setup mode.
    pub setup: bool,
    /// What opens the volumes.
    pub key: Option<Key>,
    /// Volumes that are still open, as the guest has only rebooted.
    pub kept: OpenVolumes,
}

/// Why a launch failed.
#[derive(Debug)]
enum Failed {
    /// What the container has stored is lost.
    Damaged(String),
    /// Anything else, with what failed while undoing.
    Launch(String),
}

impl<T: ToString> From<T> for Failed {
    fn from(error: T) -> Self {
        Self::Launch(error.to_string())
    }
}

fn volume_failed(error: VolumeError) -> Failed {
    match error {
        VolumeError::Damaged { .. } => Failed::Damaged(error.to_string()),
        VolumeError::Failed { .. } => Failed::Launch(error.to_string()),
    }
}

impl Failed {
    fn of(self, id: ContainerId) -> ContainerError {
        match self {
            Self::Damaged(reason) => ContainerError::Damaged { id, reason },
            Self::Launch(reason) => ContainerError::Launch { id, reason },
        }
    }

    /// Adds what failed while undoing.
    fn and(self, also: &str) -> Self {
        let both = |reason| format!("{reason}; and while undoing it: {also}");
        match self {
            Self::Damaged(reason) => Self::Damaged(both(reason)),
            Self::Launch(reason) => Self::Launch(both(reason)),
        }
    }
}

/// Launches a container up to the point where its init runs. A failure undoes everything, and closes volumes
/// that were kept.
pub async fn launch(
    env: &Arc<Env>,
    id: ContainerId,
    config: &ContainerConfig,
    access: Access,
) -> Result<Live, ContainerError> {
    let keeps = !access.kept.is_empty();
    let launched = prepare_and_launch(env, id, config, access).await;
    if launched.is_err() && keeps {
        let give_up = move |env: &Env| give_up(env, id, OpenVolumes::default());
        env.in_turn(id, &env.groups, give_up).await?;
    }
    launched
}

async fn prepare_and_launch(
    env: &Arc<Env>,
    id: ContainerId,
    config: &ContainerConfig,
    access: Access,
) -> Result<Live, ContainerError> {
    let installed = env.installed(config).await?;
    let request = Resolve {
        name: config.guest_os.clone(),
        version: Version::Exactly(installed.config.version),
        setup: access.setup,
    };
    let resolved = env.guestos.resolve.call(request).await?;
    let volumes = volumes_of(config, &resolved).map_err(|error| Failed::from(error).of(id))?;
    let volumes = check_encryption(env, id, volumes).await?;
    copy_images(env, id, &resolved, &volumes).await?;
    let config = config.clone();
    env.in_turn(id, &env.storage, move |env| {
        let container = Container {
            id,
            config: &config,
            resolved: &resolved,
            volumes: &volumes,
        };
        blocking_launch(env, &container, access)
    })
    .await?
}

/// Nothing is written for a container whose volumes cannot be encrypted; they come back.
pub async fn check_encryption(
    env: &Arc<Env>,
    id: ContainerId,
    volumes: Vec<Volume>,
) -> Result<Vec<Volume>, ContainerError> {
    if volumes.is_empty() {
        return Ok(volumes);
    }
    env.in_turn(id, &env.storage, move |env| {
        let checked = env.volumes.check_encryption(id, &volumes);
        checked.map_err(|error| volume_failed(error).of(id))?;
        Ok(volumes)
    })
    .await?
}

/// What is launched.
struct Container<'a> {
    id: ContainerId,
    config: &'a ContainerConfig,
    resolved: &'a Resolved,
    volumes: &'a [Volume],
}

fn volumes_of(config: &ContainerConfig, resolved: &Resolved) -> Result<Vec<Volume>, BadVolume> {
    let mounts = resolved.mounts.iter().chain(&resolved.setup_mounts);
    spec::volumes(mounts.map(|mount| &mount.mount), config)
}

/// Makes the copies of images that the container still needs.
async fn copy_images(
    env: &Arc<Env>,
    id: ContainerId,
    resolved: &Resolved,
    volumes: &[Volume],
) -> Result<(), ContainerError> {
    let failed = move |error: VolumeError| volume_failed(error).of(id);
    for volume in env.volumes.missing_copies(id, volumes) {
        let Content::Copy { image, .. } = &volume.content else {
            continue;
        };
        let (env, volume) = (env.clone(), volume.clone());
        let begin = {
            let volume = volume.clone();
            let volumes = volumes.to_vec();
            move |env: &Env| {
                let room = env.volumes.check_room(id, &volumes);
                room.map_err(|reason| Failed::Launch(reason).of(id))?;
                env.volumes.begin_copy(id, &volume).map_err(failed)
            }
        };
        let into = env.in_turn(id, &env.storage, begin).await??;
        let copy = CopyImage {
            config: resolved.installed.config.clone(),
            image: image.clone(),
            into: into.into(),
        };
        if let Err(error) = env.guestos.copy_image.call(copy).await {
            let give_up = move |env: &Env| env.volumes.give_up_copy(id, &volume).map_err(failed);
            env.in_turn(id, &env.storage, give_up).await??;
            return Err(error.into());
        }
        let finish = move |env: &Env| env.volumes.finish_copy(id, &volume).map_err(failed);
        env.in_turn(id, &env.storage, finish).await??;
    }
    Ok(())
}

fn blocking_launch(
    env: &Env,
    container: &Container<'_>,
    access: Access,
) -> Result<Live, ContainerError> {
    let Container {
        id,
        config,
        resolved,
        ..
    } = *container;
    let slot = match config.userns() {
        true => Some(take_slot(env, id)?),
        false => None,
    };
    let group = env.hierarchies.group(&id.to_string());
    let machine = Machine {
        ids: slot.map(|(_, range)| range),
        own_groups: group.has_unified(),
    };
    let launched = plan::launch(config, resolved, access.setup, machine)
        .map_err(Failed::from)
        .and_then(|mut planned| {
            planned.launch.name_server = network::name_server(env, config, &planned.launch);
            let mut wanted = Wanted::of(config);
            if env.store.audio(id) {
                wanted.grant(false, devices::sound());
            }
            let devices = env.devices.prepare(id, &config.name, wanted, machine.ids)?;
            let control = Reach::of(id, &resolved.installed.config);
            planned.launch.control_socket = control.map(|_| CONTROL_SOCKET.into());
            let facts = Facts {
                id_slot: slot.map(|(slot, _)| slot),
                config: text::print_file(config),
                confinement: planned.launch.confinement.clone(),
                init_env: planned.launch.init.env.clone(),
                guest: Guest {
                    trust: resolved.installed.trust,
                    cryptfs: env.volumes.mode(id, container.volumes),
                },
                group,
                devices: devices.held.clone(),
                setup: access.setup,
                control,
            };
            attempt_or_undo(env, container, &planned, devices, facts, access)
        });
    launched.map_err(|failed| {
        env.slots.give_back(id);
        env.devices.ledger.release(id);
        failed.of(id)
    })
}

fn take_slot(env: &Env, id: ContainerId) -> Result<(u32, cml_sys::idmap::IdRange), ContainerError> {
    let stored = env.store.id_slot(id);
    let taken = env.slots.take(id, stored, || env.store.id_slots());
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
    container: &Container<'_>,
    planned: &Planned,
    devices: Prepared,
    facts: Facts,
    access: Access,
) -> Result<Live, Failed> {
    let id = container.id;
    let traces = env.volumes.traces(id, container.volumes);
    let volumes = Undo::Volumes(traces.map_err(volume_failed)?);
    // What an earlier run has left is undone with this one. The guest ends first, then its volumes are closed.
    let mut undo = match env.records.read(id) {
        Found::Record(earlier) => earlier.undo,
        Found::Nothing | Found::Unreadable => Vec::new(),
    };
    undo.retain(|undo| matches!(undo, Undo::Volumes(_)) && *undo != volumes);
    undo.push(volumes);
    // After the guest has ended, which could otherwise hide an interface; its namespace has a name until then. Also if it
    // gets no network now: an earlier run may have had one.
    undo.push(Undo::Network);
    if !planned.launch.fifos.is_empty() {
        undo.push(Undo::Fifos(env.fifos.dir(id)));
    }
    undo.push(Undo::Group(facts.group.clone()));
    let attempted = attempt(
        env,
        container,
        planned,
        devices,
        undo.clone(),
        facts,
        access,
    );
    attempted.map_err(|failed| match unwind(env, id, &undo) {
        Ok(()) => {
            env.records.remove(id);
            failed
        }
        // The record stays: the next daemon tries again.
        Err(also) => failed.and(&also),
    })
}

fn attempt(
    env: &Env,
    container: &Container<'_>,
    planned: &Planned,
    devices: Prepared,
    undo: Vec<Undo>,
    facts: Facts,
    access: Access,
) -> Result<Live, Failed> {
    let id = container.id;
    let record = Record {
        boot_id: proc::boot_id()?,
        undo,
        running: None,
    };
    env.records.write(id, &record)?;
    let volumes = match access.kept.is_empty() {
        false => access.kept,
        true => {
            let opened = env.volumes.open(id, container.volumes, access.key.as_ref());
            note_volumes(env, container, access.key.is_some(), &opened);
            opened.map_err(volume_failed)?
        }
    };
    drop(access.key);
    let group = env.hierarchies.create(&id.to_string())?;
    let limits = resources::plan(container.config, env.settings.limits);
    let mut warnings = resources::apply(&group, &limits)?;
    let Prepared {
        held,
        dev,
        warnings: about_devices,
    } = devices;
    warnings.extend(about_devices);
    let ids = planned.launch.ids;
    warnings.extend(devices::confine(&group, &held, ids.is_some())?);
    let opened = planned
        .trees
        .iter()
        .map(|tree| match tree {
            TreeSource::Fifo(name) => {
                let made = env.fifos.make(id, name, ids);
                let note = Did::MakeFifo.to(id).meta("name", name);
                env.events.audit(note.result(&made));
                Ok(Opened::Fifo(made?))
            }
            tree => open_tree(env, &volumes, tree),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let trees: Vec<_> = opened.iter().map(Opened::tree).collect();
    let plan = plan::emulator(container.config, &held.rules, &group);
    let emulator = Emulator::start(&env.program, &plan)?;
    let prepared = host::prepare(&env.program, &planned.launch, &dev, &trees, &group);
    let mut prepared = prepared.inspect_err(|_| emulator.dismiss())?;
    // Its init may make such a call at once.
    let emulator = emulator.attend(prepared.calls.take().as_ref());
    let emulator = emulator.inspect_err(|_| prepared.put_away())?.map(Arc::new);
    let begun = network::connect(env, id, container.config, &prepared)
        .map_err(Failed::from)
        .and_then(|()| Ok(prepared.go()?))
        // Last, as it gets ready while the others are at work.
        .and_then(|()| Ok(emulator.as_deref().map_or(Ok(()), Emulator::ready)?));
    begun.inspect_err(|_| end_guest(&group, &prepared.pidfd, emulator.as_deref()))?;
    let images = opened.into_iter().filter_map(Opened::image).collect();
    let control = prepared.control.take();
    let mut running = Running::new(&prepared, facts);
    running.emulator = emulator.as_ref().map(|emulator| emulator.identity);
    let mut live = Live {
        control: (running.control.zip(control)).map(|(reach, socket)| reach.socket(id, socket)),
        running,
        emulator,
        record,
        service: prepared.service.take(),
        pidfd: Arc::new(prepared.pidfd),
        images,
        volumes,
        dev: Some(Arc::new(dev)),
        warnings,
    };
    // A guest that the next daemon would not find must not run.
    live.note(env, id)
        .inspect_err(|_| end_guest(&group, &live.pidfd, live.emulator.as_deref()))?;
    Ok(live)
}

/// Ends what has been begun.
fn end_guest(group: &Group, init: &OwnedFd, emulator: Option<&Emulator>) {
    let _ = group.kill();
    let _ = pidfd::wait(init, KILL_PATIENCE);
    // With the last process of the container nothing is left to be done for it.
    if let Some(emulator) = emulator {
        emulator.end();
    }
}

/// Tells the audit log of the encrypted volumes of a launch.
fn note_volumes<T>(
    env: &Env,
    container: &Container<'_>,
    has_key: bool,
    opened: &Result<T, VolumeError>,
) {
    let did = match has_key {
        true => Did::OpenVolume,
        false => Did::OpenVolumeWithoutKey,
    };
    for volume in container.volumes {
        if matches!(volume.content, Content::Encrypted { .. }) {
            let note = did.to(container.id).meta("label", &volume.name);
            env.events.audit(note.result(opened));
        }
    }
}

/// How long a killed guest may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(20);
