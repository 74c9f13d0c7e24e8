//! Control files of version 2: one group, with the controllers that its parents hand down.

use std::path::Path;

use super::{
    files::{Memory, Place, sum_of},
    limits::{Controller, Limit},
    read, write,
};
use crate::error::Result;

/// Controllers that containers get.
const WANTED: &[Controller] = &[
    Controller::Memory,
    Controller::Pids,
    Controller::Cpu,
    Controller::Cpuset,
    Controller::Io,
];

/// How many groups a container may make: far more than systemd has services, far fewer than the 65,535 with memory
/// that all of a machine share.
const DESCENDANTS_MAX: u32 = 1000;
/// How deep they may lie: with names of 255 bytes their paths are still shorter than `PATH_MAX`, so that we can
/// remove what a guest has made.
const DEPTH_MAX: u32 = 14;

/// Bounds what the owner of a part of this group can make below it.
pub(super) fn bound(group: &Path) -> Result<()> {
    for (name, most) in [
        ("cgroup.max.descendants", DESCENDANTS_MAX),
        ("cgroup.max.depth", DEPTH_MAX),
    ] {
        write(&group.join(name), &most.to_string())?;
    }
    Ok(())
}

/// Has these groups, the root first, hand down every controller that there is. A group with processes of its
/// own, such as the one of a daemon in a container, hands none down; then they count as missing (runtime.md 9,
/// number 63).
pub(super) fn enable<P: AsRef<Path>>(groups: &[P]) {
    for group in groups.iter().map(AsRef::as_ref) {
        let there = read(&group.join("cgroup.controllers")).unwrap_or_default();
        let on = read(&group.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in WANTED {
            let name = controller.name();
            if is_listed(&there, name) && !is_listed(&on, name) {
                let _ = write(&group.join("cgroup.subtree_control"), &format!("+{name}"));
            }
        }
    }
}

/// Whether a group has this controller.
pub(super) fn has(group: &Path, controller: Controller) -> bool {
    let name = match controller {
        Controller::Cpuacct => Controller::Cpu.name(),
        other => other.name(),
    };
    read(&group.join("cgroup.controllers")).is_some_and(|all| is_listed(&all, name))
}

fn is_listed(words: &str, name: &str) -> bool {
    words.split_ascii_whitespace().any(|word| word == name)
}

/// A group.
pub(super) struct Files<'a>(pub(super) &'a Path);

const MEMORY: Memory = Memory {
    used: Place::File("memory.current"),
    droppable: Place::Line("memory.stat", "inactive_file"),
    // Linux 5.19.
    peak: Place::File("memory.peak"),
    limit: Place::File("memory.max"),
    swap: Place::File("memory.swap.current"),
    oom_kills: Place::Line("memory.events", "oom_kill"),
};

impl super::files::Files for Files<'_> {
    fn group(&self) -> &Path {
        self.0
    }

    fn keeper(&self, limit: &Limit) -> Option<(&'static str, String)> {
        Some(match limit {
            Limit::Memory(bytes) => ("memory.max", bytes.to_string()),
            Limit::Swap { swap, .. } => ("memory.swap.max", swap.to_string()),
            Limit::EndTogether => ("memory.oom.group", "1".to_owned()),
            Limit::Pids(most) => ("pids.max", most.to_string()),
            Limit::CpuWeight(weight) => ("cpu.weight", weight.to_string()),
            Limit::Cpus(list) => ("cpuset.cpus", list.clone()),
        })
    }

    fn memory(&self) -> &'static Memory {
        &MEMORY
    }

    fn cpu(&self) -> Option<u64> {
        Place::Line("cpu.stat", "usage_usec").read(self.0)
    }

    fn disks(&self) -> [Option<u64>; 2] {
        let text = read(&self.path("io.stat"));
        ["rbytes=", "wbytes="].map(|key| {
            let number = |word: &str| word.strip_prefix(key)?.parse().ok();
            let words = |text: &str| sum_of(text.split_ascii_whitespace(), number);
            text.as_deref().map(words)
        })
    }
}
