//! What the container service has the network service do.

use std::{net::IpAddr, path::Path, sync::Arc};

use cml_bus::{
    api::network::{Attach, Detach, NetworkError},
    blocking,
    id::ContainerId,
};
use cml_sys::{host::Prepared, net::namespace::Namespace, plan::LaunchPlan};
use cml_wire::proto::ContainerConfig;

use crate::env::Env;

/// Connects a container whose init does not run yet. Only inside a job of a pool.
pub fn connect(
    env: &Env,
    id: ContainerId,
    config: &ContainerConfig,
    prepared: &Prepared,
) -> Result<(), NetworkError> {
    if !config.netns() {
        if !config.net_ifaces.is_empty() {
            tracing::warn!(container = %id, "net_ifaces mean nothing without a network of its own");
        }
        return Ok(());
    }
    let namespace = Namespace::of_process(prepared.pid);
    let namespace = namespace.map_err(|error| NetworkError::System {
        id,
        reason: error.to_string(),
    })?;
    let attach = Attach {
        id,
        namespace: namespace.into(),
        config: Arc::new(config.clone()),
    };
    blocking::wait(env.network.attach.call(attach))
}

/// Takes a container's interfaces away. Only inside a job of a pool.
pub fn disconnect(env: &Env, id: ContainerId) -> Result<(), NetworkError> {
    blocking::wait(env.network.detach.call(Detach { id }))
}

/// Where programs look for a name server.
const RESOLVER: &str = "/etc/resolv.conf";

/// The name server that is written into a container: its own, or that of the device (runtime.md 1.5). One whose guest OS
/// shows a file there has what that says.
pub fn name_server(env: &Env, config: &ContainerConfig, plan: &LaunchPlan) -> Option<IpAddr> {
    if plan
        .mounts
        .iter()
        .any(|mount| mount.target == Path::new(RESOLVER))
    {
        return None;
    }
    let own = Some(config.dns_server()).filter(|text| !text.is_empty());
    own.unwrap_or(&env.settings.host_dns).parse().ok()
}
