//! What the two versions of control groups have in common: limits are written to files, figures are read from them.

use std::path::{Path, PathBuf};

use super::{
    limits::{Controller, Limit},
    usage::Usage,
    write,
};
use crate::error::Result;

/// The control files of a group in one hierarchy: all that the two versions differ in.
pub(super) trait Files {
    /// Where they are.
    fn group(&self) -> &Path;

    /// The file that keeps a limit, and what it is told; `None` if this version has no such limit.
    fn keeper(&self, limit: &Limit) -> Option<(&'static str, String)>;

    /// Where the figures of memory are.
    fn memory(&self) -> &'static Memory;

    /// Time of processors, in microseconds.
    fn cpu(&self) -> Option<u64>;

    /// Bytes read from and written to disks.
    fn disks(&self) -> [Option<u64>; 2];

    /// One of its files.
    fn path(&self, name: &str) -> PathBuf {
        self.group().join(name)
    }

    /// Sets a limit; false when this kernel has no file for it, as for swap where it does not count that.
    fn set(&self, limit: &Limit) -> Result<bool> {
        let keeper = self.keeper(limit);
        let keeper = keeper.map(|(file, value)| (self.path(file), value));
        match keeper.filter(|(path, _)| path.exists()) {
            Some((path, value)) => write(&path, &value).map(|()| true),
            None => Ok(false),
        }
    }

    /// Adds what a controller has counted.
    fn count(&self, controller: Controller, usage: &mut Usage) {
        let figure = |place: Place| place.read(self.group());
        match controller {
            Controller::Cpuacct => usage.cpu = self.cpu(),
            Controller::Memory => {
                let memory = self.memory();
                let droppable = figure(memory.droppable).unwrap_or(0);
                usage.memory = figure(memory.used).map(|used| used.saturating_sub(droppable));
                usage.memory_peak = figure(memory.peak);
                usage.memory_limit = figure(memory.limit).filter(|limit| *limit < UNLIMITED);
                usage.swap = figure(memory.swap);
                usage.oom_kills = figure(memory.oom_kills);
            }
            Controller::Pids => {
                usage.pids = figure(Place::File("pids.current"));
                usage.pids_limit = figure(Place::File("pids.max"));
            }
            Controller::Io => [usage.read, usage.written] = self.disks(),
            Controller::Cpu | Controller::Cpuset | Controller::Devices => {}
        }
    }
}

/// More bytes than this mean no limit: the kernel's largest number of pages, which version 1 shows for it.
const UNLIMITED: u64 = 1 << 62;

/// Where a figure is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A file that holds one number; `max` is none.
    File(&'static str),
    /// The line of a file that begins with a word.
    Line(&'static str, &'static str),
}

impl Place {
    pub(super) fn read(self, group: &Path) -> Option<u64> {
        match self {
            Self::File(name) => super::read(&group.join(name))?.trim().parse().ok(),
            Self::Line(name, word) => {
                let text = super::read(&group.join(name))?;
                let rest = text
                    .lines()
                    .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
                rest?.trim().parse().ok()
            }
        }
    }
}

/// Where the figures of memory are.
#[derive(Debug)]
pub(super) struct Memory {
    /// All of it.
    pub(super) used: Place,
    /// What of it the kernel can drop at once.
    pub(super) droppable: Place,
    /// The most that there was.
    pub(super) peak: Place,
    /// The limit.
    pub(super) limit: Place,
    /// Swap.
    pub(super) swap: Place,
    /// How often a process was ended.
    pub(super) oom_kills: Place,
}

/// The sum of what a part of a text stands for.
pub(super) fn sum_of<'a>(
    parts: impl Iterator<Item = &'a str>,
    number: impl Fn(&'a str) -> Option<u64>,
) -> u64 {
    parts.filter_map(number).sum()
}
