//! Kernels that lack something: what needs it says so, everything else works.

use cml_integration::machine::{Machine, Options};

use crate::{CORE0, answer, create};

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn on_a_kernel_without_device_mapper_what_must_be_encrypted_does_not_start_and_the_rest_does() {
    let mut machine = Machine::boot_with(Options {
        append: "cml.dm=off",
        ..Options::default()
    });
    // The volume of core0 holds no secrets, and without core0 there would be nobody to read an error.
    let core0 = answer(&mut machine, &format!("state {CORE0}"));
    assert!(core0.contains("cryptfs_mode: NOT_IMPLEMENTED"), "{core0}");
    machine.ok("echo kept >/data/file");
    create(&mut machine, "idle", "busybox", "token_type: NONE\n");
    machine.ok("control start idle");
    machine.wait_for("idle", "RUNNING");
    create(&mut machine, "web", "gyroidos-coreos", "");
    machine.ok("printf '\\npw\\npw\\n' | control change_pin web");
    let (said, status) = machine.shell("control start web --key=pw");
    assert_ne!(status, 0);
    assert!(said.contains("no device-mapper"), "{said}");
    machine.ok("control stop idle");
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn on_control_groups_of_version_1_alone_containers_run_freeze_and_stop() {
    let mut machine = Machine::boot_with(Options {
        append: "cml.cgroup=v1",
        ..Options::default()
    });
    let groups = machine.ok("cat /proc/1/cgroup");
    for controller in ["freezer", "pids", "devices"] {
        assert!(groups.contains(&format!(":{controller}:")), "{groups}");
    }
    // Kernels are about to give version 1 up: the newer ones count no memory there, unless they were built to.
    create(
        &mut machine,
        "limited",
        "busybox",
        "token_type: NONE\nram_limit: 64\n",
    );
    let (said, status) = machine.shell("control start limited");
    match groups.contains(":memory:") {
        true => assert_eq!(status, 0, "{said}"),
        false => assert!(
            said.contains("`ram_limit`") && said.contains("`memory`"),
            "{said}"
        ),
    }
    create(&mut machine, "idle", "busybox", "token_type: NONE\n");
    machine.ok("control start idle");
    machine.wait_for("idle", "RUNNING");
    machine.ok("control freeze idle");
    assert!(answer(&mut machine, "state idle").contains("state: FROZEN"));
    machine.ok("control unfreeze idle");
    machine.ok("control run idle nopty true");
    machine.ok("control stop idle");
    machine.wait_for("idle", "STOPPED");
}
