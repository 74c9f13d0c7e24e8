//! What a reboot of the machine leaves as it was, and what waits for one.

use std::fs;

use cml_integration::machine::{Machine, Options, device};

use crate::{answer, await_core0, outside, put_signed};

/// What somebody outside would know a running container by: its range of ids, its network.
fn identity(machine: &mut Machine, name: &str) -> String {
    let look = "cat /proc/self/uid_map; ip addr show host0 | grep -oE \"(inet|link/ether) [^ ]*\"";
    let found = machine.ok(&format!("control run {name} nopty sh -c '{look}'"));
    assert!(found.contains("inet 172.23."), "{found}");
    found
}

fn start(machine: &mut Machine, name: &str) {
    machine.ok(&format!("control start {name}"));
    machine.wait_for(name, "RUNNING");
}

fn version(machine: &mut Machine, name: &str) -> String {
    let conf = answer(machine, &format!("config {name}"));
    let line = conf.lines().find(|line| line.contains("guestos_version:"));
    line.unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn a_reboot_changes_no_ids_and_no_addresses_and_brings_the_update_of_a_guest_os() {
    let mut machine = outside(Options::default());
    // Containers that follow the updates of their guest OS are those that nobody has signed. init starts the daemon again.
    machine.ok("sed -i 's/signed_configs: true/signed_configs: false/' /data/cml/device.conf");
    machine.ok("killall -9 cmld && sleep 1");
    await_core0(&mut machine);
    for name in ["a", "b", "c"] {
        machine.ok(&format!(
            "printf 'name: \"{name}\"\\nguest_os: \"busybox\"\\ntoken_type: NONE\\n' >/tmp/{name}.conf && \
             control create /tmp/{name}.conf"
        ));
    }
    // Not in the order in which they would be looked at.
    start(&mut machine, "c");
    start(&mut machine, "a");
    let before = ["a", "c"].map(|name| identity(&mut machine, name));
    assert_ne!(before[0], before[1]);

    let conf = device().join("operatingsystems/busybox-1.conf");
    let conf = fs::read_to_string(conf).unwrap();
    let update = conf.replace(
        "version: 1\n",
        "version: 2\nupdate_base_url: \"file://tmp/mirror\"\n",
    );
    let files = put_signed(&mut machine, &update);
    machine.ok(
        "mkdir -p /tmp/mirror/operatingsystems/x86/busybox-2 && \
         cp /data/cml/operatingsystems/busybox-1/root.img /tmp/mirror/operatingsystems/x86/busybox-2",
    );
    let pushed = answer(&mut machine, &format!("push_guestos_config {files}"));
    assert!(pushed.contains("GUESTOS_MGR_INSTALL_COMPLETED"), "{pushed}");
    machine.ok("control stop a");
    machine.wait_for("a", "STOPPED");
    start(&mut machine, "a");
    assert_eq!(version(&mut machine, "a"), "guestos_version: 1");

    machine.begin("control reboot </dev/null");
    machine.await_reboot();
    await_core0(&mut machine);
    for name in ["b", "a", "c"] {
        start(&mut machine, name);
        assert_eq!(version(&mut machine, name), "guestos_version: 2", "{name}");
    }
    let after = ["a", "c"].map(|name| identity(&mut machine, name));
    assert_eq!(before, after);
}
