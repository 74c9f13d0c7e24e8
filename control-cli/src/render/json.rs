//! For programs: one document, keys in lower case, enums by name. Keys are only ever added.
//!
//! Every document has `ok` and, when the daemon answered, `code`; a failure has `error`. Optional fields
//! that were not sent are left out; lists are always there.

use cml_wire::proto::{
    AuditEntry, AuditSink, CaCertificate, ContainerConfig, ContainerIface, ContainerStatus,
    ContainerTokenType, ContainerTrust, ContainerType, ContainerUsbType, CryptfsMode,
    DaemonToController, GuestOsConfig, GuestOsMount, I18nString, ca_certificate, container_iface,
    daemon_to_controller::{Code, Response},
    guest_os_mount,
};
use serde_json::{Map, Value, json};

use super::{name, state_name};
use crate::exit;

/// The whole reply.
pub fn reply(reply: &DaemonToController, good: bool) -> String {
    let mut document = Map::new();
    document.insert("ok".into(), good.into());
    document.insert("code".into(), name!(Code, reply.code).into());
    match Code::try_from(reply.code) {
        Ok(Code::Response) => {
            let response = reply.response.map(|response| name!(Response, response));
            document.insert("response".into(), response.into());
        }
        Ok(Code::ContainerStatus) => {
            document.insert(
                "containers".into(),
                list(&reply.container_status, container),
            );
        }
        Ok(Code::ContainerConfig) => {
            let pairs = reply.container_configs.iter().zip(&reply.container_uuids);
            let configs = pairs.map(|(one, uuid)| json!({"uuid": uuid, "config": config(one)}));
            document.insert("configs".into(), configs.collect());
        }
        Ok(Code::GuestosConfigsList) => {
            document.insert("guestos".into(), list(&reply.guestos_configs, guestos));
        }
        Ok(Code::ContainerIfaces) => {
            document.insert("ifaces".into(), list(&reply.iface_details, iface));
            document.insert(
                "container_ifaces".into(),
                reply.container_ifaces.clone().into(),
            );
        }
        Ok(Code::ContainerStats) => {
            document.insert(
                "containers".into(),
                list(&reply.container_stats, super::stats::json),
            );
        }
        Ok(Code::CaList) => {
            document.insert("cas".into(), list(&reply.ca_certificates, ca));
        }
        Ok(Code::DeviceProvisionedState) => {
            let provisioned = reply.device_is_provisioned;
            document.insert("device_is_provisioned".into(), provisioned.into());
        }
        Ok(Code::DeviceStats) => {
            document.insert("device_stats".into(), stats(reply));
        }
        Ok(Code::AuditRecords) => {
            document.insert("records".into(), list(&reply.audit_entries, audit_record));
        }
        Ok(Code::AuditVerdict) => {
            document.insert("enabled".into(), reply.audit_enabled.into());
            document.insert("logs".into(), list(&reply.audit_sinks, audit_log));
        }
        Ok(Code::DeviceCsr) => {
            let csr = reply.device_csr.as_deref().map(String::from_utf8_lossy);
            document.insert("device_csr".into(), csr.into());
        }
        _ => {}
    }
    if let Some(done) = &reply.done_text {
        document.insert("done".into(), done.as_str().into());
    }
    if !reply.warnings.is_empty() {
        document.insert("warnings".into(), reply.warnings.clone().into());
    }
    if !good {
        document.insert("error".into(), exit::reason(reply).into());
    }
    format!("{:#}\n", Value::Object(document))
}

/// What a program reads when there is no reply to show.
pub fn no_reply(error: &str) -> String {
    format!("{:#}\n", json!({"ok": false, "error": error}))
}

/// Bytes throughout.
fn stats(reply: &DaemonToController) -> Value {
    let stats = reply.device_stats.unwrap_or_default();
    present(json!({
        "disk_system": stats.disk_system,
        "disk_system_free": stats.disk_system_free,
        "disk_system_used": stats.disk_system_used,
        "disk_containers": stats.disk_containers,
        "disk_containers_free": stats.disk_containers_free,
        "disk_containers_used": stats.disk_containers_used,
        "mem_total": stats.mem_total,
        "mem_free": stats.mem_free,
        "mem_available": stats.mem_available,
    }))
}

fn list<T>(items: &[T], one: fn(&T) -> Value) -> Value {
    items.iter().map(one).collect()
}

/// Leaves out what was not sent.
pub(super) fn present(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        other => other,
    }
}

fn container(one: &ContainerStatus) -> Value {
    present(json!({
        "uuid": one.uuid,
        "name": one.name,
        "type": name!(ContainerType, one.r#type),
        "state": state_name(one.state),
        "uptime": one.uptime,
        "created": one.created,
        "guestos": one.guestos,
        "trust_level": name!(ContainerTrust, one.trust_level),
        "cryptfs_mode": name!(CryptfsMode, one.cryptfs_mode),
        "audio": one.audio,
        "damage": one.damage,
        "last_end": one.last_end.as_ref().map(|end| present(json!({
            "time": end.time,
            "reason": end.reason,
            "status": end.status,
            "out_of_memory": end.out_of_memory,
        }))),
    }))
}

fn iface(one: &ContainerIface) -> Value {
    present(json!({
        "name": one.name,
        "kind": name!(container_iface::Kind, one.kind),
        "state": one.state,
        "mac": one.mac,
        "mtu": one.mtu,
        "addresses": one.addresses,
        "host_name": one.host_name,
    }))
}

fn config(one: &ContainerConfig) -> Value {
    present(json!({
        "name": one.name,
        "guest_os": one.guest_os,
        "guestos_version": one.guestos_version,
        "image_sizes": list(&one.image_sizes, |size| present(json!({
            "image_name": size.image_name,
            "image_size": size.image_size,
            "image_file": size.image_file,
        }))),
        "ram_limit": one.ram_limit,
        "color": one.color,
        "type": name!(ContainerType, one.r#type),
        "init_env": one.init_env,
        "userns": one.userns,
        "assign_cpus": one.assign_cpus,
        "allow_autostart": one.allow_autostart,
        "allow_system_time": one.allow_system_time,
        "dns_server": one.dns_server,
        "netns": one.netns,
        "net_ifaces": list(&one.net_ifaces, |iface| json!({
            "netif": iface.netif,
            "mac_filter": iface.mac_filter,
        })),
        "allow_module": one.allow_module,
        "allow_dev": one.allow_dev,
        "assign_dev": one.assign_dev,
        "vnet_configs": list(&one.vnet_configs, |vnet| present(json!({
            "if_name": vnet.if_name,
            "configure": vnet.configure,
            "if_rootns_name": vnet.if_rootns_name,
            "if_mac": vnet.if_mac,
        }))),
        "usb_configs": list(&one.usb_configs, |usb| json!({
            "id": usb.id,
            "serial": usb.serial,
            "assign": usb.assign,
            "type": name!(ContainerUsbType, usb.r#type),
        })),
        "fifos": one.fifos,
        "token_type": name!(ContainerTokenType, one.token_type),
        "usb_pin_entry": one.usb_pin_entry,
        "enable_xorg_compat": one.enable_xorg_compat,
        "pids_limit": one.pids_limit,
        "cpu_weight": one.cpu_weight,
        "swap_limit": one.swap_limit,
        "autostart_order": one.autostart_order,
        "restart_on_failure": one.restart_on_failure,
    }))
}

fn audit_record(one: &AuditEntry) -> Value {
    let record = &one.record;
    present(json!({
        "log": one.sink,
        "timestamp": record.timestamp,
        "type": record.r#type,
        "subject_id": record.subject_id,
        "meta": list(&record.meta, |meta| json!({"key": meta.key, "value": meta.value})),
    }))
}

fn audit_log(one: &AuditSink) -> Value {
    present(json!({
        "log": one.sink,
        "intact": one.broken.is_none(),
        "broken": one.broken,
        "records": one.records,
        "first": one.first,
        "last": one.last,
        "dropped": one.dropped,
        "delivered": one.delivered,
        "bytes": one.bytes,
    }))
}

fn ca(one: &CaCertificate) -> Value {
    json!({
        "id": one.id,
        "kind": name!(ca_certificate::Kind, one.kind),
        "subject": one.subject,
        "not_after": one.not_after,
        "fingerprint": one.fingerprint,
    })
}

/// Everything but the icon, which is a picture.
fn guestos(one: &GuestOsConfig) -> Value {
    present(json!({
        "name": one.name,
        "hardware": one.hardware,
        "version": one.version,
        "mounts": list(&one.mounts, mount),
        "init_path": one.init_path,
        "init_param": one.init_param,
        "init_env": one.init_env,
        "mounts_setup": list(&one.mounts_setup, mount),
        "description": languages(&one.description),
        "description_long": one.description_long.as_ref().map(languages),
        "upstream_version": one.upstream_version,
        "build_date": one.build_date,
        "update_base_url": one.update_base_url,
        "feature_bg_booting": one.feature_bg_booting,
        "min_ram_limit": one.min_ram_limit,
        "def_ram_limit": one.def_ram_limit,
        "feature_install_guest": one.feature_install_guest,
    }))
}

fn mount(one: &GuestOsMount) -> Value {
    present(json!({
        "image_file": one.image_file,
        "mount_point": one.mount_point,
        "fs_type": one.fs_type,
        "mount_type": name!(guest_os_mount::Type, one.mount_type),
        "min_size": one.min_size,
        "max_size": one.max_size,
        "def_size": one.def_size,
        "image_size": one.image_size,
        "image_sha1": one.image_sha1,
        "image_sha2_256": one.image_sha2_256,
        "mount_data": one.mount_data,
        "image_verity_sha256": one.image_verity_sha256,
    }))
}

fn languages(one: &I18nString) -> Value {
    present(json!({"en": one.en, "de": one.de, "fr": one.fr}))
}
