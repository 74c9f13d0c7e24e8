//! Bringing a container up and taking it down again: the only place where its parts are put together.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cml_bus::{
    api::{
        container::{ContainerError, ControlSocket},
        guestos::{CopyImage, ImageLease, Resolve, Resolved, Version},
    },
    audit::Did,
    id::ContainerId,
    secret::Key,
};
use cml_sys::{
    cgroup::Group,
    device::node::Dev,
    emulator::Emulator,
    exec, file,
    host::{self, Tree},
    idmap::IdRange,
    pidfd, proc,
};
use cml_wire::{proto::ContainerConfig, rules::SHARED_STORE, text};

use crate::{
    control_socket::{self, CONTROL_SOCKET, Reach},
    devices::{self, Prepared, wanted::Wanted},
    env::Env,
    network,
    plan::{self, Machine, Planned, SERVICE_SOCKET, TreeSource},
    record::{Facts, Found, Record, Running, Undo, unwind},
    resources,
    view::Guest,
    volumes::{
        OpenVolumes,
        backend::{OpenVolume, VolumeError},
        spec::{self, BadVolume, Content, Volume},
    },
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
    // After the guest has ended, which could otherwise hide an interface; its namespace has a name until then.
    undo.extend(container.config.netns().then_some(Undo::Network));
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
    let mut prepared = host::prepare(&env.program, &planned.launch, &dev, &trees, &group)?;
    // Its init may make such a call at once.
    let emulator = prepared.calls.take().map(|calls| {
        let plan = plan::emulator(container.config, &held.rules, &group);
        Emulator::start(&env.program, &plan, &calls)
    });
    let emulator = emulator.transpose();
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

/// A tree whose source is open.
enum Opened<'a> {
    Image(Arc<ImageLease>),
    Volume(&'a OpenVolume),
    File { file: OwnedFd, read_only: bool },
    Fifo(OwnedFd),
}

impl Opened<'_> {
    fn tree(&self) -> Tree<'_> {
        match self {
            Self::Image(lease) => Tree {
                source: lease.root.as_fd(),
                read_only: true,
                no_suid: false,
                unmapped: false,
            },
            Self::Volume(volume) => Tree {
                source: volume.tree.as_fd(),
                read_only: volume.read_only,
                no_suid: false,
                unmapped: false,
            },
            // Two containers may share a file: neither gives the other a program that runs as its owner.
            Self::File { file, read_only } => Tree {
                source: file.as_fd(),
                read_only: *read_only,
                no_suid: true,
                unmapped: false,
            },
            // The container's root is not the owner, or it could write (`fifos.rs`).
            Self::Fifo(file) => Tree {
                source: file.as_fd(),
                read_only: false,
                no_suid: true,
                unmapped: true,
            },
        }
    }

    fn image(self) -> Option<Arc<ImageLease>> {
        match self {
            Self::Image(lease) => Some(lease),
            Self::Volume(_) | Self::File { .. } | Self::Fifo(_) => None,
        }
    }
}

/// Where Debian and others have a static busybox.
const TOOLBOXES: &[&str] = &["/bin/busybox", "/usr/bin/busybox"];

fn open_tree<'a>(
    env: &Env,
    volumes: &'a OpenVolumes,
    tree: &TreeSource,
) -> Result<Opened<'a>, Failed> {
    match tree {
        TreeSource::Image(lease) => Ok(Opened::Image(lease.clone())),
        TreeSource::Volume(name) => match volumes.get(name) {
            Some(volume) => Ok(Opened::Volume(volume)),
            None => Err(format!("volume `{name}` is not open").into()),
        },
        TreeSource::Toolbox => {
            let found = TOOLBOXES.iter().find(|path| Path::new(path).exists());
            let path = found.ok_or(
                "setup mode needs a static busybox on the host, or `mounts_setup` in the guest OS",
            )?;
            Ok(Opened::File {
                file: file::open(Path::new(path))?.into(),
                read_only: true,
            })
        }
        TreeSource::Fifo(name) => Err(format!("pipe `{name}` is no tree of the guest OS").into()),
        TreeSource::File { name, .. } if name == SHARED_STORE => {
            Err(format!("`{name}` is what the shared files lie in, and none of them").into())
        }
        TreeSource::File { name, read_only } => {
            // A missing one is made (runtime.md 3.2).
            let file = file::touch(&env.shared_files().join(name), 0o644)?;
            Ok(Opened::File {
                file: file.into(),
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
