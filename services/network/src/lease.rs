//! Which subnet a container has: the same at every start, as long as there is one for everybody (runtime.md 9,
//! number 50).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use cml_bus::{api::network::NetworkError, id::ContainerId};
use cml_sys::{atomic, file, random};
use serde::{Deserialize, Serialize};

use crate::names::{Identity, Subnet};

/// 172.23.0.0/24 is the way between host and core0 (runtime.md 4.2).
pub const UPLINK: u8 = 0;
/// The last one that the existing system uses (runtime.md 4.1).
const LAST: u8 = 254;

/// How exactly it is written down when a container last ran, in seconds: starts need not wait for the disk for that.
const PRECISION: u64 = 60 * 60;

/// What is stored. A field that is added gets `#[serde(default)]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// The 40 random bits of a range of local IPv6 addresses (RFC 4193).
    identity: [u8; 5],
    /// Random as well: what is ours in the kernel.
    #[serde(default)]
    mark: [u8; 3],
    /// By UUID.
    containers: BTreeMap<String, Lease>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// When the container last started, in seconds of Unix time.
    used: u64,
    /// Subnets by the name of the interface.
    subnets: BTreeMap<String, u8>,
}

/// The subnets of all containers, in a file.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
    stored: Stored,
}

fn failed(path: &Path, error: impl ToString) -> NetworkError {
    NetworkError::Store {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

impl Leases {
    /// Those of this file; makes it if it is missing. One that cannot be understood is replaced: containers get other
    /// subnets then, and run.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, NetworkError> {
        let read: Option<Stored> = match file::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .inspect_err(|error| {
                    tracing::error!(path = %path.display(), %error, "subnets are forgotten");
                })
                .ok(),
            Err(error) if error.is_absence() => None,
            Err(error) => return Err(failed(path, error)),
        };
        let mut leases = Self {
            path: path.to_owned(),
            stored: read.unwrap_or_default(),
        };
        let Stored { identity, mark, .. } = &mut leases.stored;
        if *mark == [0; 3] {
            if *identity == [0; 5] {
                random::fill(identity).map_err(|error| failed(path, error))?;
            }
            random::fill(mark).map_err(|error| failed(path, error))?;
            leases.write()?;
        }
        Ok(leases)
    }

    fn write(&self) -> Result<(), NetworkError> {
        let text = serde_json::to_vec_pretty(&self.stored);
        let text = text.map_err(|error| failed(&self.path, error))?;
        atomic::write(&self.path, &text, 0o600).map_err(|error| failed(&self.path, error))
    }

    /// What tells this device from others.
    pub fn identity(&self) -> Identity {
        Identity {
            range: self.stored.identity,
            mark: self.stored.mark,
        }
    }

    fn subnet(&self, number: u8) -> Subnet {
        Subnet {
            number,
            identity: self.identity(),
        }
    }

    /// A container starts with these interfaces: subnets of others that it once had are free.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn begin(&mut self, id: ContainerId, interfaces: &[&str]) -> Result<(), NetworkError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let lease = self.stored.containers.entry(id.to_string()).or_default();
        let had = lease.subnets.len();
        lease
            .subnets
            .retain(|name, _| interfaces.contains(&name.as_str()));
        let freed = lease.subnets.len() < had;
        let outdated = now.abs_diff(lease.used) > PRECISION;
        lease.used = now;
        // One that has none yet gets one now, and that is written down.
        match freed || (outdated && had > 0) {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// The subnet of an interface. The one it had, if it fits; else one that nobody has had; else that of the container
    /// among the `idle` that has not run for the longest time.
    ///
    /// # Errors
    /// There is none, or it cannot be written down.
    pub fn take(
        &mut self,
        id: ContainerId,
        interface: &str,
        is_idle: impl Fn(ContainerId) -> bool,
        fits: impl Fn(Subnet) -> bool,
    ) -> Result<Subnet, NetworkError> {
        let name = id.to_string();
        let lease = self.stored.containers.get(&name);
        let had = lease.and_then(|lease| lease.subnets.get(interface).copied());
        let had = had.map(|number| self.subnet(number));
        if let Some(subnet) = had.filter(|subnet| fits(*subnet)) {
            return Ok(subnet);
        }
        let number = self.free(&fits).or_else(|| self.evict(id, is_idle, &fits));
        let number = number.ok_or(NetworkError::NoSubnet)?;
        let lease = self.stored.containers.entry(name).or_default();
        lease.subnets.insert(interface.to_owned(), number);
        self.write()?;
        Ok(self.subnet(number))
    }

    fn free(&self, fits: impl Fn(Subnet) -> bool) -> Option<u8> {
        let leases = self.stored.containers.values();
        let taken: BTreeSet<_> = leases.flat_map(|lease| lease.subnets.values()).collect();
        (UPLINK + 1..=LAST).find(|number| !taken.contains(number) && fits(self.subnet(*number)))
    }

    fn evict(
        &mut self,
        id: ContainerId,
        is_idle: impl Fn(ContainerId) -> bool,
        fits: impl Fn(Subnet) -> bool,
    ) -> Option<u8> {
        let candidates = self.stored.containers.iter().filter_map(|(name, lease)| {
            // What is no identity belongs to nobody.
            let idle = name
                .parse()
                .map_or(true, |other| other != id && is_idle(other));
            let mut numbers = lease.subnets.values();
            let number = numbers.find(|number| fits(self.subnet(**number)));
            Some((lease.used, name.clone(), *number.filter(|_| idle)?))
        });
        let (_, name, number) = candidates.min()?;
        let lease = self.stored.containers.get_mut(&name)?;
        lease.subnets.retain(|_, taken| *taken != number);
        Some(number)
    }

    /// Frees the subnets of a container that is no more.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn forget(&mut self, id: ContainerId) -> Result<(), NetworkError> {
        match self.stored.containers.remove(&id.to_string()) {
            Some(_) => self.write(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open() -> (tempfile::TempDir, Leases) {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(&dir.path().join("leases")).unwrap();
        (dir, leases)
    }

    fn take(leases: &mut Leases, id: ContainerId) -> Result<u8, NetworkError> {
        leases.begin(id, &["host0"])?;
        let taken = leases.take(id, "host0", |_| false, |_| true);
        taken.map(|subnet| subnet.number)
    }

    #[test]
    fn a_container_keeps_its_subnet_and_all_have_different_ones() {
        let (dir, mut leases) = open();
        let ids: Vec<_> = (0..254).map(|_| ContainerId::random()).collect();
        let first: Vec<_> = ids
            .iter()
            .map(|id| take(&mut leases, *id).unwrap())
            .collect();
        assert_eq!(BTreeSet::from_iter(&first).len(), 254);
        assert!(!first.contains(&UPLINK));
        // Another daemon, another order.
        let mut again = Leases::open(&dir.path().join("leases")).unwrap();
        assert_eq!(again.identity(), leases.identity());
        for (id, number) in ids.iter().zip(first).rev() {
            assert_eq!(take(&mut again, *id).unwrap(), number);
        }
        assert_eq!(
            take(&mut again, ContainerId::random()),
            Err(NetworkError::NoSubnet)
        );
        again.forget(ids[7]).unwrap();
        take(&mut again, ContainerId::random()).unwrap();
    }

    #[test]
    fn who_has_not_run_for_long_gives_its_subnet_to_who_has_none() {
        let (_dir, mut leases) = open();
        let ids: Vec<_> = (0..254).map(|_| ContainerId::random()).collect();
        for id in &ids {
            take(&mut leases, *id).unwrap();
        }
        let old = leases
            .stored
            .containers
            .get_mut(&ids[100].to_string())
            .unwrap();
        old.used = 1;
        let number = old.subnets["host0"];
        let taken = leases.take(ContainerId::random(), "host0", |_| true, |_| true);
        assert_eq!(taken.unwrap().number, number);
    }

    #[test]
    fn what_is_not_configured_any_more_is_free_and_the_order_of_starts_outlives_a_daemon() {
        let (dir, mut leases) = open();
        let ids: Vec<_> = (0..253).map(|_| ContainerId::random()).collect();
        for id in &ids {
            take(&mut leases, *id).unwrap();
        }
        let taken = leases.take(ids[0], "lan", |_| false, |_| true).unwrap();
        let mut again = Leases::open(&dir.path().join("leases")).unwrap();
        assert_eq!(take(&mut again, ids[0]).unwrap(), 1);
        assert_eq!(
            take(&mut again, ContainerId::random()).unwrap(),
            taken.number
        );
        // All have run long ago, and one of them again.
        for lease in again.stored.containers.values_mut() {
            lease.used = 1;
        }
        let first = again.stored.containers.keys().next().unwrap().clone();
        let first = first.parse().unwrap();
        let kept = take(&mut again, first).unwrap();
        let mut again = Leases::open(&dir.path().join("leases")).unwrap();
        let other = again.take(ContainerId::random(), "host0", |_| true, |_| true);
        assert_ne!(other.unwrap().number, kept);
    }

    #[test]
    fn a_subnet_that_the_host_uses_itself_is_left_alone() {
        let (_dir, mut leases) = open();
        let id = ContainerId::random();
        let taken = leases
            .take(id, "host0", |_| false, |subnet| subnet.number > 3)
            .unwrap();
        assert_eq!(taken.number, 4);
        let taken = leases
            .take(id, "host0", |_| false, |subnet| subnet.number > 9)
            .unwrap();
        assert_eq!(taken.number, 10);
    }

    #[test]
    fn what_an_older_daemon_has_written_keeps_its_range_and_gets_a_mark_once() {
        let (dir, mut leases) = open();
        let id = ContainerId::random();
        let number = take(&mut leases, id).unwrap();
        let path = dir.path().join("leases");
        let text = std::fs::read(&path).unwrap();
        let mut stored: serde_json::Value = serde_json::from_slice(&text).unwrap();
        stored.as_object_mut().unwrap().remove("mark").unwrap();
        std::fs::write(&path, stored.to_string()).unwrap();
        let mut newer = Leases::open(&path).unwrap();
        assert_eq!(newer.identity().range, leases.identity().range);
        assert_eq!(take(&mut newer, id).unwrap(), number);
        assert_eq!(Leases::open(&path).unwrap().identity(), newer.identity());
    }

    #[test]
    fn a_damaged_file_costs_the_subnets_and_nothing_else() {
        let (dir, _) = open();
        let path = dir.path().join("leases");
        std::fs::write(&path, "{").unwrap();
        let mut leases = Leases::open(&path).unwrap();
        take(&mut leases, ContainerId::random()).unwrap();
    }
}
