//! What is written down about every container that runs, so that a restarted daemon finds it (LIF-14).
//!
//! The record is written before the first thing that would have to be undone is done, and says how to undo
//! it; it is completed when the guest runs, and removed when nothing is left. It means nothing after a
//! reboot and lies in the run directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cml_bus::{api::container::ContainerError, id::ContainerId};
use cml_sys::{
    atomic,
    cgroup::Group,
    emulator, file,
    host::Prepared,
    plan::{ChosenInit, Confinement},
    proc,
};
use cml_wire::proto::{ContainerTrust, CryptfsMode};
use serde::{Deserialize, Serialize};

use crate::{
    control_socket::Reach,
    devices::Held,
    env::{Env, private_dir},
    fifos,
    fsm::State,
    network,
    store::id_of,
    view::Guest,
    volumes::Traces,
};

/// Everything about one container that is being launched or runs.
///
/// A daemon reads the records of the one before it, which may have been an older version: a field that is
/// added gets `#[serde(default)]`, and no field changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The boot in which it was written.
    pub boot_id: String,
    /// How to take back what was done, the oldest first.
    pub undo: Vec<Undo>,
    /// The guest, as soon as it runs.
    pub running: Option<Running>,
}

/// One thing to take back. Each can be done again, and before it was ever needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Kill everything in the group and remove it.
    Group(Group),
    /// Close the volumes.
    Volumes(Traces),
    /// Take its interfaces away. Only the network service knows which; what it has no record of is fine.
    Network,
    /// Remove the directory of its pipes.
    Fifos(PathBuf),
}

/// A guest that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its init on the host.
    pub pid: i32,
    /// When its init was started, in clock ticks after boot: tells it from a later process of its number.
    pub start_time: u64,
    /// When it was started, in seconds after boot.
    pub started: u64,
    /// What runs as init, and how it is asked to stop.
    pub init: ChosenInit,
    /// Its slot of ids, `None` without a user namespace.
    pub id_slot: Option<u32>,
    /// The configuration that it was started with, in text form.
    pub config: String,
    /// What was taken from its processes.
    #[serde(default)]
    pub confinement: Confinement,
    /// Who does system calls for it.
    #[serde(default)]
    pub emulator: Option<emulator::Identity>,
    /// The environment of its init.
    pub init_env: Vec<String>,
    /// Who vouches for its guest OS, as the number on the wire.
    trust: i32,
    /// How its volumes are encrypted, as the number on the wire.
    #[serde(default)]
    cryptfs: i32,
    /// Where it is in its life.
    pub state: State,
    /// Its groups.
    pub group: Group,
    /// Its devices.
    #[serde(default)]
    pub devices: Held,
    /// What its control socket is good for, if it has one.
    #[serde(default)]
    pub control: Option<Reach>,
}

/// What a launch knows of a guest before it runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its slot of ids, `None` without a user namespace.
    pub id_slot: Option<u32>,
    /// The configuration in text form.
    pub config: String,
    /// What is taken from its processes.
    pub confinement: Confinement,
    /// The environment of its init.
    pub init_env: Vec<String>,
    /// What its guest OS makes of it.
    pub guest: Guest,
    /// Its groups.
    pub group: Group,
    /// Its devices.
    pub devices: Held,
    /// It is in setup mode.
    pub setup: bool,
    /// What its control socket is good for, if it has one.
    pub control: Option<Reach>,
}

impl Running {
    /// A guest that has just been started.
    pub fn new(prepared: &Prepared, facts: Facts) -> Self {
        Self {
            pid: prepared.pid,
            start_time: prepared.start_time,
            started: proc::boottime(),
            init: prepared.init,
            id_slot: facts.id_slot,
            config: facts.config,
            confinement: facts.confinement,
            emulator: None,
            init_env: facts.init_env,
            trust: facts.guest.trust.into(),
            cryptfs: facts.guest.cryptfs.into(),
            state: match facts.setup {
                true => State::Setup,
                false => State::Booting,
            },
            group: facts.group,
            devices: facts.devices,
            control: facts.control,
        }
    }

    /// What its guest OS makes of it.
    pub fn guest(&self) -> Guest {
        Guest {
            trust: self.trust.try_into().unwrap_or(ContainerTrust::Unsigned),
            cryptfs: self
                .cryptfs
                .try_into()
                .unwrap_or(CryptfsMode::NotImplemented),
        }
    }
}

/// Takes everything back, newest first. What cannot be taken back does not keep the rest from it.
pub fn unwind(env: &Env, id: ContainerId, undo: &[Undo]) -> Result<(), String> {
    let failures: Vec<_> = undo
        .iter()
        .rev()
        .filter_map(|one| one.run(env, id).err())
        .collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.join("; ")),
    }
}

impl Undo {
    fn run(&self, env: &Env, id: ContainerId) -> Result<(), String> {
        match self {
            Self::Group(group) => group
                .kill()
                .and_then(|()| group.remove())
                .map_err(|error| error.to_string()),
            Self::Volumes(traces) => traces.remove(),
            Self::Network => network::disconnect(env, id).map_err(|error| error.to_string()),
            Self::Fifos(dir) => fifos::remove(dir),
        }
    }
}

/// What is written down about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing that means anything now.
    Nothing,
    /// It is being launched, or runs.
    Record(Box<Record>),
    /// Something, but nobody knows what: the container may run.
    Unreadable,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records(PathBuf);

impl Records {
    /// Records in this directory; makes it if it is missing.
    pub fn open(dir: &Path) -> Result<Self, ContainerError> {
        private_dir(dir)?;
        Ok(Self(dir.to_owned()))
    }

    fn path(&self, id: ContainerId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Writes the record of a container.
    pub fn write(&self, id: ContainerId, record: &Record) -> Result<(), String> {
        let text = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        atomic::write_volatile(&self.path(id), &text, 0o600).map_err(|error| error.to_string())
    }

    /// What is written down about a container.
    pub fn read(&self, id: ContainerId) -> Found {
        let text = match file::read(&self.path(id)) {
            Ok(text) => text,
            Err(error) if error.is_absence() => return Found::Nothing,
            Err(error) => {
                tracing::error!(container = %id, %error, "a record cannot be read");
                return Found::Unreadable;
            }
        };
        match serde_json::from_slice::<Record>(&text) {
            Ok(record) if proc::boot_id().is_ok_and(|now| now == record.boot_id) => {
                Found::Record(Box::new(record))
            }
            // Nothing of an earlier boot is left.
            Ok(_) => Found::Nothing,
            Err(error) => {
                tracing::error!(container = %id, %error, "a record cannot be understood");
                Found::Unreadable
            }
        }
    }

    /// Forgets a container.
    pub fn remove(&self, id: ContainerId) {
        if let Err(error) = atomic::remove(&self.path(id)) {
            tracing::warn!(container = %id, %error, "a record could not be removed");
        }
    }

    /// All containers that have a record.
    pub fn list(&self) -> Vec<ContainerId> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| id_of(&entry.file_name(), "json"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::cgroup::Hierarchies;

    use super::*;

    fn record(boot_id: &str) -> Record {
        Record {
            boot_id: boot_id.into(),
            undo: vec![Undo::Group(Hierarchies::default().group("x"))],
            running: None,
        }
    }

    #[test]
    fn a_record_of_an_earlier_boot_means_nothing_and_a_damaged_one_something_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = ContainerId::random();
        let now = record(&proc::boot_id().unwrap());
        records.write(id, &now).unwrap();
        assert_eq!(records.read(id), Found::Record(Box::new(now)));
        assert_eq!(records.list(), [id]);
        records.write(id, &record("another")).unwrap();
        assert_eq!(records.read(id), Found::Nothing);
        fs::write(records.path(id), "{").unwrap();
        assert_eq!(records.read(id), Found::Unreadable);
        records.remove(id);
        assert_eq!(records.read(id), Found::Nothing);
        assert!(records.list().is_empty());
    }
}
