//! What containers use: a table for people, counters for programs.

use cml_wire::proto::ContainerStats;
use serde_json::{Value, json};

use super::{json::present, printable, state_name, table};

/// A table. Shares of processors need an earlier look; without one there is the time since the start.
pub fn table(all: &[ContainerStats], earlier: &[ContainerStats], width: Option<usize>) -> String {
    if all.is_empty() {
        return "no container runs\n".into();
    }
    let rows = all.iter().map(|one| {
        let before = earlier.iter().find(|before| before.uuid == one.uuid);
        [
            printable(&one.name),
            state_name(one.state).into(),
            before
                .and_then(|before| share(before, one))
                .unwrap_or_else(|| shown(one.cpu_usec, time)),
            of(one.memory, one.memory_limit, table::size),
            shown(one.oom_kills, |number| number.to_string()),
            of(one.pids, one.pids_limit, |number| number.to_string()),
            pair(one.disk_read, one.disk_written),
            pair(one.net_received, one.net_sent),
        ]
    });
    let header = [
        "NAME",
        "STATE",
        "CPU",
        "MEMORY",
        "OOM KILLS",
        "PROCESSES",
        "DISK R/W",
        "NETWORK IN/OUT",
    ];
    table::table(header, rows, width)
}

/// Percent of one processor between two looks; nothing if it was started anew in between.
fn share(before: &ContainerStats, now: &ContainerStats) -> Option<String> {
    let used = now.cpu_usec?.checked_sub(before.cpu_usec?)?;
    let passed = now
        .taken
        .checked_sub(before.taken)
        .filter(|time| *time > 0)?;
    let tenths = u128::from(used) * 1000 / u128::from(passed);
    Some(format!("{}.{}%", tenths / 10, tenths % 10))
}

fn shown(value: Option<u64>, text: impl Fn(u64) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

fn of(value: Option<u64>, limit: Option<u64>, text: impl Fn(u64) -> String) -> String {
    match limit {
        Some(limit) => format!("{} / {}", shown(value, &text), text(limit)),
        None => shown(value, text),
    }
}

fn pair(first: Option<u64>, second: Option<u64>) -> String {
    match (first, second) {
        (None, None) => "-".into(),
        _ => format!(
            "{} / {}",
            shown(first, table::size),
            shown(second, table::size)
        ),
    }
}

fn time(microseconds: u64) -> String {
    let tenths = microseconds / 100_000;
    format!("{}.{}s", tenths / 10, tenths % 10)
}

/// All counters.
pub fn json(one: &ContainerStats) -> Value {
    present(json!({
        "uuid": one.uuid,
        "name": one.name,
        "state": state_name(one.state),
        "cpu_usec": one.cpu_usec,
        "memory": one.memory,
        "memory_peak": one.memory_peak,
        "memory_limit": one.memory_limit,
        "swap": one.swap,
        "oom_kills": one.oom_kills,
        "pids": one.pids,
        "pids_limit": one.pids_limit,
        "disk_read": one.disk_read,
        "disk_written": one.disk_written,
        "net_received": one.net_received,
        "net_sent": one.net_sent,
        "taken": one.taken,
    }))
}

#[cfg(test)]
mod tests {
    use cml_wire::proto::ContainerState;

    use super::*;

    fn stats(cpu: u64, taken: u64) -> ContainerStats {
        ContainerStats {
            uuid: "u".into(),
            name: "web\u{1b}".into(),
            state: ContainerState::Running.into(),
            cpu_usec: Some(cpu),
            memory: Some(3 << 20),
            memory_limit: Some(64 << 20),
            oom_kills: Some(7),
            pids: Some(2),
            disk_read: Some(0),
            disk_written: Some(1 << 30),
            taken,
            ..Default::default()
        }
    }

    #[test]
    fn a_first_look_has_times_and_a_second_one_shares() {
        let first = stats(1_500_000, 10_000_000);
        let once = table(std::slice::from_ref(&first), &[], None);
        let row = once.lines().nth(1).unwrap_or_default();
        for part in [
            "web\\u{1b}",
            "1.5s",
            "3.0 MiB / 64.0 MiB",
            " 7 ",
            " 2 ",
            "0.0 KiB / 1.0 GiB",
            " -",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        let second = stats(2_000_000, 11_000_000);
        assert!(table(&[second], std::slice::from_ref(&first), None).contains("50.0%"));
        // Started anew.
        assert!(table(&[stats(0, 11_000_000)], &[first], None).contains("0.0s"));
        assert_eq!(table(&[], &[], None), "no container runs\n");
    }
}
