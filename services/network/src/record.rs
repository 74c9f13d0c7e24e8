//! What is written down about the network of a container, before it is done (LIF-06, LIF-14).
//!
//! The record means nothing after a reboot and lies in the run directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cml_bus::{api::network::NetworkError, id::ContainerId};
use cml_sys::{
    atomic, file,
    net::{
        address::{Address, Route},
        mac::Mac,
    },
    proc,
};
use serde::{Deserialize, Serialize};

use crate::claim::Claim;

/// Everything that was, or is about to be, done for a container.
///
/// A daemon reads the records of the one before it, which may have been an older version: a field that is added gets
/// `#[serde(default)]`, and no field changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The boot in which it was written.
    pub boot_id: String,
    /// The file that keeps its namespace.
    pub pin: PathBuf,
    /// Its virtual interfaces.
    pub veths: Vec<Veth>,
    /// The physical interfaces that it has, or is about to get or to lose.
    pub nics: Vec<Nic>,
    /// The physical interfaces that it shall have as soon as they are there.
    pub wishes: Vec<Wish>,
    /// What it would have been given unasked, and somebody has taken away.
    #[serde(default)]
    pub declined: Vec<Claim>,
}

/// A pair of interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veth {
    /// Which of its interfaces, counted from 0 in its configuration.
    pub index: usize,
    /// What it is called in the container.
    pub name: String,
    /// Its MAC address there.
    pub mac: Mac,
    /// Both ends get addresses.
    pub configure: bool,
    /// What the configuration wants the near end to be called.
    pub wanted_name: Option<String>,
    /// It is, or is about to be, called so.
    pub renamed: bool,
    /// The number of its subnet, which is in the name that the near end begins with.
    pub subnet: u8,
    /// The near end lies in core0, not on the host.
    pub in_core0: bool,
    /// The number of the near end, once it is made.
    #[serde(default)]
    pub near: Option<u32>,
}

/// A physical interface that is away from home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// What asked for it.
    pub claim: Claim,
    /// Its number in the container, chosen before it moves: a guest can change everything but that.
    pub inside: u32,
    /// What it was like at home.
    pub home: Home,
    /// It stays at home, and the container gets a filtered way to it.
    pub filter: Option<Vec<Mac>>,
    /// Home is core0.
    pub from_core0: bool,
    /// It was not to be found when it was last looked for: unplugged, or in a namespace of the guest's own making.
    #[serde(default)]
    pub hidden: bool,
}

/// An interface as it was when it left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Further names.
    pub alt_names: Vec<String>,
    /// What software makes it, `None` for hardware.
    pub kind: Option<String>,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// The one that its manufacturer gave it.
    pub permanent_mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// It was set up.
    pub up: bool,
    /// The addresses that somebody had set.
    pub addresses: Vec<Address>,
    /// The routes that somebody had set.
    pub routes: Vec<Route>,
    /// The flags that somebody had set, of [`cml_sys::net::link::Link::SETTINGS`].
    #[serde(default)]
    pub settings: Option<u32>,
    /// The group of interfaces it was in.
    #[serde(default)]
    pub group: u32,
    /// Packets its queue took.
    #[serde(default)]
    pub queue: Option<u32>,
    /// Its description for people.
    #[serde(default)]
    pub alias: Option<String>,
    /// The numbers of others with the same hardware address, which are therefore not it.
    #[serde(default)]
    pub alike: Vec<u32>,
    /// Where its hardware is in sysfs, as long as it is plugged in.
    #[serde(default)]
    pub device: Option<PathBuf>,
}

/// A physical interface of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Which.
    pub claim: Claim,
    /// Who may be heard over it; `None` for everybody.
    pub filter: Option<Vec<Mac>>,
    /// Nobody has configured it: core0 gets what nobody else has.
    #[serde(default)]
    pub automatic: bool,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records(PathBuf);

fn failed(path: &Path, error: impl ToString) -> NetworkError {
    NetworkError::Store {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

impl Records {
    /// Records in this directory; makes it if it is missing.
    pub fn open(dir: &Path) -> Result<Self, NetworkError> {
        file::make_dir(dir, 0o700).map_err(|error| failed(dir, error))?;
        Ok(Self(dir.to_owned()))
    }

    fn path(&self, id: ContainerId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Writes the record of a container.
    pub fn write(&self, id: ContainerId, record: &Record) -> Result<(), NetworkError> {
        let path = self.path(id);
        let text = serde_json::to_vec(record).map_err(|error| failed(&path, error))?;
        atomic::write_volatile(&path, &text, 0o600).map_err(|error| failed(&path, error))
    }

    /// Forgets a container.
    pub fn remove(&self, id: ContainerId) -> Result<(), NetworkError> {
        let path = self.path(id);
        atomic::remove(&path).map_err(|error| failed(&path, error))
    }

    /// All that means anything in this boot.
    pub fn load(&self) -> Vec<(ContainerId, Record)> {
        let Ok(boot_id) = proc::boot_id() else {
            return Vec::new();
        };
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let read = entries.filter_map(|entry| {
            let name = entry.file_name();
            let id = name.to_str()?.strip_suffix(".json")?.parse().ok()?;
            let read = file::read(&entry.path()).map_err(|error| error.to_string());
            let record = read.and_then(|text| {
                serde_json::from_slice::<Record>(&text).map_err(|error| error.to_string())
            });
            match record {
                Ok(record) => Some((id, record)),
                Err(error) => {
                    tracing::error!(container = %id, error, "its network is not known any more");
                    None
                }
            }
        });
        let (now, before): (Vec<_>, Vec<_>) =
            read.partition(|(_, record)| record.boot_id == boot_id);
        // Nothing of an earlier boot is left.
        for (id, _) in before {
            let _ = self.remove(id);
        }
        now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(boot_id: &str) -> Record {
        Record {
            boot_id: boot_id.into(),
            pin: "/run/netns/x".into(),
            veths: Vec::new(),
            nics: Vec::new(),
            wishes: Vec::new(),
            declined: Vec::new(),
        }
    }

    #[test]
    fn records_of_this_boot_are_found_and_others_disappear() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let (now, before, damaged) = (
            ContainerId::random(),
            ContainerId::random(),
            ContainerId::random(),
        );
        let mine = record(&proc::boot_id().unwrap());
        records.write(now, &mine).unwrap();
        records.write(before, &record("another")).unwrap();
        fs::write(records.path(damaged), "{").unwrap();
        assert_eq!(records.load(), [(now, mine)]);
        assert!(!records.path(before).exists());
        records.remove(now).unwrap();
        assert!(records.load().is_empty());
    }

    #[test]
    fn a_record_of_an_older_daemon_is_understood() {
        let text = r#"{
            "boot_id": "x", "pin": "/run/netns/x",
            "veths": [{"index": 0, "name": "host0", "mac": "02:00:00:00:00:01", "configure": true,
                       "wanted_name": null, "renamed": false, "subnet": 1, "in_core0": false}],
            "nics": [{"claim": {"Name": "nic0"}, "inside": 2, "filter": null, "from_core0": false,
                      "home": {"index": 2, "name": "nic0", "alt_names": [], "kind": null,
                               "mac": "02:00:00:00:00:02", "permanent_mac": null, "mtu": 1500, "up": true,
                               "addresses": [{"ip": "10.0.0.1", "prefix": 24, "broadcast": null, "scope": 0,
                                              "is_set": true}],
                               "routes": [{"to": ["0.0.0.0", 0], "via": "10.0.0.2", "source": null, "metric": null,
                                           "table": 254, "scope": 0, "protocol": 4}]}}],
            "wishes": [{"claim": {"Mac": "02:00:00:00:00:02"}, "filter": null}]
        }"#;
        let record: Record = serde_json::from_str(text).unwrap();
        let home = &record.nics[0].home;
        assert!(home.settings.is_none() && !home.routes[0].onlink && !record.nics[0].hidden);
        assert!(record.veths[0].near.is_none() && !record.wishes[0].automatic);
    }
}
