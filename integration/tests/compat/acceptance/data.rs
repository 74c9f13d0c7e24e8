//! The configurations of protocol.md 5.2: none sets `color`, `type` or `token_type`.

/// Never signed.
pub const TEST: &str = r#"
name: "testcontainer"
guest_os: "gyroidos-coreos"
guestos_version: 1
assign_dev: "c 4:2 rwm"
image_sizes {
  image_name: "etc"
  image_size: 10
}
"#;

/// The same, signed; both may be created, as the device is taken at the start only.
pub const SIGNED_1: &str = r#"
name: "signedcontainer1"
guest_os: "gyroidos-coreos"
guestos_version: 1
assign_dev: "c 4:2 rwm"
image_sizes {
  image_name: "etc"
  image_size: 10
}
"#;

/// Interfaces that do not exist, and a filter that is none, must not prevent a start.
pub const UPDATE: &str = r#"
name: "signedcontainer1"
guest_os: "gyroidos-coreos"
guestos_version: 1
assign_dev: "c 4:2 rwm"
image_sizes {
  image_name: "etc"
  image_size: 10
}
fifos: "signedfifo11"
fifos: "signedfifo12"
vnet_configs {
  if_name: "vnet0"
  if_rootns_name: "r_1"
  configure: false
}
vnet_configs {
  if_name: "vnet1"
  if_rootns_name: "r_2"
  configure: false
}
net_ifaces {
  netif: "00:00:00:00:00:11"
  mac_filter: "AA:BB:CC:DD:EE"
  mac_filter: "AA:BB:CC:DD:EE:FF"
}
"#;

/// As [`UPDATE`] under another name.
pub fn rename() -> String {
    UPDATE.replace(
        "name: \"signedcontainer1\"",
        "name: \"signedcontainer1-rename\"",
    )
}

/// Shares no device with the first one.
pub const SIGNED_2: &str = r#"
name: "signedcontainer2"
guest_os: "gyroidos-coreos"
guestos_version: 1
assign_dev: "c 4:3 rwm"
allow_dev: "b 8:* rwm"
fifos: "signedfifo21"
fifos: "signedfifo22"
vnet_configs {
  if_name: "vnet0"
  if_rootns_name: "r_3"
  configure: false
}
vnet_configs {
  if_name: "vnet1"
  if_rootns_name: "r_4"
  configure: false
}
net_ifaces {
  netif: "00:00:00:00:00:21"
}
net_ifaces {
  netif: "00:00:00:00:00:22"
}
net_ifaces {
  netif: "00:00:00:00:00:23"
}
"#;

/// Removed while it runs.
pub const REMOVED: &str = r#"
name: "rmcontainer3"
guest_os: "gyroidos-coreos"
guestos_version: 1
assign_dev: "c 4:4 rwm"
"#;

/// The management container itself.
pub const CORE0: &str = r#"
name: "core0"
guest_os: "gyroidos-coreos"
guestos_version: 1
assign_dev: "c 4:1 rwm"
allow_dev: "b 8:* rwm"
"#;
