//! What scripts read: the printed form of replies (wire-samples.md).

use cml_integration::Daemon;

#[test]
fn list_prints_what_the_existing_client_prints() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"minicontainer\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    let listed = daemon.control().ok(&["list"]);
    let created = listed.value("created");
    assert_eq!(
        listed.out,
        format!(
            "code: CONTAINER_STATUS\n\
             container_status {{\n  uuid: \"{uuid}\"\n  name: \"minicontainer\"\n  \
             type: CONTAINER\n  state: STOPPED\n  uptime: 0\n  created: {created}\n  \
             guestos: \"busybox\"\n  trust_level: SIGNED\n  cryptfs_mode: NOT_IMPLEMENTED\n}}\n"
        )
    );
    assert_eq!(
        daemon.control().ok(&["state", "minicontainer"]).out,
        listed.out
    );
}

#[test]
fn config_prints_identity_and_configuration() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"softcontainer\"\nguest_os: \"busybox\"\n");
    let shown = daemon.control().ok(&["config", "softcontainer"]);
    // Interfaces are shown as they will be (protocol.md 3.4).
    let mac = shown.value("if_mac");
    assert_eq!(
        shown.out,
        format!(
            "code: CONTAINER_CONFIG\ncontainer_uuids: \"{uuid}\"\ncontainer_configs {{\n  \
             name: \"softcontainer\"\n  guest_os: \"busybox\"\n  guestos_version: 1\n  \
             color: 0\n  type: CONTAINER\n  vnet_configs {{\n    if_name: \"host0\"\n    \
             configure: true\n    if_mac: \"{mac}\"\n  }}\n  token_type: SOFT\n}}\n"
        )
    );
}

#[test]
fn names_with_other_letters_are_shown_and_stored_so_that_old_readers_take_them() {
    let daemon = Daemon::default();
    let uuid = daemon.create("name: \"Bücher\"\nguest_os: \"busybox\"\n");
    let file = daemon.base().join(format!("containers/{uuid}.conf"));
    assert!(
        std::fs::read_to_string(file)
            .unwrap()
            .contains("name: \"Bücher\"\n")
    );
    let shown = daemon.control().ok(&["config", "Bücher"]).out;
    assert!(shown.contains(r#"name: "B\303\274cher""#), "{shown}");
}

#[test]
fn the_guest_oses_show_name_hardware_and_version_on_consecutive_lines() {
    let daemon = Daemon::default();
    let listed = daemon.control().ok(&["list_guestos"]).out;
    let lines: Vec<_> = listed.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| *line == "name: \"busybox\"")
        .unwrap();
    assert!(lines[at + 1].starts_with("hardware: "), "{listed}");
    assert_eq!(lines[at + 2], "version: 1");
}
