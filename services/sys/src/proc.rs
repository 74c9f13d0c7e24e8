//! What procfs tells about processes and the machine.

use std::{fs, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Error, Result};

/// The kernel's identity of this boot.
///
/// # Errors
/// procfs is not mounted.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path)
        .context("read", path)?
        .trim()
        .to_owned())
}

/// What proc_pid_stat(5) says about a process, read once.
struct Stat(String);

impl Stat {
    fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        fs::read_to_string(&path).context("read", &path).map(Self)
    }

    /// A field by its number in the manual, from 3 on.
    fn field(&self, number: usize) -> Option<&str> {
        // The name in field 2 may hold anything, also spaces and brackets; fields count from its last one.
        let (_, rest) = self.0.rsplit_once(')')?;
        rest.split_whitespace().nth(number - 3)
    }

    fn start_time(&self) -> Option<u64> {
        self.field(22)?.parse().ok()
    }

    fn session(&self) -> Option<i32> {
        self.field(6)?.parse().ok()
    }

    fn is_zombie(&self) -> bool {
        matches!(self.field(3), Some("Z" | "X"))
    }
}

/// The session of a process, by the number of its founder; `None` of one that has ended.
pub(crate) fn session(pid: i32) -> Option<i32> {
    let stat = Stat::of(pid).ok().filter(|stat| !stat.is_zombie())?;
    stat.session()
}

/// The root directory of a process, for paths that mean what they mean to it.
///
/// # Errors
/// The process is gone.
pub fn root_of(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).context("open", &path)
}

/// When a process started, in clock ticks after boot.
///
/// # Errors
/// The process is gone.
pub fn start_time(pid: i32) -> Result<u64> {
    let started = Stat::of(pid)?.start_time();
    started.ok_or_else(|| Error::invalid("parse", format!("/proc/{pid}/stat"), "no start time"))
}

/// How a process ended that waits to be collected, whoever its parent is. `None` when it runs, is gone, or is not the one that started then.
pub fn ended(pid: i32, start: u64) -> Option<crate::pidfd::Ended> {
    let look = || {
        let stat = Stat::of(pid).ok()?;
        let waits = stat.start_time() == Some(start) && stat.field(3) == Some("Z");
        let status = stat.field(52)?.parse().ok()?;
        waits.then(|| crate::pidfd::Ended::of_wait_status(status))
    };
    let ended = look()?;
    match ended {
        // While it is being collected the kernel tells what ended the thread, and not the process: SIGKILL, where its
        // guest was switched off.
        crate::pidfd::Ended::Signalled(libc::SIGKILL) => look().filter(|again| *again == ended),
        ended => Some(ended),
    }
}

/// Whether a process has ended and only waits to be collected.
pub fn is_zombie(pid: i32) -> bool {
    Stat::of(pid).is_ok_and(|stat| stat.is_zombie())
}

/// Seconds since boot, sleeping included.
pub fn boottime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned()
}

/// The memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What holds nothing.
    pub free: u64,
    /// What programs can still get.
    pub available: u64,
}

/// What proc_meminfo(5) says.
///
/// # Errors
/// procfs is not mounted, or says something else.
pub fn memory() -> Result<Memory> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).context("read", path)?;
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = rest.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| Error::invalid("parse", path, name))
    };
    Ok(Memory {
        total: field("MemTotal:")?,
        free: field("MemFree:")?,
        available: field("MemAvailable:")?,
    })
}

/// Raises the number of files this process may open to what the administrator allows.
///
/// # Errors
/// What the kernel said.
pub fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .context("raise limit of", "open files")
}

/// Cores of this process hold secrets: the kernel shall not write any (SEC-16).
///
/// # Errors
/// What the kernel said.
pub fn forbid_core_dumps() -> Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )
    .context("limit", "core files")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbid", "core dumps")
}

/// Keeps all memory of this process out of the swap, where PINs and keys would outlive it. Memory is locked
/// when it is first used, so nothing is taken that is not needed.
///
/// # Errors
/// The process may not lock as much as it needs.
pub fn lock_memory() -> Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: takes flags only, and changes nothing that a program can observe.
    match unsafe { libc::mlockall(flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("lock", "memory"),
    }
}

/// Gives this process a mount namespace of its own in which the host's mounts still appear (LIF-10).
/// Must run before the first thread is started: the namespace belongs to the calling thread.
///
/// # Errors
/// What the kernel said.
pub fn own_mount_namespace() -> Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: CLONE_NEWNS does not touch the file descriptor table or signal handling that Rust code
    // relies on; the caller has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("unshare", "mount namespace")?;
    crate::mount::make_slave()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_own_start_time_is_known_and_stable() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(pid).unwrap() > 0);
        assert_eq!(start_time(pid).unwrap(), start_time(pid).unwrap());
        assert!(!is_zombie(pid));
        assert_eq!(ended(pid, start_time(pid).unwrap()), None);
    }

    #[test]
    fn the_status_of_an_uncollected_process_is_readable() {
        // The one signal that nobody can have made us ignore.
        let mut child = std::process::Command::new("sh")
            .args(["-c", "kill -KILL $$"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while !is_zombie(pid) {
            std::thread::yield_now();
        }
        let start = start_time(pid).unwrap();
        assert_eq!(
            ended(pid, start),
            Some(crate::pidfd::Ended::Signalled(libc::SIGKILL))
        );
        assert_eq!(ended(pid, start + 1), None);
        child.wait().unwrap();
    }
}
