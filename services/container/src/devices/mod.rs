//! The devices of containers: what a configuration asks for, who has what, and what appears in `/dev`
//! (runtime.md 2.8, docs/adr/0051-devices.md).

pub mod ledger;
pub mod wanted;

use std::path::{Path, PathBuf};

use cml_bus::id::ContainerId;
use cml_sys::{
    cgroup::Group,
    device::{
        Access, Device, Kind, Rule, Rules,
        node::{self, Dev, DevId, Node},
    },
    idmap::IdRange,
    usb,
};
use serde::{Deserialize, Serialize};

use ledger::Ledger;
use wanted::{Usb, Wanted};

/// The major number of all sound devices of ALSA.
const SOUND: u32 = 116;

/// The rule for all sound devices.
pub fn sound() -> Rule {
    Rule {
        kind: Some(Kind::Char),
        major: Some(SOUND),
        minor: None,
        access: Access::ALL,
    }
}

/// The devices of the machine, and who has them.
#[derive(Debug)]
pub struct Devices {
    /// Who may use what.
    pub ledger: Ledger,
    /// `/dev` of the host.
    dev: PathBuf,
    /// `/sys` of the host.
    sys: PathBuf,
}

/// What a running container has, as its record keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// What it may do.
    pub rules: Rules,
    /// What it was given beside the default list, and shares with others.
    pub shared: Vec<Rule>,
    /// What it has for itself.
    pub own: Vec<Rule>,
    /// USB devices that it was given.
    pub usb: Vec<Plugged>,
    /// What its `/dev` is found again by.
    pub dev: Option<DevId>,
}

/// A USB device that a container was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugged {
    /// Its number.
    pub rule: Rule,
    /// Where sysfs has it.
    pub node: PathBuf,
    /// What it says that it is; empty in records of an older daemon.
    #[serde(default)]
    pub identity: String,
}

impl Plugged {
    /// This device.
    pub fn of(device: &usb::UsbDevice) -> Self {
        let serial = device.serial.as_deref().unwrap_or_default();
        Self {
            rule: Rule::of(device.device),
            node: device.node.clone(),
            identity: format!(
                "{:04x}:{:04x} {serial}",
                device.id.vendor, device.id.product
            ),
        }
    }

    /// Whether it is this one. Numbers are given again: another device may have that of one that was plugged out.
    pub fn is(&self, device: &usb::UsbDevice) -> bool {
        let same = self.identity.is_empty() || self.identity == Self::of(device).identity;
        same && self.rule.covers(device.device)
    }
}

/// A container's devices before its launch.
#[derive(Debug)]
pub struct Prepared {
    /// What it may do, and has.
    pub held: Held,
    /// Its `/dev`.
    pub dev: Dev,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Devices {
    /// Nobody has anything yet.
    pub fn new(dev: PathBuf, sys: PathBuf) -> Self {
        Self {
            ledger: Ledger::default(),
            dev,
            sys,
        }
    }

    /// Root of the host's sysfs.
    pub fn sys(&self) -> &Path {
        &self.sys
    }

    /// Whether the machine has sound.
    pub fn has_sound(&self) -> bool {
        let all = node::all(&self.dev).unwrap_or_default();
        all.iter().any(|node| sound().covers(node.device))
    }

    /// Reserves what a container wants and prepares its `/dev`. Whoever calls this releases it again.
    pub fn prepare(
        &self,
        id: ContainerId,
        name: &str,
        mut wanted: Wanted,
        ids: Option<IdRange>,
    ) -> Result<Prepared, String> {
        let mut plugged = Vec::new();
        for device in usb::all(&self.sys) {
            if let Some(usb) = wanted.usb.iter().find(|usb| usb.matches(&device)) {
                plugged.push(Plugged::of(&device));
                wanted.grant(usb.assign, Rule::of(device.device));
            }
        }
        let claimed = self.ledger.claim(id, name, &wanted)?;
        let dev = Dev::new(ids).map_err(|error| error.to_string())?;
        for node in self.nodes(&claimed.rules)? {
            dev.add(&node).map_err(|error| error.to_string())?;
        }
        Ok(Prepared {
            held: Held {
                rules: claimed.rules,
                shared: wanted.shared,
                own: wanted.own,
                usb: plugged,
                dev: Some(dev.id().map_err(|error| error.to_string())?),
            },
            dev,
            warnings: claimed.warnings,
        })
    }

    /// Nodes of the host that these rules let a container open.
    pub fn nodes(&self, rules: &Rules) -> Result<Vec<Node>, String> {
        let open = Access::READ.or(Access::WRITE);
        let mut all = node::all(&self.dev).map_err(|error| error.to_string())?;
        all.retain(|node| !rules.granted(node.device).and(open).is_empty());
        Ok(all)
    }

    /// Brings all nodes of a `/dev` into line with the machine: those of devices that have come appear, those of
    /// devices that have gone go.
    pub fn renew(&self, dev: &Dev, rules: &Rules) -> Result<(), String> {
        let host = node::all(&self.dev).map_err(|error| error.to_string())?;
        let gone = |device| {
            // Of a driver that is not loaded yet there is a node alone, of a host without devtmpfs a device alone.
            let known = host.iter().any(|node| node.device == device);
            !known && !self.sys.join(sysfs_name(device)).exists()
        };
        for (name, device) in dev.nodes().map_err(|error| error.to_string())? {
            if gone(device) {
                dev.remove(&name, device)
                    .map_err(|error| error.to_string())?;
            }
        }
        for node in self.nodes(rules)? {
            dev.add(&node).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The node of this name on the host.
    pub fn node(&self, name: &Path) -> Option<Node> {
        node::find(&self.dev, name)
    }

    /// Brings the nodes in a `/dev` into line with changed rules: those that a rule about these devices now
    /// grants appear, the others go.
    pub fn follow(&self, dev: &Dev, rules: &Rules, about: &Rule) -> Result<(), String> {
        let open = Access::READ.or(Access::WRITE);
        let all = node::all(&self.dev).map_err(|error| error.to_string())?;
        for node in all.iter().filter(|node| about.covers(node.device)) {
            let done = match rules.granted(node.device).and(open).is_empty() {
                true => dev.remove(&node.name, node.device),
                false => dev.add(node),
            };
            done.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Where sysfs has a device that is there.
fn sysfs_name(device: Device) -> String {
    let kind = match device.kind {
        Kind::Char => "char",
        Kind::Block => "block",
    };
    format!("dev/{kind}/{}:{}", device.major, device.minor)
}

/// Confines a group to the devices that a container may use. Where no kernel can do it, a container of an own
/// user namespace still has no other nodes than those that it was given, and can make none.
pub fn confine(group: &Group, held: &Held, user_namespace: bool) -> Result<Option<String>, String> {
    let confined = group.confine_devices(&held.rules);
    match confined.map_err(|error| error.to_string())? {
        true => Ok(None),
        false if user_namespace && held.own.is_empty() => Ok(Some(
            "this kernel can confine the container to its devices neither by cgroup2 nor by the v1 controller; \
             it only lacks the nodes of others"
                .into(),
        )),
        false => Err(
            "this kernel cannot confine the container to its devices, which one without a user namespace or \
             with `assign_dev` needs; mount cgroup2, or the v1 `devices` controller"
                .into(),
        ),
    }
}

/// What of a plugged device a container wants.
pub fn wants<'a>(usb: &'a [Usb], device: &usb::UsbDevice) -> Option<&'a Usb> {
    usb.iter().find(|usb| usb.matches(device))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn nodes_of_devices_that_have_gone_are_removed_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for name in ["dev", "sys/dev/char/10:77"] {
            fs::create_dir_all(place(name)).unwrap();
        }
        let devices = Devices::new(place("dev"), place("sys"));
        let node = |name: &str, minor| Node {
            name: name.into(),
            device: Device {
                kind: Kind::Char,
                major: 10,
                minor,
            },
            mode: 0o600,
            owner: (0, 0),
        };
        let dev = Dev::new(None).unwrap();
        // 77 has no node on the host, but is there; 78 and 79 are gone.
        let nodes = [node("alive", 77), node("gone", 78), node("a/b/gone", 79)];
        for node in &nodes {
            dev.add(node).unwrap();
        }
        devices.renew(&dev, &Rules::default()).unwrap();
        let left = dev.nodes().unwrap();
        assert_eq!(left, [("alive".into(), nodes[0].device)]);
    }
}
