//! Control files of version 2: one group, with the controllers that its parents hand down.

use std::path::{Path, PathBuf};

use super::{
    limits::{Controller, Limit},
    read, read_number, sum_of, table,
    usage::Usage,
    write,
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

impl Files<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl super::Files for Files<'_> {
    fn set(&self, limit: &Limit) -> Result<bool> {
        let (file, value) = match limit {
            Limit::Memory(bytes) => ("memory.max", bytes.to_string()),
            // Absent where the kernel does not count swap.
            Limit::Swap { swap, .. } => ("memory.swap.max", swap.to_string()),
            Limit::EndTogether => ("memory.oom.group", "1".to_owned()),
            Limit::Pids(most) => ("pids.max", most.to_string()),
            Limit::CpuWeight(weight) => ("cpu.weight", weight.to_string()),
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
            Controller::Cpuacct => usage.cpu = table(&self.path("cpu.stat"), "usage_usec"),
            Controller::Memory => {
                let droppable = table(&self.path("memory.stat"), "inactive_file");
                let used = number("memory.current");
                usage.memory = used.map(|used| used.saturating_sub(droppable.unwrap_or(0)));
                // Linux 5.19.
                usage.memory_peak = number("memory.peak");
                usage.memory_limit = number("memory.max");
                usage.swap = number("memory.swap.current");
                usage.oom_kills = table(&self.path("memory.events"), "oom_kill");
            }
            Controller::Pids => {
                usage.pids = number("pids.current");
                usage.pids_limit = number("pids.max");
            }
            Controller::Io => {
                let text = read(&self.path("io.stat"));
                let bytes = |key: &str| {
                    text.as_deref().map(|text| {
                        sum_of(text.split_ascii_whitespace(), |word| {
                            word.strip_prefix(key)?.parse().ok()
                        })
                    })
                };
                usage.read = bytes("rbytes=");
                usage.written = bytes("wbytes=");
            }
            Controller::Cpu | Controller::Cpuset | Controller::Devices => {}
        }
    }
}
