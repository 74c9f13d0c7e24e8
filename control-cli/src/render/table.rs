//! For people: tables, and sentences where there is nothing to tabulate.

use cml_wire::{
    proto::{
        CaCertificate, ContainerState, ContainerStatus, ContainerTrust, DaemonToController,
        GuestOsConfig, ca_certificate::Kind, daemon_to_controller::Code,
    },
    text,
};
use comfy_table::{Table, presets};

use super::{Words, name, printable, state_name};

/// A successful reply.
pub fn reply(reply: &DaemonToController, words: Words<'_>) -> String {
    match Code::try_from(reply.code) {
        Ok(Code::ContainerStatus) => containers(&reply.container_status),
        Ok(Code::GuestosConfigsList) => guestos(&reply.guestos_configs),
        Ok(Code::CaList) => cas(&reply.ca_certificates),
        Ok(Code::ContainerConfig) if words.done.is_empty() => configs(reply),
        Ok(Code::ContainerConfig) => created(reply, words),
        Ok(Code::DeviceProvisionedState) => provisioned(reply).into(),
        _ => format!("{}\n", printable(words.done)),
    }
}

fn containers(all: &[ContainerStatus]) -> String {
    if all.is_empty() {
        return "no containers\n".into();
    }
    let rows = all.iter().map(|one| {
        [
            printable(&one.name),
            state_name(one.state).into(),
            match one.state() {
                // Never run, or ended.
                ContainerState::Stopped => "-".into(),
                _ => uptime(one.uptime),
            },
            printable(&one.guestos),
            name!(ContainerTrust, one.trust_level).into(),
            printable(&one.uuid),
        ]
    });
    table(
        ["NAME", "STATE", "UPTIME", "GUESTOS", "TRUST", "UUID"],
        rows,
    )
}

fn guestos(all: &[GuestOsConfig]) -> String {
    if all.is_empty() {
        return "no guest operating systems\n".into();
    }
    let rows = all.iter().map(|one| {
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
    )
}

fn cas(all: &[CaCertificate]) -> String {
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
    table(["ID", "KIND", "VALID UNTIL", "SUBJECT"], rows)
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

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
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
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
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
