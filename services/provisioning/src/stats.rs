//! Room on the disks and in the memory of the device (protocol.md 2.2).

use std::path::Path;

use cml_bus::api::provisioning::ProvisioningError;
use cml_sys::{proc, space};
use cml_wire::proto::DeviceStats;

/// The figures of a device with this storage base. The containers have theirs if they lie on a disk of their own.
///
/// # Errors
/// `Store` when the base cannot be inspected.
pub fn of(base: &Path) -> Result<DeviceStats, ProvisioningError> {
    let containers = base.join("containers");
    let usage = |path: &Path| {
        space::usage(path).map_err(|error| ProvisioningError::Store {
            path: path.display().to_string(),
            reason: error.source.to_string(),
        })
    };
    let system = usage(base)?;
    // Made when the first container is.
    let apart = match containers.exists() {
        true => Some(usage(&containers)?).filter(|usage| usage.device != system.device),
        false => None,
    };
    // procfs is not worth an error: the message can do without.
    let memory = proc::memory().inspect_err(|error| tracing::warn!(%error, "memory is unknown"));
    let memory = memory.ok();
    Ok(DeviceStats {
        disk_system: system.total,
        disk_system_free: system.unused,
        disk_system_used: system.total.saturating_sub(system.unused),
        disk_containers: apart.map(|disk| disk.total),
        disk_containers_free: apart.map(|disk| disk.unused),
        disk_containers_used: apart.map(|disk| disk.total.saturating_sub(disk.unused)),
        mem_total: memory.map(|memory| memory.total),
        mem_free: memory.map(|memory| memory.free),
        mem_available: memory.map(|memory| memory.available),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn figures_add_up_and_one_disk_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("containers")).unwrap();
        let stats = of(dir.path()).unwrap();
        assert_eq!(
            stats.disk_system,
            stats.disk_system_free + stats.disk_system_used
        );
        assert!(stats.disk_system > 0 && stats.disk_containers.is_none());
        assert!(stats.mem_total() >= stats.mem_available() && stats.mem_available() > 0);
        let error = of(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
