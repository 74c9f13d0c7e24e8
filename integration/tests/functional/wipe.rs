//! What is wiped or removed is gone for good; everything else stays.

use std::fs;

use cml_integration::{
    Daemon, IDENTITY,
    encrypted::{images, prepared, sh, start, stop},
};
use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
};

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn after_a_wipe_nothing_is_left_of_what_was_written_and_the_container_begins_anew() {
    let (daemon, uuid) = prepared("");
    let key = daemon.base().join(format!("keys/{uuid}.key"));
    start(&daemon);
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    stop(&daemon);
    let before = fs::read(&key).unwrap();
    daemon.control().ok(&["wipe", "web"]);
    assert!(!key.exists());
    assert!(images(&daemon, &uuid).is_empty());
    assert_eq!(daemon.state("web"), "STOPPED");
    daemon.control().refused(
        &["start", "web", "--key=guess"],
        "CONTAINER_START_PASSWD_WRONG",
    );
    start(&daemon);
    assert_ne!(sh(&daemon, "ls /data/x").status, 0);
    assert_ne!(fs::read(&key).unwrap(), before);
    stop(&daemon);
}

#[test]
fn a_running_container_is_ended_before_it_is_wiped() {
    let (daemon, uuid) = prepared("");
    start(&daemon);
    daemon.control().ok(&["wipe", "web"]);
    assert_eq!(daemon.state("web"), "STOPPED");
    assert!(images(&daemon, &uuid).is_empty());
    // Nothing to wipe is fine as well.
    daemon.control().ok(&["wipe", "web"]);
    start(&daemon);
    stop(&daemon);
}

#[test]
fn wipe_device_wipes_all_containers_and_nothing_else() {
    let (daemon, uuid) = prepared("");
    let other = daemon.create("name: \"other\"\nguest_os: \"persistent\"\n");
    let core0 = "00000000-0000-0000-0000-000000000000";
    start(&daemon);
    daemon.control().ok(&["start", "other", "--key=trustme"]);
    let tokens = names(&daemon.base().join("tokens"));
    let store = names(&daemon.store());
    daemon.control().ok(&["wipe_device"]);
    for one in [&uuid, &other] {
        assert_eq!(daemon.state(one), "STOPPED");
        assert!(images(&daemon, one).is_empty());
    }
    assert!(names(&daemon.base().join("keys")).is_empty());
    assert_eq!(names(&daemon.base().join("tokens")), tokens);
    assert_eq!(names(&daemon.store()), store);
    let absent = daemon.control().run(&["wipe", core0]);
    assert_ne!(absent.status, 0);
}

#[test]
fn a_removed_container_leaves_no_file_behind() {
    let (daemon, _) = prepared("");
    let change = b"trustme\nmine\nmine\n";
    let changed = daemon.control().run_with(&["change_pin", "web"], change);
    assert_eq!(changed.status, 0, "{changed:?}");
    daemon.control().ok(&["start", "web", "--key=mine"]);
    daemon.wait_for("web", "RUNNING");
    daemon.control().ok(&["remove", "web"]);
    for dir in ["containers", "keys"] {
        assert!(names(&daemon.base().join(dir)).is_empty(), "{dir}");
    }
    let mut tokens = names(&daemon.base().join("tokens"));
    tokens.retain(|name| !IDENTITY.contains(&name.as_str()));
    assert_eq!(tokens, ["device.tok", "ssig_rootca.cert"]);
}

#[test]
fn a_wipe_or_a_removal_that_was_interrupted_is_finished_by_the_next_daemon() {
    let (mut daemon, uuid) = prepared("");
    start(&daemon);
    stop(&daemon);
    daemon.crash();
    // The key is gone already, which would be damage without the mark.
    fs::remove_file(daemon.base().join(format!("keys/{uuid}.key"))).unwrap();
    let mark = daemon.base().join(format!("containers/{uuid}.wiping"));
    fs::write(&mark, "").unwrap();
    daemon.start();
    start(&daemon);
    assert!(!mark.exists());
    stop(&daemon);
    let removed = daemon.create("name: \"gone\"\nguest_os: \"persistent\"\n");
    daemon.crash();
    let base = daemon.base();
    let conf = |suffix: &str| base.join(format!("containers/{removed}.{suffix}"));
    fs::rename(conf("conf"), conf("conf.gone")).unwrap();
    let key = daemon.base().join(format!("keys/{removed}.key"));
    fs::write(&key, "x").unwrap();
    daemon.start();
    daemon.wait_for_log("an interrupted removal is finished");
    assert!(!conf("conf.gone").exists() && !key.exists());
}

#[test]
fn a_container_that_was_not_wiped_completely_does_not_start_as_if_nothing_were() {
    let (daemon, uuid) = prepared("");
    start(&daemon);
    stop(&daemon);
    let mark = daemon.base().join(format!("containers/{uuid}.wiping"));
    fs::write(&mark, "").unwrap();
    let refused = daemon.control().refused(
        &["start", "web", "--key=trustme"],
        "CONTAINER_START_EINTERNAL",
    );
    assert!(refused.err.contains("wipe it again"), "{refused:?}");
    daemon.control().ok(&["wipe", "web"]);
    assert!(!mark.exists() && images(&daemon, &uuid).is_empty());
    start(&daemon);
    stop(&daemon);
}

#[test]
fn the_key_of_a_container_never_lies_in_the_open() {
    use std::os::unix::fs::PermissionsExt;
    let (daemon, uuid) = prepared("");
    start(&daemon);
    for path in [
        format!("keys/{uuid}.key"),
        "tokens/device.tok".into(),
        format!("containers/{uuid}/data.fscrypt.img"),
    ] {
        let metadata = fs::metadata(daemon.base().join(&path));
        // Another backend has other names.
        let Ok(metadata) = metadata else { continue };
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{path}");
    }
    stop(&daemon);
}

#[test]
fn provisioned_mode_wipes_nothing() {
    let (mut daemon, uuid): (Daemon, _) = prepared("");
    start(&daemon);
    stop(&daemon);
    daemon.stop();
    fs::write(daemon.base().join("_cml_provisioned_"), "").unwrap();
    daemon.start();
    for command in [&["wipe", uuid.as_str()][..], &["wipe_device"]] {
        daemon.control().refused(command, "CMD_UNSUPPORTED");
    }
    assert!(!images(&daemon, &uuid).is_empty());
}

#[test]
fn an_update_that_may_not_wipe_changes_nothing_where_it_would() {
    let (daemon, uuid) = prepared("");
    start(&daemon);
    assert_eq!(sh(&daemon, "echo x >/data/x").status, 0);
    let mut client = daemon.client();
    let mut update = |lines: &str, may_wipe| {
        client.ask(&ControllerToDaemon {
            container_uuids: vec![uuid.clone()],
            container_config_file: Some(
                format!("name: \"web\"\nguest_os: \"persistent\"\n{lines}").into_bytes(),
            ),
            may_wipe,
            command: Command::ContainerUpdateConfig.into(),
            ..Default::default()
        })
    };
    let refused = update("token_type: NONE\n", Some(false));
    assert_eq!(refused.code(), Code::ContainerConfig);
    assert!(refused.would_wipe() && refused.container_configs.is_empty());
    assert!(refused.error_text().contains("would be deleted"));
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    // The same token costs nothing.
    let taken = update("ram_limit: 100\n", Some(false));
    assert_eq!(taken.container_configs.len(), 1);
    assert_eq!(sh(&daemon, "cat /data/x").out, "x\n");
    // A client that does not know the question gets what it always got (protocol.md 3.4).
    let wiped = update("token_type: NONE\n", None);
    assert_eq!(wiped.container_configs.len(), 1);
    assert_eq!(daemon.state("web"), "STOPPED");
    assert!(images(&daemon, &uuid).is_empty());
}
