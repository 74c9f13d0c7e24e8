//! What a container uses.

use super::limits::Controller;

/// Controllers that count something.
pub(super) const COUNTED: &[Controller] = &[
    Controller::Cpuacct,
    Controller::Memory,
    Controller::Pids,
    Controller::Io,
];

/// Counters of a group; `None` where this machine does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time of processors since the start, in microseconds.
    pub cpu: Option<u64>,
    /// Memory in use, in bytes, without what the kernel can drop at once.
    pub memory: Option<u64>,
    /// The most that was ever in use, in bytes, with what the kernel could have dropped.
    pub memory_peak: Option<u64>,
    /// The limit of memory, in bytes.
    pub memory_limit: Option<u64>,
    /// Swap in use, in bytes.
    pub swap: Option<u64>,
    /// How often a process was ended because memory ran out.
    pub oom_kills: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The most of them that there may be.
    pub pids_limit: Option<u64>,
    /// Bytes read from disks.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
}
