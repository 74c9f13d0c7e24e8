//! What a container may use: pure data, the same for both versions of control groups.

use serde::{Deserialize, Serialize};

/// A part of the kernel that limits and counts something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processes and threads.
    Pids,
    /// Shares of processors.
    Cpu,
    /// Time of processors; part of `cpu` in version 2.
    Cpuacct,
    /// Which processors.
    Cpuset,
    /// Disks.
    Io,
    /// Device nodes; a BPF program in version 2.
    Devices,
}

impl Controller {
    /// What the kernel calls it in version 2.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
            Self::Devices => "devices",
        }
    }
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Bytes of memory.
    Memory(u64),
    /// Bytes of swap beside them.
    Swap {
        /// The limit of memory: version 1 limits the sum.
        memory: u64,
        /// The limit of swap.
        swap: u64,
    },
    /// When memory runs out, all processes end, and not one of them (version 2 only).
    EndTogether,
    /// Processes and threads.
    Pids(u64),
    /// Share of the processors under load, 1 to 10000; 100 is everybody's.
    CpuWeight(u32),
    /// Processors, as in cpuset(7): `0-1,3`.
    Cpus(String),
}

impl Limit {
    /// What keeps it.
    pub fn controller(&self) -> Controller {
        match self {
            Self::Memory(_) | Self::Swap { .. } | Self::EndTogether => Controller::Memory,
            Self::Pids(_) => Controller::Pids,
            Self::CpuWeight(_) => Controller::Cpu,
            Self::Cpus(_) => Controller::Cpuset,
        }
    }
}
