//! The command line: words, options, help (protocol.md 4.1, 4.3).

mod args;
mod help;
#[cfg(test)]
mod tests;
mod words;

use std::{env, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use cml_wire::paths::CONTROL_SOCKET;

use self::help::*;
pub use self::{
    args::*,
    words::{normalise, wants_json},
};

/// Overrides [`CONTROL_SOCKET`].
pub const SOCKET_VARIABLE: &str = "CML_SOCKET";

/// Administers containers and guest operating systems.
#[derive(Debug, Parser)]
#[command(name = "control", version, after_help = MORE_HELP, subcommand_required = true)]
#[command(arg_required_else_help = true, infer_subcommands = false)]
pub struct Cli {
    /// Control socket of the daemon [default: /run/socket/cml-control]
    #[arg(short, long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Form of the results: `auto` is `table` on a terminal, else `text`
    #[arg(long, value_enum, default_value_t = Format::Auto, global = true, value_name = "FORMAT")]
    pub format: Format,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Where the daemon listens: option, else environment, else the default.
    pub fn socket(&self) -> PathBuf {
        let from_environment = || env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        self.socket
            .clone()
            .or_else(|| from_environment().map(PathBuf::from))
            .unwrap_or_else(|| CONTROL_SOCKET.into())
    }
}

/// Form of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `table` on a terminal, else `text`
    Auto,
    /// Protobuf text, stable
    Text,
    /// One JSON document, stable
    Json,
    /// For people
    Table,
}

/// The commands. Wire names in protocol.md 4.3.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all containers with their state
    #[command(after_help = LIST_HELP)]
    List {
        /// Also the system's own services
        #[arg(short, long)]
        system: bool,
        /// Existing scripts name a container here; all are listed (protocol.md 4.3).
        #[arg(hide = true)]
        unread: Vec<String>,
        #[command(flatten)]
        socket: LongSocket,
    },
    /// List the configurations of all installed guest operating systems
    #[command(name = "list_guestos", visible_alias = "list-guestos")]
    ListGuestos,
    /// Install or update a guest operating system; waits until its images are there
    #[command(name = "push_guestos_config", visible_alias = "push-guestos-config", after_help = PUSH_HELP)]
    PushGuestosConfig {
        /// Configuration in protobuf text
        conf: PathBuf,
        /// Signature of the configuration's bytes: raw (.sig) or CMS (.p7s)
        sig: PathBuf,
        /// Certificate of the signer, PEM
        cert: PathBuf,
    },
    /// Delete a guest operating system in all versions, unless a container uses it
    #[command(
        name = "remove_guestos",
        visible_alias = "remove-guestos",
        after_help = "Example:\n  control remove_guestos busybox"
    )]
    RemoveGuestos {
        /// Name, as `list_guestos` shows it
        name: String,
    },
    /// Trust another CA for guest operating systems and configurations
    #[command(name = "ca_register", visible_alias = "ca-register", after_help = CA_HELP)]
    CaRegister {
        /// PEM: a self-signed root, perhaps with the CAs below it
        cert: PathBuf,
    },
    /// List the trusted CAs
    #[command(name = "ca_list", visible_alias = "ca-list")]
    CaList,
    /// Trust a registered CA no longer; what it vouched for is not started again
    #[command(
        name = "ca_remove",
        visible_alias = "ca-remove",
        after_help = "Examples:\n  control ca_remove 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12\n  control ca_remove local"
    )]
    CaRemove {
        /// Id, as `ca_list` shows it
        id: String,
    },
    /// Create a container with a new UUID from a configuration
    #[command(
        after_help = "Examples:\n  control create web.conf\n  control create web.conf web.sig web.cert"
    )]
    Create {
        /// Configuration in protobuf text; needs at least `name` and `guest_os`; `-` is standard input
        conf: PathBuf,
        /// Signature of the configuration's bytes
        #[arg(requires = "cert")]
        sig: Option<PathBuf>,
        /// Certificate of the signer, PEM
        cert: Option<PathBuf>,
    },
    /// Give a container another configuration; one that runs takes it when it has stopped
    #[command(name = "update_config", visible_alias = "update-config", after_help = UPDATE_HELP)]
    UpdateConfig {
        /// Name, UUID, or the first digits of the UUID, at least 8
        container: String,
        /// Configuration in protobuf text; `-` is standard input
        conf: PathBuf,
        /// Signature of the configuration's bytes
        #[arg(requires = "cert")]
        sig: Option<PathBuf>,
        /// Certificate of the signer, PEM
        cert: Option<PathBuf>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Delete a container completely: configuration, data, keys
    #[command(after_help = REMOVE_HELP)]
    Remove(Doomed),
    /// Delete what a container has stored, and its key; its configuration and its PIN stay
    Wipe(Doomed),
    /// Wipe all containers of the device
    #[command(name = "wipe_device", visible_alias = "wipe-device")]
    WipeDevice(Confirm),
    /// Fetch the certificate request of the device, for a CA to sign
    #[command(name = "pull_csr", visible_alias = "pull-csr", after_help = CERTIFICATE_HELP)]
    PullCsr {
        /// Where to write it, PEM
        file: PathBuf,
    },
    /// Store the certificate that a CA made for the device
    #[command(name = "push_cert", visible_alias = "push-cert", after_help = CERTIFICATE_HELP)]
    PushCert {
        /// Certificate of the device, then those of intermediate CAs, PEM
        file: PathBuf,
    },
    /// Put the device into provisioned mode, for good: only the life cycle of containers is left
    #[command(name = "set_provisioned", visible_alias = "set-provisioned")]
    SetProvisioned(Confirm),
    /// Stop all containers and reboot the device; a host is not rebooted
    Reboot(Confirm),
    /// Make everything on the device unreadable, by clearing its TPM
    #[command(name = "destroy_system", visible_alias = "destroy-system")]
    DestroySystem(Confirm),
    /// Show how full disks and memory of the device are
    #[command(name = "device_stats", visible_alias = "device-stats")]
    DeviceStats,
    /// Fetch the log files of the device into a directory
    #[command(name = "retrieve_logs", visible_alias = "retrieve-logs", after_help = LOGS_HELP)]
    RetrieveLogs {
        /// An existing directory
        dir: PathBuf,
        /// Delete them on the device once they are stored; never the one that is being written
        #[arg(short, long)]
        remove: bool,
    },
    /// Start a container; asks for its PIN unless it needs none
    #[command(after_help = START_HELP)]
    Start {
        /// Name, UUID, or the first digits of the UUID, at least 8
        container: String,
        #[command(flatten)]
        key: Key,
        /// Mount the root tree at /setup instead of starting the system in it
        #[arg(short, long)]
        setup: bool,
        #[command(flatten)]
        socket: LongSocket,
    },
    /// Stop a container and wait until it has stopped; asks for its PIN as start does
    #[command(after_help = STOP_HELP)]
    Stop {
        /// Name, UUID, or the first digits of the UUID, at least 8
        container: String,
        #[command(flatten)]
        key: Key,
        /// Return as soon as the shutdown has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Change the PIN of a container, or of the device; asks for the old one and twice for the new one
    #[command(name = "change_pin", visible_alias = "change-pin", after_help = CHANGE_PIN_HELP)]
    ChangePin {
        /// Name, UUID or its first digits; without it the PIN of the device is changed
        container: Option<String>,
    },
    /// Show the state of a container
    State {
        /// Name, UUID, or the first digits of the UUID, at least 8
        container: String,
    },
    /// Show the configuration of a container
    Config {
        /// Name, UUID, or the first digits of the UUID, at least 8
        container: String,
    },
    /// Load the configurations of all stopped containers again
    Reload,
    /// Look for mistakes in configuration files, without a daemon
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Run a command in a container
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Suspend the processes of a container
    Freeze(Target),
    /// Let the processes of a frozen container go on
    Unfreeze(Target),
    /// Move a physical interface of the host into a container
    #[command(name = "assign_iface", visible_alias = "assign-iface", after_help = IFACE_HELP)]
    AssignIface(Interface),
    /// Bring a physical interface of a container home
    #[command(name = "unassign_iface", visible_alias = "unassign-iface", after_help = IFACE_HELP)]
    UnassignIface(Interface),
    /// List the network interfaces of a running container
    Ifaces(Target),
    /// Show what running containers use of the device
    #[command(after_help = STATS_HELP)]
    Stats {
        /// Name, UUID or its first digits; without it all containers that run
        container: Option<String>,
        /// Go on showing, every 2 seconds or every SECONDS
        #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
              default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..=3600))]
        watch: Option<u32>,
    },
    /// Let a running container use devices, or forbid it, until it stops
    #[command(name = "dev_access", visible_alias = "dev-access", after_help = DEVICE_HELP)]
    DevAccess {
        /// Name, UUID, or the first digits of the UUID, at least 8
        container: String,
        /// `c 10:200 rw`, `allow c 10:200 rw` or `deny c 10:200`
        #[arg(required = true, value_name = "RULE")]
        rule: Vec<String>,
    },
    /// Let a container use the sound devices, at once and at its later starts
    #[command(name = "allow_audio", visible_alias = "allow-audio")]
    AllowAudio(Target),
    /// Take the sound devices from a container, at once and at its later starts
    #[command(name = "deny_audio", visible_alias = "deny-audio")]
    DenyAudio(Target),
    /// Tell whether the device is in provisioned mode
    #[command(name = "get_provisioned", visible_alias = "get-provisioned")]
    GetProvisioned,
    /// Look at the audit log, or check that nobody has changed it
    #[command(after_help = AUDIT_HELP)]
    Audit {
        /// Which of the two
        #[command(subcommand)]
        what: Audit,
    },
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}
