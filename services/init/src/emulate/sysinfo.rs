//! sysinfo(2) tells of the container, not of the machine.

use std::{fs, path::PathBuf};

use cml_sys::seccomp::notify::Call;

use super::{Emulation, Outcome, caller::Caller, caller::last_error};

pub(crate) fn emulate(emulation: &Emulation, caller: &Caller<'_>, call: &Call) -> Outcome {
    // SAFETY: all-zero is valid for numbers, and the call fills the structure.
    let (done, mut info) = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        (libc::sysinfo(&raw mut info), info)
    };
    if done != 0 {
        return Err(last_error());
    }
    let unit = u64::from(info.mem_unit.max(1));
    let bytes = |units: libc::c_ulong| units * unit;
    let groups = Figures(&emulation.plan.groups);
    let memory = groups.room(
        ["memory.max", "memory.limit_in_bytes"],
        ["memory.current", "memory.usage_in_bytes"],
        (bytes(info.totalram), bytes(info.freeram)),
    );
    let swap = groups.room(
        ["memory.swap.max", "memory.swap.max"],
        ["memory.swap.current", "memory.swap.current"],
        (bytes(info.totalswap), bytes(info.freeswap)),
    );
    (info.totalram, info.freeram) = memory;
    (info.totalswap, info.freeswap) = swap;
    (info.sharedram, info.bufferram, info.mem_unit) = (0, 0, 1);
    // What a group counts is what a guest can see; the kernel's field has 16 bits.
    let processes = groups.first(["pids.current"]).unwrap_or(1);
    info.procs = u16::try_from(processes).unwrap_or(u16::MAX);
    let offsets = caller.text("timens_offsets").unwrap_or_default();
    info.uptime += boot_offset(&offsets).unwrap_or(0);
    // SAFETY: the structure is plain numbers, and lives as long as the slice.
    let bytes = unsafe {
        std::slice::from_raw_parts((&raw const info).cast::<u8>(), size_of::<libc::sysinfo>())
    };
    caller.write(call.args[0], bytes)?;
    Ok(0)
}

/// How much later the clock of the caller's time namespace started, in seconds: time_namespaces(7).
fn boot_offset(text: &str) -> Option<i64> {
    let line = text.lines().find(|line| line.starts_with("boottime"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What the container's groups say.
struct Figures<'a>(&'a [PathBuf]);

impl Figures<'_> {
    /// The number in the first of these files that one of the groups has.
    fn first<const N: usize>(&self, names: [&str; N]) -> Option<u64> {
        let paths = self
            .0
            .iter()
            .flat_map(|dir| names.map(|name| dir.join(name)));
        let texts = paths.filter_map(|path| fs::read_to_string(path).ok());
        // `max` is no number: no limit.
        texts.filter_map(|text| text.trim().parse().ok()).next()
    }

    /// All there is and what is free of it: the machine's, or less if a group has a limit.
    fn room(&self, limit: [&str; 2], used: [&str; 2], (total, free): (u64, u64)) -> (u64, u64) {
        match self.first(limit).filter(|limit| *limit < total) {
            None => (total, free),
            Some(limit) => {
                let used = self.first(used).unwrap_or(0);
                (limit, limit.saturating_sub(used).min(free))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_limit_of_a_group_is_all_the_memory_there_is() {
        let dir = std::env::temp_dir().join(format!("cml-figures-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let dirs = [dir.join("absent"), dir.clone()];
        let figures = Figures(&dirs);
        let room = || figures.room(["memory.max", "x"], ["memory.current", "x"], (1000, 900));
        assert_eq!(room(), (1000, 900));
        fs::write(dir.join("memory.max"), "max\n").unwrap();
        assert_eq!(room(), (1000, 900));
        fs::write(dir.join("memory.max"), "300\n").unwrap();
        fs::write(dir.join("memory.current"), "100\n").unwrap();
        assert_eq!(room(), (300, 200));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_offset_of_a_time_namespace_is_found() {
        let text = "monotonic         -100         0\nboottime          -120         0\n";
        assert_eq!(boot_offset(text), Some(-120));
        assert_eq!(boot_offset(""), None);
    }
}
