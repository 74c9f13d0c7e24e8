//! Control files of version 1: a hierarchy and a group for each controller.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    limits::{Controller, Limit},
    read, read_number, sum_of, table,
    usage::Usage,
    write,
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

/// More bytes than this mean no limit: the kernel's largest number of pages.
const UNLIMITED: u64 = 1 << 62;
/// What version 1 has as everybody's share, for the weight of 100 of version 2.
const SHARES: u64 = 1024;

/// A group in the hierarchy of one controller.
pub(super) struct Files<'a>(pub(super) &'a Path);

impl Files<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl super::Files for Files<'_> {
    fn set(&self, limit: &Limit) -> Result<bool> {
        let (file, value) = match limit {
            Limit::Memory(bytes) => ("memory.limit_in_bytes", bytes.to_string()),
            // Absent where the kernel does not count swap.
            Limit::Swap { memory, swap } => (
                "memory.memsw.limit_in_bytes",
                memory.saturating_add(*swap).to_string(),
            ),
            Limit::EndTogether => return Ok(false),
            Limit::Pids(most) => ("pids.max", most.to_string()),
            Limit::CpuWeight(weight) => (
                "cpu.shares",
                (u64::from(*weight) * SHARES / 100).to_string(),
            ),
            Limit::Cpus(list) => ("cpuset.cpus", list.clone()),
        };
        let path = self.path(file);
        if !path.exists() {
            return Ok(false);
        }
        write(&path, &value).map(|()| true)
    }

    fn count(&self, controller: Controller, usage: &mut Usage) {
        let number = |name: &str| read_number(&self.path(name));
        match controller {
            Controller::Cpuacct => usage.cpu = number("cpuacct.usage").map(|nanos| nanos / 1000),
            Controller::Memory => {
                let droppable = table(&self.path("memory.stat"), "total_inactive_file");
                let used = number("memory.usage_in_bytes");
                usage.memory = used.map(|used| used.saturating_sub(droppable.unwrap_or(0)));
                usage.memory_peak = number("memory.max_usage_in_bytes");
                let limit = number("memory.limit_in_bytes");
                usage.memory_limit = limit.filter(|limit| *limit < UNLIMITED);
                usage.swap = table(&self.path("memory.stat"), "total_swap");
                usage.oom_kills = table(&self.path("memory.oom_control"), "oom_kill");
            }
            Controller::Pids => {
                usage.pids = number("pids.current");
                usage.pids_limit = number("pids.max");
            }
            Controller::Io => {
                let text = read(&self.path("blkio.throttle.io_service_bytes_recursive"));
                let bytes = |word: &str| {
                    text.as_deref().map(|text| {
                        sum_of(text.lines(), |line| {
                            let mut words = line.split(' ').skip(1);
                            (words.next()? == word).then(|| words.next()?.parse().ok())?
                        })
                    })
                };
                usage.read = bytes("Read");
                usage.written = bytes("Write");
            }
            Controller::Cpu | Controller::Cpuset | Controller::Devices => {}
        }
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
