//! The container service: every container of the device and its life cycle.

use std::{os::fd::OwnedFd, sync::Arc};

use cml_wire::proto::{ContainerConfig, ContainerStats, ContainerStatus};
use tokio::sync::mpsc;

use crate::{
    api::{
        guestos::GuestOsError,
        network::{Interface, NetworkError},
        token::TokenError,
    },
    error::BusError,
    id::ContainerId,
    secret::Pin,
};

/// Status of these containers in list order, of all if none is named. Unknown ones are skipped.
#[derive(Debug)]
pub struct Status {
    /// Whose status.
    pub ids: Vec<ContainerId>,
}

/// Stored configurations of these containers, of all if none is named.
#[derive(Debug)]
pub struct Configs {
    /// Whose configuration.
    pub ids: Vec<ContainerId>,
}

/// A detached signature with the certificates that vouch for it.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The raw signature.
    pub signature: Vec<u8>,
    /// PEM: the signer first, then intermediates.
    pub certificate: Vec<u8>,
}

/// A new container with a random identity from a template in text form.
#[derive(Debug)]
pub struct Create {
    /// The template.
    pub config: Vec<u8>,
    /// Needed when the device wants signed configurations.
    pub signature: Option<Signature>,
}

/// Gives a container another configuration: stored at once, in effect as soon as it does not run.
#[derive(Debug)]
pub struct UpdateConfig {
    /// Which container; its identity stays, its name may change.
    pub id: ContainerId,
    /// The configuration in text form.
    pub config: Vec<u8>,
    /// Needed when the device wants signed configurations.
    pub signature: Option<Signature>,
    /// Another token makes what is stored unreadable, so it is deleted then (protocol.md 3.4). Without this it is an error.
    pub may_wipe: bool,
}

/// The answer to [`Create`] and [`UpdateConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Which container.
    pub id: ContainerId,
    /// Its configuration, as it is stored now.
    pub config: ContainerConfig,
    /// What is not as the operator may expect.
    pub warnings: Vec<String>,
}

/// Deletes a container completely, after killing it if it runs.
#[derive(Debug)]
pub struct Remove {
    /// Which container.
    pub id: ContainerId,
}

/// Deletes what a container has stored, after killing it if it runs: its key first, then its volumes. Its
/// configuration and its PIN stay.
#[derive(Debug)]
pub struct Wipe {
    /// Which container.
    pub id: ContainerId,
}

/// As [`Wipe`], of all containers. One that cannot be wiped does not keep the others from it.
#[derive(Debug)]
pub struct WipeAll;

/// Reads the configurations of all stopped containers from disk again.
#[derive(Debug)]
pub struct Reload;

/// Starts a container. The answer comes when its init is about to run, or when that failed.
#[derive(Debug)]
pub struct Start {
    /// Which container.
    pub id: ContainerId,
    /// The PIN of its token; not looked at for `token_type: NONE`.
    pub pin: Option<Pin>,
    /// Start in setup mode (requirement.md, `start --setup`).
    pub setup: bool,
}

/// The answer to [`Start`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    /// What is not as the operator may expect: things that this machine cannot limit or count, devices that
    /// another container has.
    pub warnings: Vec<String>,
}

/// Asks a container to shut down. The answer comes when the shutdown has begun.
#[derive(Debug)]
pub struct Stop {
    /// Which container.
    pub id: ContainerId,
    /// The PIN of its token; not looked at for `token_type: NONE`.
    pub pin: Option<Pin>,
}

/// Stops scheduling the container's processes, or lets them go on.
#[derive(Debug)]
pub struct SetFrozen {
    /// Which container.
    pub id: ContainerId,
    /// Freeze or thaw.
    pub frozen: bool,
}

/// Grants or takes the use of devices, of a running container and until it stops.
#[derive(Debug)]
pub struct SetDevice {
    /// Which container.
    pub id: ContainerId,
    /// `allow c 10:200 rw`, `deny c 10:200`, or the rule alone (protocol.md 3.7).
    pub rule: String,
}

/// Grants or takes the use of the sound devices: at once if the container runs, and for all its later starts.
#[derive(Debug)]
pub struct SetAudio {
    /// Which container.
    pub id: ContainerId,
    /// Grant or take.
    pub allowed: bool,
}

/// What these containers use, all that run if none is named.
#[derive(Debug)]
pub struct Stats {
    /// Whose.
    pub ids: Vec<ContainerId>,
}

/// Deletes a guest OS in all versions, unless a container uses it.
#[derive(Debug)]
pub struct RemoveGuestOs {
    /// Its name.
    pub name: String,
}

/// Stops every container, without a PIN: the daemon is about to end. The answer comes when all have
/// stopped or their time is over.
#[derive(Debug)]
pub struct Shutdown;

/// Stops every container that runs, without a PIN, and answers when they have stopped or their time is over. Unlike
/// after [`Shutdown`], they can be started again.
#[derive(Debug)]
pub struct StopAll {
    /// `core0` as well. Its end is the end of the device.
    pub core0: bool,
}

/// The answer to [`StopAll`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedAll {
    /// So many ran and have stopped.
    pub stopped: usize,
    /// These still run.
    pub left: Vec<ContainerId>,
}

/// Gives the token of a container another PIN. A container without a token of its own gets one.
#[derive(Debug)]
pub struct ChangePin {
    /// Which container.
    pub id: ContainerId,
    /// The present PIN: that of the device for a container that has no token of its own yet.
    pub old: Pin,
    /// The PIN from now on.
    pub new: Pin,
}

/// How the PIN of a container is given.
#[derive(Debug)]
pub struct PinEntry {
    /// Which container.
    pub id: ContainerId,
}

/// The answer to [`PinEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinNeeds {
    /// The PIN is typed at a USB reader, not at the client.
    pub usb_reader: bool,
    /// A PIN is needed at all; false for `token_type: NONE`.
    pub required: bool,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters per line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// Runs a command in a running container.
#[derive(Debug)]
pub struct Exec {
    /// Which container.
    pub id: ContainerId,
    /// The complete argument vector; the first word is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// Additional `KEY=value` words.
    pub env: Vec<String>,
    /// Working directory in the container, `/` if absent.
    pub workdir: Option<String>,
    /// Who runs it: `name` or `uid`, with an optional `:group`, as the container's own files name them; its root
    /// if absent.
    pub user: Option<String>,
    /// Give the command a terminal of this size; `None` gives it pipes.
    pub terminal: Option<WindowSize>,
}

/// What goes into a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input or terminal.
    Data(Vec<u8>),
    /// No more input will come.
    Eof,
    /// The client's terminal has another size now.
    Resize(WindowSize),
}

/// What comes out of a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes from its terminal or standard output.
    Stdout(Vec<u8>),
    /// Bytes from its standard error; never with a terminal.
    Stderr(Vec<u8>),
    /// It ended: exit status, or 128 + n for signal n. Always the last item.
    Exit(i32),
}

/// A running command. Dropping it hangs up: the command's session ends.
#[derive(Debug)]
pub struct ExecSession {
    /// Bounded: a client that sends faster than the command reads waits.
    pub input: mpsc::Sender<ExecInput>,
    /// Bounded: a command that writes faster than the client reads waits.
    pub output: mpsc::Receiver<ExecOutput>,
}

/// Assigns a physical interface to a container, or takes it away.
#[derive(Debug)]
pub struct SetInterface {
    /// Which container.
    pub id: ContainerId,
    /// Its name on the host, or in the container if it is taken away, or its MAC address.
    pub interface: String,
    /// Assign, or take away.
    pub assigned: bool,
    /// In the stored configuration as well; for a container that does not run, in that alone.
    pub persistent: bool,
}

/// The interfaces that a container sees; none if it does not run.
#[derive(Debug)]
pub struct Interfaces {
    /// Which container.
    pub id: ContainerId,
}

/// The control sockets inside the containers that run: one in `core0`, one in each container whose guest OS may
/// install guest OSes (protocol.md 1.1).
#[derive(Debug)]
pub struct ControlSockets;

/// A control socket inside a container.
#[derive(Debug, Clone)]
pub struct ControlSocket {
    /// Whose.
    pub id: ContainerId,
    /// It listens. A restart of the container makes another one.
    pub socket: Arc<OwnedFd>,
    /// That of `core0`: whoever connects may do what the host may do.
    pub privileged: bool,
}

/// Why the container service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// No container has this identity.
    #[error("there is no container {0}")]
    NotFound(ContainerId),
    /// Start of a container that is not stopped.
    #[error("container {0} is running or being started already")]
    AlreadyRunning(ContainerId),
    /// Start of a container that has not stopped completely.
    #[error("container {0} is still stopping; start it again when it has stopped")]
    StillStopping(ContainerId),
    /// The command needs processes that run.
    #[error("container {0} is frozen; `control unfreeze` lets it go on")]
    Frozen(ContainerId),
    /// The command needs a running container.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The container's data or keys are damaged.
    #[error("container {0} is a zombie: its data or keys are damaged; wipe or remove it")]
    Zombie(ContainerId),
    /// The container's data or keys turned out to be damaged; it is a zombie from now on.
    #[error("container {id}: what it has stored cannot be read: {reason}; wipe or remove it")]
    Damaged {
        /// Which container.
        id: ContainerId,
        /// What is damaged.
        reason: String,
    },
    /// The container's stored configuration is damaged, or nobody vouches for it any more.
    #[error(
        "container {id}: its stored configuration cannot be used: {reason}; mend its file and `control reload`, or remove \
         the container"
    )]
    Unusable {
        /// Which container.
        id: ContainerId,
        /// Why not.
        reason: String,
    },
    /// `core0` of a device that gives it none.
    #[error("container {0} has no configuration of its own; `control update_config` gives it one")]
    NoConfig(ContainerId),
    /// `core0` is managed by the device itself.
    #[error("this command is not available for core0")]
    Protected,
    /// The PIN was needed and wrong, or the token could not be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The configuration cannot be accepted.
    #[error("the configuration is refused: {0}")]
    BadConfig(String),
    /// The configuration was not to cost what is stored, and would have.
    #[error("container {0} would get another token, and what it has stored would be deleted")]
    WouldWipe(ContainerId),
    /// A guest OS that containers use is not removed.
    #[error("guest OS `{name}` is used by {users}; remove them first")]
    GuestOsInUse {
        /// Its name.
        name: String,
        /// The names of the containers.
        users: String,
    },
    /// The guest OS cannot be used.
    #[error(transparent)]
    GuestOs(#[from] GuestOsError),
    /// A configuration that somebody has signed is not edited.
    #[error(
        "the configuration of container {0} is signed, so it is not changed here; sign one with the interface in \
         `net_ifaces` and send it with `control update_config`"
    )]
    Signed(ContainerId),
    /// Its network cannot be changed so.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The container could not be brought up; everything done so far was undone.
    #[error("container {id} did not start: {reason}")]
    Launch {
        /// Which container.
        id: ContainerId,
        /// What failed, and what failed while undoing.
        reason: String,
    },
    /// A command could not be run in the container.
    #[error("cannot run the command in container {id}: {reason}")]
    Exec {
        /// Which container.
        id: ContainerId,
        /// What failed.
        reason: String,
    },
    /// The container has no such program.
    #[error("container {id}: there is no command `{name}`")]
    NoProgram {
        /// Which container.
        id: ContainerId,
        /// What was looked for.
        name: String,
    },
    /// The kernel did not freeze or thaw the container.
    #[error("container {id}: {reason}")]
    Freeze {
        /// Which container.
        id: ContainerId,
        /// What failed.
        reason: String,
    },
    /// A device cannot be granted or taken.
    #[error("container {id}: {reason}")]
    Device {
        /// Which container.
        id: ContainerId,
        /// What is in the way.
        reason: String,
    },
    /// The store cannot be read or written.
    #[error("`{path}`: {reason}")]
    Store {
        /// The file or directory.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// The bus could not deliver.
    #[error(transparent)]
    Bus(#[from] BusError),
}

crate::request!(Status => Vec<ContainerStatus>, ContainerError, "container.status", 10 s);
crate::request!(Configs => Vec<(ContainerId, ContainerConfig)>, ContainerError, "container.configs", 10 s);
crate::request!(Create => Stored, ContainerError, "container.create", 60 s);
// Another kind of token ends the container and wipes it.
crate::request!(UpdateConfig => Stored, ContainerError, "container.update_config", 240 s);
crate::request!(Remove => (), ContainerError, "container.remove", 60 s);
crate::request!(Wipe => (), ContainerError, "container.wipe", 180 s);
crate::request!(WipeAll => (), ContainerError, "container.wipe_all", 600 s);
crate::request!(Reload => (), ContainerError, "container.reload", 60 s);
crate::request!(Start => Started, ContainerError, "container.start", 480 s);
// The PIN may have to be typed on a keypad first.
crate::request!(Stop => (), ContainerError, "container.stop", 130 s);
crate::request!(SetFrozen => (), ContainerError, "container.set_frozen", 20 s);
crate::request!(SetDevice => (), ContainerError, "container.set_device", 20 s);
// What was done, where it is not just that.
crate::request!(SetAudio => Option<String>, ContainerError, "container.set_audio", 20 s);
crate::request!(Stats => Vec<ContainerStats>, ContainerError, "container.stats", 10 s);
crate::request!(Shutdown => (), ContainerError, "container.shutdown", 60 s);
crate::request!(StopAll => StoppedAll, ContainerError, "container.stop_all", 60 s);
crate::request!(ChangePin => (), ContainerError, "container.change_pin", 130 s);
crate::request!(PinEntry => PinNeeds, ContainerError, "container.pin_entry", 10 s);
crate::request!(RemoveGuestOs => (), ContainerError, "container.remove_guestos", 90 s);
crate::request!(SetInterface => (), ContainerError, "container.set_interface", 60 s);
crate::request!(Interfaces => Vec<Interface>, ContainerError, "container.interfaces", 30 s);
crate::request!(ControlSockets => Vec<ControlSocket>, ContainerError, "container.control_sockets", 20 s);
crate::request!(Exec => ExecSession, ContainerError, "container.exec", 30 s);

crate::service_port! {
    /// What the holder may ask of the container service.
    ContainerPort {
        /// States.
        status: Status,
        /// Stored configurations.
        configs: Configs,
        /// New container.
        create: Create,
        /// Another configuration.
        update_config: UpdateConfig,
        /// Delete a container.
        remove: Remove,
        /// Delete what a container has stored.
        wipe: Wipe,
        /// Delete what all containers have stored.
        wipe_all: WipeAll,
        /// Read configurations again.
        reload: Reload,
        /// Start.
        start: Start,
        /// Stop.
        stop: Stop,
        /// Freeze or thaw.
        set_frozen: SetFrozen,
        /// Grant or take a device.
        set_device: SetDevice,
        /// Grant or take the sound devices.
        set_audio: SetAudio,
        /// What is used.
        stats: Stats,
        /// Stop all.
        shutdown: Shutdown,
        /// Stop all that run now.
        stop_all: StopAll,
        /// Another PIN.
        change_pin: ChangePin,
        /// Delete a guest OS that no container uses.
        remove_guestos: RemoveGuestOs,
        /// Where requests may come from inside containers.
        control_sockets: ControlSockets,
        /// How the PIN is given.
        pin_entry: PinEntry,
        /// Run a command.
        exec: Exec,
        /// Assign a physical interface, or take it away.
        set_interface: SetInterface,
        /// What interfaces there are.
        interfaces: Interfaces,
    }
}
