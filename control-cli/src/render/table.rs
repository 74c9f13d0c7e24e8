//! For people: tables, and sentences where there is nothing to tabulate.

use cml_wire::{
    proto::{
        CaCertificate, ContainerIface, ContainerState, ContainerStatus, ContainerTrust,
        DaemonToController, DeviceStats, GuestOsConfig, ca_certificate::Kind,
        container_iface as iface, daemon_to_controller::Code,
    },
    text,
};
use comfy_table::{Table, presets};

use super::{Words, audit, name, printable, state_name};

/// A successful reply.
pub fn reply(reply: &DaemonToController, words: Words<'_>, width: Option<usize>) -> String {
    match Code::try_from(reply.code) {
        // One that is looked at has more to say than a line.
        Ok(Code::ContainerStatus) if words.action == "state" => {
            let all = &reply.container_status;
            containers(all, width) + &damages(all) + &ends(all)
        }
        Ok(Code::ContainerStatus) => {
            containers(&reply.container_status, width) + &damages(&reply.container_status)
        }
        Ok(Code::GuestosConfigsList) => guestos(&reply.guestos_configs, width),
        Ok(Code::ContainerIfaces) => ifaces(reply, width),
        Ok(Code::ContainerStats) => super::stats::table(&reply.container_stats, &[], width),
        Ok(Code::CaList) => cas(&reply.ca_certificates, width),
        Ok(Code::ContainerConfig) if words.done.is_empty() => configs(reply),
        Ok(Code::ContainerConfig) => created(reply, words),
        Ok(Code::DeviceProvisionedState) => provisioned(reply).into(),
        Ok(Code::AuditRecords) => audit::records(&reply.audit_entries, width),
        Ok(Code::AuditVerdict) => audit::verdict(reply, width),
        Ok(Code::DeviceStats) => stats(&reply.device_stats.unwrap_or_default(), width),
        // The daemon knows better what was done.
        _ => match &reply.done_text {
            Some(done) => format!("{}\n", printable(done)),
            None => format!("{}\n", printable(words.done)),
        },
    }
}

fn containers(all: &[ContainerStatus], width: Option<usize>) -> String {
    if all.is_empty() {
        return "no containers\n".into();
    }
    let whole = listed(all, |uuid| uuid.to_owned(), None);
    let longest = whole.lines().map(|line| line.chars().count()).max();
    match width.filter(|width| longest.is_some_and(|longest| longest > *width)) {
        None => whole,
        // As many digits as commands need.
        Some(width) => listed(all, |uuid| uuid.chars().take(8).collect(), Some(width)),
    }
}

/// What keeps containers from being used.
fn damages(all: &[ContainerStatus]) -> String {
    let damaged = all
        .iter()
        .filter_map(|one| Some((one, one.damage.as_ref()?)));
    damaged
        .map(|(one, damage)| {
            let (name, damage) = (printable(&one.name), printable(damage));
            format!("{name}: its configuration cannot be used: {damage}\n")
        })
        .collect()
}

fn ends(all: &[ContainerStatus]) -> String {
    let ended = all.iter().filter_map(|one| one.last_end.as_ref());
    ended
        .map(|end| {
            let (time, reason) = (audit::utc(end.time), printable(&end.reason));
            format!("last end: {time} UTC, {reason}\n")
        })
        .collect()
}

fn listed(all: &[ContainerStatus], uuid: impl Fn(&str) -> String, width: Option<usize>) -> String {
    let rows = all.iter().map(|one| {
        [
            printable(&one.name),
            state_name(one.state).into(),
            match one.state() {
                // Never run, or ended.
                ContainerState::Stopped | ContainerState::Zombie => "-".into(),
                _ => uptime(one.uptime),
            },
            printable(&one.guestos),
            name!(ContainerTrust, one.trust_level).into(),
            uuid(&printable(&one.uuid)),
        ]
    });
    table(
        ["NAME", "STATE", "UPTIME", "GUESTOS", "TRUST", "UUID"],
        rows,
        width,
    )
}

fn guestos(all: &[GuestOsConfig], width: Option<usize>) -> String {
    if all.is_empty() {
        return "no guest operating systems\n".into();
    }
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by_key(|one| (&one.name, one.version));
    let rows = all.into_iter().map(|one| {
        [
            printable(&one.name),
            one.version.to_string(),
            printable(&one.hardware),
            one.mounts.len().to_string(),
            printable(&one.description.en),
        ]
    });
    table(
        ["NAME", "VERSION", "HARDWARE", "MOUNTS", "DESCRIPTION"],
        rows,
        width,
    )
}

fn ifaces(reply: &DaemonToController, width: Option<usize>) -> String {
    // The existing daemon sends the text alone.
    if reply.iface_details.is_empty() && !reply.container_ifaces.is_empty() {
        let lines = reply.container_ifaces.iter().flat_map(|text| text.lines());
        return lines.map(|line| printable(line) + "\n").collect();
    }
    if reply.iface_details.is_empty() {
        return "no interfaces: the container does not run\n".into();
    }
    let rows = reply.iface_details.iter().map(|one: &ContainerIface| {
        [
            printable(&one.name),
            name!(iface::Kind, one.kind).into(),
            printable(&one.state),
            printable(one.mac.as_deref().unwrap_or("-")),
            one.mtu.to_string(),
            printable(one.host_name.as_deref().unwrap_or("-")),
            printable(&one.addresses.join(", ")),
        ]
    });
    table(
        [
            "NAME",
            "KIND",
            "STATE",
            "MAC",
            "MTU",
            "ON HOST",
            "ADDRESSES",
        ],
        rows,
        width,
    )
}

fn cas(all: &[CaCertificate], width: Option<usize>) -> String {
    if all.is_empty() {
        return "no CAs\n".into();
    }
    let rows = all.iter().map(|one| {
        [
            printable(&one.id),
            name!(Kind, one.kind).into(),
            printable(&one.not_after),
            printable(&one.subject),
        ]
    });
    table(["ID", "KIND", "VALID UNTIL", "SUBJECT"], rows, width)
}

/// Nothing but the configuration, so that it can be edited and sent back.
fn configs(reply: &DaemonToController) -> String {
    reply.container_configs.iter().map(text::print).collect()
}

fn created(reply: &DaemonToController, words: Words<'_>) -> String {
    let pairs = reply.container_configs.iter().zip(&reply.container_uuids);
    pairs
        .map(|(config, uuid)| {
            let (name, uuid) = (printable(&config.name), printable(uuid));
            format!("container {name} {}: {uuid}\n", words.done)
        })
        .collect()
}

fn provisioned(reply: &DaemonToController) -> &'static str {
    match reply.device_is_provisioned {
        Some(true) => "the device is provisioned\n",
        _ => "the device is not provisioned\n",
    }
}

/// Free memory is what programs can still get, if the device knows.
fn stats(stats: &DeviceStats, width: Option<usize>) -> String {
    let row = |what: &str, total: u64, free: u64| {
        let used = total.saturating_sub(free);
        [what.to_owned(), size(total), size(used), size(free)]
    };
    let mut rows = vec![row(
        "system disk",
        stats.disk_system,
        stats.disk_system_free,
    )];
    if let Some((total, free)) = stats.disk_containers.zip(stats.disk_containers_free) {
        rows.push(row("container disk", total, free));
    }
    if let Some((total, free)) = stats.mem_total.zip(stats.mem_available.or(stats.mem_free)) {
        rows.push(row("memory", total, free));
    }
    table(["", "TOTAL", "USED", "FREE"], rows.into_iter(), width)
}

/// Three digits at most before the point.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let fits = |shift: u32| bytes >> shift < 1000;
    let at = (0..3).find(|at| fits(10 * (at + 1))).unwrap_or(3);
    let tenths = (u128::from(bytes) * 10) >> (10 * (at + 1));
    format!("{}.{} {}", tenths / 10, tenths % 10, units[at as usize])
}

/// Columns as wide as they need to be, without lines. What the terminal has no room for is cut off the last one.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    width: Option<usize>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| cut(line.trim_end(), width) + "\n")
        .collect()
}

fn cut(line: &str, width: Option<usize>) -> String {
    match width.and_then(|width| line.char_indices().nth(width).zip(width.checked_sub(1))) {
        Some((_, keep)) => line.chars().take(keep).chain(['…']).collect(),
        None => line.to_owned(),
    }
}

/// The two largest units.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_suits_them() {
        let texts = [0, 1536, 1 << 20, 1000 << 20, 931 << 30, u64::MAX].map(size);
        assert_eq!(
            texts,
            [
                "0.0 KiB",
                "1.5 KiB",
                "1.0 MiB",
                "0.9 GiB",
                "931.0 GiB",
                "16777215.9 TiB"
            ]
        );
    }

    #[test]
    fn a_table_that_is_too_wide_is_cut_at_its_end() {
        let rows = || [["a".to_owned(), "ä long text".to_owned()]].into_iter();
        assert_eq!(table(["X", "Y"], rows(), Some(8)), "X  Y\na  ä lo…\n");
        let whole = "X  Y\na  ä long text\n";
        assert_eq!(table(["X", "Y"], rows(), Some(14)), whole);
        assert_eq!(table(["X", "Y"], rows(), None), whole);
    }

    #[test]
    fn uuids_are_short_only_where_they_would_wrap() {
        let all = [ContainerStatus {
            uuid: "b51f6038-aa7e-4cc7-b93a-fe187ef218f1".into(),
            name: "web".into(),
            ..Default::default()
        }];
        assert!(containers(&all, Some(100)).contains(&all[0].uuid));
        let narrow = containers(&all, Some(60));
        assert!(narrow.ends_with("b51f6038\n"), "{narrow}");
    }

    #[test]
    fn uptime_has_two_units() {
        let texts = [0, 59, 60, 3599, 3600, 86_399, 86_400, 90_061].map(uptime);
        assert_eq!(
            texts,
            [
                "0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "1d 1h"
            ]
        );
    }
}
