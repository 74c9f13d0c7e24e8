//! The network service: interfaces of containers, virtual and physical.

use std::{os::fd::OwnedFd, sync::Arc};

use cml_wire::proto::{ContainerConfig, ContainerIface, ContainerVnetConfig};

use crate::{error::BusError, id::ContainerId};

/// Connects a container that is being launched: its virtual interfaces are made and its physical ones moved in, if
/// they are there. A failure leaves nothing behind. What an earlier run has left is taken away first.
#[derive(Debug)]
pub struct Attach {
    /// Which container.
    pub id: ContainerId,
    /// Its network namespace.
    pub namespace: OwnedFd,
    /// What it shall get.
    pub config: Arc<ContainerConfig>,
}

/// Takes a container's interfaces away: physical ones come home as they left. Nothing of the container runs any
/// more. One that has none is fine.
#[derive(Debug)]
pub struct Detach {
    /// Which container.
    pub id: ContainerId,
}

/// The container was removed: its subnets are free for others.
#[derive(Debug)]
pub struct Forget {
    /// Which container.
    pub id: ContainerId,
}

/// Moves a physical interface into a running container.
#[derive(Debug)]
pub struct Assign {
    /// Which container.
    pub id: ContainerId,
    /// Its name on the host, or its MAC address.
    pub interface: String,
}

/// Brings a physical interface of a running container home.
#[derive(Debug)]
pub struct Unassign {
    /// Which container.
    pub id: ContainerId,
    /// Its name on the host or in the container, or its MAC address.
    pub interface: String,
}

/// Whether an interface could be assigned to a container, which need not run.
#[derive(Debug)]
pub struct Identify {
    /// Which container.
    pub id: ContainerId,
    /// Its name on the host, or its MAC address.
    pub interface: String,
}

/// Everything that one physical interface is called, for finding it in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names(pub Vec<String>);

/// The interfaces that a running container sees.
#[derive(Debug)]
pub struct List {
    /// Which container.
    pub id: ContainerId,
    /// It has no network of its own: it sees those of the host.
    pub shared: bool,
}

/// One interface of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// As `ip link` prints it (protocol.md 3.7).
    pub text: String,
    /// The same for programs.
    pub detail: ContainerIface,
}

/// The virtual interfaces that a container gets, with everything that its configuration leaves open.
#[derive(Debug)]
pub struct Virtual {
    /// Which container.
    pub id: ContainerId,
    /// Its `vnet_configs`.
    pub configured: Vec<ContainerVnetConfig>,
}

/// The answer to [`Virtual`].
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualInterface {
    /// The interface, with its MAC address.
    pub config: ContainerVnetConfig,
    /// What its end on the host is called, while there is one.
    pub host_name: Option<String>,
}

/// Why the network service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither a name nor an address.
    #[error(
        "{0:?} is neither the name of an interface (1 to 15 bytes, no white space, none of `/ : %`) nor a MAC \
         address such as 02:fc:00:00:00:01"
    )]
    BadInterface(String),
    /// No interface has this name or address.
    #[error("there is no interface `{0}`; `ip link` on the host lists what there is")]
    NoInterface(String),
    /// An interface that is not given away.
    #[error("interface `{interface}` cannot be assigned: {reason}")]
    Unsuitable {
        /// Its name.
        interface: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two containers want the same interface.
    #[error(
        "interface `{interface}` belongs to container {holder}; unassign it there, or stop that container"
    )]
    Held {
        /// The interface, as it was asked for.
        interface: String,
        /// Who has it, or waits for it.
        holder: ContainerId,
    },
    /// The container has no such interface.
    #[error(
        "container {id} has no physical interface `{interface}`; `control ifaces` lists what it has"
    )]
    NotAssigned {
        /// Which container.
        id: ContainerId,
        /// What was asked for.
        interface: String,
    },
    /// A physical interface of the container is neither in it nor at home.
    #[error(
        "interface `{interface}` of container {id} is not to be seen: it was unplugged, or the guest keeps it in a \
         namespace of its own; it comes home when the container stops"
    )]
    Hidden {
        /// Which container.
        id: ContainerId,
        /// What was asked for.
        interface: String,
    },
    /// What a guest has made upon an interface cannot be removed.
    #[error(
        "interface `{interface}` is home, but container {id} still uses it through one that the guest has made upon \
         it; stop the container"
    )]
    Shared {
        /// Which container.
        id: ContainerId,
        /// What was asked for.
        interface: String,
    },
    /// The container does not run, or shares the host's network.
    #[error(
        "container {0} has no network of its own at the moment; start it, or use `--persistent` to change what it \
         gets when it starts"
    )]
    NotConnected(ContainerId),
    /// Too many virtual interfaces, or a network of the host where they would be.
    #[error(
        "all subnets of 172.23.0.0/16 are in use, by containers or by the host itself (`ip route`); stop another \
         container, or give that network of the host other addresses"
    )]
    NoSubnet,
    /// The kernel or a program refused something.
    #[error("network of container {id}: {reason}")]
    System {
        /// Which container.
        id: ContainerId,
        /// What failed, and what failed while undoing.
        reason: String,
    },
    /// What has to be remembered cannot be.
    #[error("`{path}`: {reason}")]
    Store {
        /// The file.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// The bus could not deliver.
    #[error(transparent)]
    Bus(#[from] BusError),
}

crate::request!(Attach => (), NetworkError, "network.attach", 60 s);
crate::request!(Detach => (), NetworkError, "network.detach", 60 s);
crate::request!(Forget => (), NetworkError, "network.forget", 60 s);
crate::request!(Assign => Names, NetworkError, "network.assign", 30 s);
crate::request!(Unassign => Names, NetworkError, "network.unassign", 30 s);
crate::request!(Identify => Names, NetworkError, "network.identify", 30 s);
crate::request!(List => Vec<Interface>, NetworkError, "network.list", 30 s);
crate::request!(Virtual => Vec<VirtualInterface>, NetworkError, "network.virtual", 30 s);

crate::service_port! {
    /// What the holder may ask of the network service.
    NetworkPort {
        /// Connect a container.
        attach: Attach,
        /// Take its interfaces away.
        detach: Detach,
        /// Free what was kept for it.
        forget: Forget,
        /// A physical interface, for a running container.
        assign: Assign,
        /// The reverse.
        unassign: Unassign,
        /// Whether an interface could be assigned.
        identify: Identify,
        /// What a container sees.
        list: List,
        /// What a container gets.
        virtual_interfaces: Virtual,
    }
}
