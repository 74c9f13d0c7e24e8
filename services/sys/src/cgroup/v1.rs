//! Control files of version 1: a hierarchy and a group for each controller.

use std::{fs, io, path::Path};

use super::{
    files::{Memory, Place, sum_of},
    limits::{Controller, Limit},
    read, write,
};
use crate::{
    device::Rule,
    error::{Context, Error, Result},
};

/// Controllers that containers get a group for, besides the freezer and `pids`.
pub(super) const CONTROLLERS: &[Controller] = &[
    Controller::Memory,
    Controller::Cpu,
    Controller::Cpuacct,
    Controller::Cpuset,
    Controller::Io,
    Controller::Devices,
];

/// The mount option that a hierarchy is known by.
pub(super) fn name(controller: Controller) -> &'static str {
    match controller {
        Controller::Io => "blkio",
        other => other.name(),
    }
}

const MEMORY: Memory = Memory {
    used: Place::File("memory.usage_in_bytes"),
    droppable: Place::Line("memory.stat", "total_inactive_file"),
    peak: Place::File("memory.max_usage_in_bytes"),
    limit: Place::File("memory.limit_in_bytes"),
    swap: Place::Line("memory.stat", "total_swap"),
    oom_kills: Place::Line("memory.oom_control", "oom_kill"),
};
/// What version 1 has as everybody's share, for the weight of 100 of version 2.
const SHARES: u64 = 1024;

/// A group in the hierarchy of one controller.
pub(super) struct Files<'a>(pub(super) &'a Path);

impl super::files::Files for Files<'_> {
    fn group(&self) -> &Path {
        self.0
    }

    fn keeper(&self, limit: &Limit) -> Option<(&'static str, String)> {
        Some(match limit {
            Limit::Memory(bytes) => ("memory.limit_in_bytes", bytes.to_string()),
            Limit::Swap { memory, swap } => (
                "memory.memsw.limit_in_bytes",
                memory.saturating_add(*swap).to_string(),
            ),
            Limit::EndTogether => return None,
            Limit::Pids(most) => ("pids.max", most.to_string()),
            Limit::CpuWeight(weight) => (
                "cpu.shares",
                (u64::from(*weight) * SHARES / 100).to_string(),
            ),
            Limit::Cpus(list) => ("cpuset.cpus", list.clone()),
        })
    }

    fn memory(&self) -> &'static Memory {
        &MEMORY
    }

    fn cpu(&self) -> Option<u64> {
        let nanos = Place::File("cpuacct.usage").read(self.0)?;
        Some(nanos / 1000)
    }

    fn disks(&self) -> [Option<u64>; 2] {
        let text = read(&self.path("blkio.throttle.io_service_bytes_recursive"));
        ["Read", "Write"].map(|word| {
            let number = |line: &str| {
                let mut words = line.split(' ').skip(1);
                (words.next()? == word).then(|| words.next()?.parse().ok())?
            };
            text.as_deref().map(|text| sum_of(text.lines(), number))
        })
    }
}

/// A group of version 1 has no processors and no memory nodes before it gets some: each group of this path gets what
/// its parent has.
pub(super) fn fill_cpuset(root: &Path, path: &[&str]) -> Result<()> {
    let mut parent = root.to_owned();
    for name in path {
        let group = parent.join(name);
        copy_cpuset(&parent, &group)?;
        parent = group;
    }
    Ok(())
}

fn copy_cpuset(from: &Path, to: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (from.join(name), to.join(name));
        let all = fs::read_to_string(&from).context("read", from.display())?;
        if read(&to).is_none_or(|there| there.trim() != all.trim()) {
            write(&to, all.trim())?;
        }
    }
    Ok(())
}

/// Makes the list of what is allowed this one. The kernel changes it entry by entry: what is new is added first,
/// so that at no moment something is missing that both lists have.
pub(super) fn set_devices(group: &Path, allowed: &[Rule]) -> Result<()> {
    let list = group.join("devices.list");
    let text = fs::read_to_string(&list).context("read", list.display())?;
    let mut there = Vec::new();
    for line in text.lines() {
        let rule: Rule = line
            .parse()
            .map_err(|_| Error::invalid("parse", list.display(), line))?;
        there.push(rule);
    }
    let deny = group.join("devices.deny");
    // A new group may do everything; the kernel shows that as one line for all kinds.
    if there.iter().any(|rule| rule.kind.is_none()) {
        write(&deny, "a")?;
        there.clear();
    }
    for rule in allowed.iter().filter(|rule| !there.contains(rule)) {
        write(&group.join("devices.allow"), &rule.to_string())?;
    }
    for old in there.iter().filter(|rule| !allowed.contains(rule)) {
        // The kernel has one entry for a pattern; only the rights that go are taken from it.
        let same =
            |rule: &&Rule| (rule.kind, rule.major, rule.minor) == (old.kind, old.major, old.minor);
        let kept = allowed.iter().find(same);
        let gone = Rule {
            access: kept.map_or(old.access, |kept| old.access.without(kept.access)),
            ..*old
        };
        if !gone.access.is_empty() {
            match write(&deny, &gone.to_string()) {
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}
