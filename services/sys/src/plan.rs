//! What `cml-init` is told to do, as pure data, and the words it exchanges with the daemon.
//!
//! A [`LaunchPlan`] is made without touching the system, is snapshot-tested, and travels in a sealed
//! memfd. File descriptors are named by their place in the accompanying list.

use std::{net::IpAddr, os::fd::OwnedFd, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{error::Context, idmap::IdRange, memfd, seccomp::policy::Allowances};

/// Everything that turns a fresh process in fresh namespaces into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Host name inside.
    pub hostname: String,
    /// Ids of the container, `None` without a user namespace.
    pub ids: Option<IdRange>,
    /// Own network namespace.
    pub own_network: bool,
    /// The root and everything the guest OS mounts, in order.
    pub mounts: Vec<Mount>,
    /// Pipes from the host that appear in `/dev/fifos`.
    #[serde(default)]
    pub fifos: Vec<Fifo>,
    /// Kernel files that the guest sees empty.
    pub masked: Vec<String>,
    /// Kernel files and directories that the guest cannot write.
    pub read_only: Vec<String>,
    /// It sees its part of the unified hierarchy of control groups, and may divide it.
    pub own_groups: bool,
    /// What its init may do.
    pub confinement: Confinement,
    /// Where the in-guest service socket is bound, `None` for no socket.
    pub service_socket: Option<PathBuf>,
    /// The name server that the guest's programs find in `/etc/resolv.conf`; `None` leaves that file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_server: Option<IpAddr>,
    /// Where a control socket is bound, `None` for no socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_socket: Option<PathBuf>,
    /// A program of the host that brings all the usual tools to a root that has none: its path in the
    /// container. It is asked to install itself.
    pub toolbox: Option<PathBuf>,
    /// What runs as init.
    pub init: InitPlan,
}

/// What is taken from the processes of a container for good: the same from its init and from commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Capabilities, by number.
    pub dropped_capabilities: Vec<u32>,
    /// What its configuration says about system calls.
    pub calls: Allowances,
    /// No program gets more rights than who runs it, by set-uid bits or otherwise.
    pub no_new_privs: bool,
}

impl Confinement {
    /// Of a container with these allowances.
    pub fn new(calls: Allowances, own_network: bool, no_new_privs: bool) -> Self {
        Self {
            dropped_capabilities: dropped_capabilities(calls, own_network),
            calls,
            no_new_privs,
        }
    }
}

/// Of a container that nobody knows anything about: what is not known is not allowed.
impl Default for Confinement {
    fn default() -> Self {
        Self::new(Allowances::default(), false, true)
    }
}

/// One mount of the guest OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// What appears there.
    pub source: Source,
}

/// A pipe from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// Its name in `/dev/fifos`.
    pub name: String,
    /// Index of the file.
    pub tree: usize,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A file system: the tree at this place in the list of descriptors.
    Tree {
        /// Index of the tree.
        tree: usize,
    },
    /// An image under a tmpfs that takes the changes; they are lost at stop.
    Overlay {
        /// Index of the tree below.
        tree: usize,
        /// Options of the tmpfs, e.g. `size=64m`.
        data: String,
    },
    /// What is there already, under a volume that takes the changes.
    Changes {
        /// Index of the tree above.
        tree: usize,
    },
    /// What is there already, with an image over it; nobody can change either.
    Cover {
        /// Index of the tree above.
        tree: usize,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Options, e.g. `size=64m`.
        data: String,
    },
    /// A single file of the host.
    File {
        /// Index of the file.
        tree: usize,
    },
}

/// How the guest's init is run (docs/adr/0002-init-modes.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitMode {
    /// Look at the program and decide.
    Auto,
    /// It becomes process 1 itself.
    Exec,
    /// `cml-init` stays process 1 and runs it as a child.
    Supervise,
}

/// When the guest counts as running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootReport {
    /// Look at the program and decide.
    Auto,
    /// When it says so on the service socket.
    Service,
    /// As soon as its init runs.
    Exec,
}

/// What runs as init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitPlan {
    /// Path of the program in the container; also its `argv[0]`.
    pub path: PathBuf,
    /// Further arguments.
    pub args: Vec<String>,
    /// The complete environment, `KEY=value`.
    pub env: Vec<String>,
    /// Who is process 1.
    pub mode: InitMode,
    /// When the guest counts as running.
    pub boot: BootReport,
    /// The signal that asks it to shut down, `None` to decide by the program.
    pub stop_signal: Option<i32>,
    /// Where there is no such program, `cml-init` waits in its place until it is asked to stop.
    pub optional: bool,
}

/// What `cml-init` decided about the init program after looking at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenInit {
    /// `cml-init` stays process 1.
    pub supervised: bool,
    /// There is no program; `cml-init` alone waits.
    #[serde(default)]
    pub idle: bool,
    /// RUNNING waits for the service socket's BOOT_COMPLETED.
    pub boot_by_service: bool,
    /// What asks process 1 to shut down.
    pub stop_signal: i32,
}

/// A command to be run in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnterPlan {
    /// Complete argument vector.
    pub argv: Vec<String>,
    /// Complete environment, `KEY=value`.
    pub env: Vec<String>,
    /// Working directory in the container.
    pub workdir: PathBuf,
    /// Who runs it: `name` or `uid`, with an optional `:group`, as the container's own files name them; its root
    /// if absent. Without a `HOME` in the environment the user's own is added.
    pub user: Option<String>,
    /// Columns and rows of a terminal, `None` for the three pipes that came along.
    pub terminal: Option<(u16, u16)>,
    /// The container has a user namespace.
    pub user_namespace: bool,
    /// What it may do.
    pub confinement: Confinement,
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// Become a container. Descriptors: the plan, the file system for `/dev`, then the trees.
    Launch,
    /// Everything is prepared on the daemon's side: run the guest's init.
    Go,
    /// Enter a container and run a command. Descriptors: the [`EnterPlan`], the pidfd of the container's
    /// init, then stdin, stdout, stderr unless there is a terminal.
    Enter,
    /// Enter a container and bind one of its sockets anew. Descriptor: its init's pidfd.
    BindSocket {
        /// Where.
        path: PathBuf,
        /// The container has a user namespace.
        user_namespace: bool,
    },
    /// Give a tree the owners of a container, without changing it. Descriptor: the tree.
    Shift {
        /// The container's ids.
        ids: IdRange,
    },
    /// Get ready to do system calls for a container. Descriptor: the [`crate::emulator::EmulatorPlan`].
    Emulate,
    /// Do them. Descriptors: the listener of its init, its user and its network namespace, the daemon's end of this
    /// channel.
    Attend,
    /// Do those of a command in it as well. Descriptor: the listener.
    Serve,
    /// Its devices have changed. Descriptor: the [`crate::device::Rules`].
    Allow,
    /// Tell it news of a device.
    Cry {
        /// The kernel's words, as in [`crate::uevent::Uevent::text`].
        text: String,
    },
}

/// What `cml-init` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The container is put together. Descriptors: the listening service socket and the listening control socket, each
    /// if the plan has it.
    Prepared {
        /// What will run as init.
        init: ChosenInit,
        /// The listener of its system calls is the last descriptor.
        listener: bool,
    },
    /// The command runs. Descriptor: the terminal's master, if there is one.
    Started {
        /// The listener of its system calls is the last descriptor.
        listener: bool,
        /// Its number on the host, which is that of its session.
        session: i32,
    },
    /// The command ended with this status, 128 + n for signal n.
    Ended {
        /// As a shell shows it.
        status: i32,
    },
    /// System calls are done for the container from now on.
    Serving,
    /// The tree has its owners. Descriptor: what shows it so.
    Shifted,
    /// The socket is bound. Descriptor: the listening socket.
    Bound,
    /// There is no such command; the process ends now.
    NoProgram {
        /// What was looked for.
        name: String,
    },
    /// It did not work; the process ends now.
    Failed {
        /// What it was doing.
        stage: String,
        /// What went wrong.
        reason: String,
    },
}

/// A plan in a sealed memfd: it may be larger than a packet of the channel, and nobody changes it on the
/// way.
///
/// # Errors
/// What the kernel said.
pub fn seal(plan: &impl Serialize) -> crate::Result<OwnedFd> {
    let text = serde_json::to_vec(plan).context("encode", "plan")?;
    memfd::sealed("cml-plan", &mut text.as_slice())
}

/// Reads the plan that [`seal`] has put into a memfd.
///
/// # Errors
/// The content is not such a plan.
pub fn unseal<P: DeserializeOwned>(plan: OwnedFd) -> crate::Result<P> {
    serde_json::from_slice(&memfd::read_all(plan)?).context("decode", "plan")
}

/// Kernel files that tell about, or act on, the whole machine (runtime.md 9, number 60).
pub const MASKED: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/acpi",
    "/proc/interrupts",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Kernel files that a guest without a user namespace could otherwise write as the host's root.
pub const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What every container may use (runtime.md 2.8): whiteouts of overlays, null, zero, full, random, urandom, tty,
/// ptmx, hwrng, tun, fuse, and its own terminals.
pub const DEVICES: &[&str] = &[
    "c 0:0 rwm",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 10:183 rwm",
    "c 10:200 rwm",
    "c 10:229 rwm",
    "c 136:* rwm",
];

/// Dropped even where a user namespace confines root (runtime.md 2.5): LINUX_IMMUTABLE, IPC_OWNER, SYS_MODULE,
/// SYS_PTRACE, SYS_PACCT, LEASE, AUDIT_CONTROL, SETFCAP, MAC_OVERRIDE, MAC_ADMIN, SYSLOG. And SYS_RAWIO, which the
/// kernel only asks the host's root for: systemd takes it as the sign of a real machine, and then fails to mount
/// the kernel's debugging file systems.
const DROPPED_ALWAYS: &[u32] = &[9, 15, 16, 17, 19, 20, 28, 30, 31, 32, 33, 34];

/// What root keeps where no user namespace confines it (docs/adr/0005-capabilities.md): CHOWN, DAC_OVERRIDE,
/// FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_BROADCAST, SYS_CHROOT, SYS_BOOT,
/// SYS_NICE, SYS_RESOURCE, AUDIT_WRITE, WAKE_ALARM. A list of what is kept, so that a capability that a later
/// kernel invents is dropped.
const KEPT_WITHOUT_USER_NAMESPACE: &[u32] =
    &[0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 18, 22, 23, 24, 29, 35];

/// NET_ADMIN and NET_RAW; kept as well where the network is the container's own.
const KEPT_WITH_OWN_NETWORK: &[u32] = &[12, 13];

/// The highest number that a capability set of the kernel can hold.
const LAST_CAPABILITY: u32 = 63;

/// SYS_MODULE: kept where modules are loaded for the guest, as a program that asks for one looks whether it has
/// it. It means nothing to the kernel outside of the first user namespace.
const SYS_MODULE: u32 = 16;

/// SYS_TIME: what `allow_system_time` gives to a guest that no user namespace confines.
const SYS_TIME: u32 = 25;

/// The capabilities that a container never gets.
fn dropped_capabilities(calls: Allowances, own_network: bool) -> Vec<u32> {
    if calls.user_namespace {
        let dropped = DROPPED_ALWAYS.iter().copied();
        return dropped
            .filter(|number| *number != SYS_MODULE || !calls.modules)
            .collect();
    }
    let kept = |number: &u32| {
        KEPT_WITHOUT_USER_NAMESPACE.contains(number)
            || (own_network && KEPT_WITH_OWN_NETWORK.contains(number))
            || (calls.set_time && *number == SYS_TIME)
    };
    (0..=LAST_CAPABILITY)
        .filter(|number| !kept(number))
        .collect()
}
