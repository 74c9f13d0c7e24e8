//! What a container uses of the device.

use std::fs;

use cml_bus::id::ContainerId;
use cml_wire::{
    proto::{ContainerConfig, ContainerStats},
    text,
};

use crate::{env::Env, fsm::State, record::Found};

/// What a container uses now; nothing but its name if it does not run.
pub fn of(env: &Env, id: ContainerId, name: String, state: State) -> ContainerStats {
    let mut stats = ContainerStats {
        uuid: id.to_string(),
        name,
        state: state.wire().into(),
        taken: now(),
        ..Default::default()
    };
    if state.is_at_rest() {
        return stats;
    }
    // From the record, as it is whoever has launched it.
    let Found::Record(record) = env.records.read(id) else {
        return stats;
    };
    let Some(running) = record.running else {
        return stats;
    };
    let usage = running.group.usage();
    stats.cpu_usec = usage.cpu;
    stats.memory = usage.memory;
    stats.memory_peak = usage.memory_peak;
    stats.memory_limit = usage.memory_limit;
    stats.swap = usage.swap;
    stats.oom_kills = usage.oom_kills;
    stats.pids = usage.pids;
    stats.pids_limit = usage.pids_limit;
    stats.disk_read = usage.read;
    stats.disk_written = usage.written;
    let config: Option<ContainerConfig> = text::parse(running.config.as_bytes()).ok();
    // Otherwise these would be the host's.
    if config.is_some_and(|config| config.netns())
        && let Ok(text) = fs::read_to_string(format!("/proc/{}/net/dev", running.pid))
    {
        let (received, sent) = traffic(&text);
        stats.net_received = Some(received);
        stats.net_sent = Some(sent);
    }
    stats
}

/// Microseconds since boot.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}

/// Bytes received and sent by all interfaces but the loopback, as proc_pid_net(5) shows them.
fn traffic(text: &str) -> (u64, u64) {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let outward = lines.filter(|(name, _)| name.trim() != "lo");
    outward.fold((0, 0), |(received, sent), (_, numbers)| {
        let field = |at| {
            let word = numbers.split_whitespace().nth(at);
            word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        (received + field(0), sent + field(8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_summed_up_without_the_loopback() {
        let text = "Inter-|   Receive                      |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
             lo:     500       5    0    0    0     0          0         0      500       5 0 0 0 0 0 0\n  \
             host0:    1000      10    0    0    0     0          0         0     2000      20 0 0 0 0 0 0\n  \
             eth0:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (1001, 2002));
        assert_eq!(traffic(""), (0, 0));
    }
}
