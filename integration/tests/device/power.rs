//! The plug is pulled, and nothing that was answered is lost.

use std::{thread::sleep, time::Duration};

use cml_integration::machine::{Machine, Options, Shell};

use crate::{answer, create};

/// In the middle of what is cut, on a machine where it takes some seconds.
const MIDDLE: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn nothing_that_was_answered_is_lost_when_the_plug_is_pulled() {
    let mut machine = Machine::boot();
    create(&mut machine, "web", "gyroidos-coreos", "");
    machine.ok("printf '\\npw\\npw\\n' | control change_pin web");
    machine.power_cut();

    // Created, with its PIN. Its first start, which makes its volume, is cut short and then done again.
    assert!(answer(&mut machine, "start web --key=wrong").contains("CONTAINER_START_PASSWD_WRONG"));
    machine.begin("control start web --key=pw");
    sleep(MIDDLE);
    machine.power_cut();
    assert!(answer(&mut machine, "state web").contains("state: STOPPED"));
    machine.ok("control start web --key=pw");
    machine.wait_for("web", "RUNNING");
    machine.ok("control run web nopty sh -c 'echo kept >/data/file; sync'");

    // What a guest has written is there; a token that was locked is open again, by the reboot alone.
    machine.power_cut();
    for _ in 0..3 {
        answer(&mut machine, "start web --key=wrong");
    }
    assert!(answer(&mut machine, "start web --key=pw").contains("CONTAINER_LOCKED_TILL_REBOOT"));
    machine.begin("control reboot </dev/null");
    machine.await_reboot();
    machine.ok("control start web --key=pw");
    machine.wait_for("web", "RUNNING");
    let kept = machine.ok("control run web nopty cat /data/file");
    assert_eq!(kept, "kept\n");
    let state = answer(&mut machine, "state web");
    assert!(state.contains("cryptfs_mode: INTEGRITY_ENCRYPT"), "{state}");

    // A change of the PIN is either done or not.
    machine.ok("control stop web --key=pw");
    machine.wait_for("web", "STOPPED");
    machine.begin("printf 'pw\\nnew\\nnew\\n' | control change_pin web");
    sleep(MIDDLE);
    machine.power_cut();
    let old = answer(&mut machine, "start web --key=pw");
    if !old.contains("CONTAINER_START_OK") {
        machine.ok("control start web --key=new");
    }
    machine.wait_for("web", "RUNNING");
    assert_eq!(machine.ok("control run web nopty cat /data/file"), "kept\n");

    // So is a wipe: what was begun is finished, and the container begins anew.
    machine.begin("control wipe web </dev/null");
    machine.power_cut();
    let key = match old.contains("CONTAINER_START_OK") {
        true => "pw",
        false => "new",
    };
    machine.ok(&format!("control start web --key={key}"));
    machine.wait_for("web", "RUNNING");
    let found = machine.shell("control run web nopty cat /data/file").0;
    assert!(
        found == "kept\n" || found.contains("No such file"),
        "{found}"
    );
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn a_provisioned_device_stays_one_and_lets_no_commands_in() {
    let mut machine = Machine::boot_with(Options {
        shell: Shell::LoggedIn,
        ..Options::default()
    });
    machine.ok("control set_provisioned </dev/null");
    machine.power_cut();
    let mode = answer(&mut machine, "get_provisioned");
    assert!(mode.contains("device_is_provisioned: true"), "{mode}");
    let refused = answer(&mut machine, "run core0 nopty true");
    assert!(refused.contains("CMD_UNSUPPORTED"), "{refused}");
    machine.begin("control reboot </dev/null");
    machine.await_reboot();
    assert!(answer(&mut machine, "list").contains("core0"));
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn the_end_of_core0_switches_the_machine_off() {
    let mut machine = Machine::boot();
    create(&mut machine, "idle", "busybox", "token_type: NONE\n");
    machine.ok("control start idle");
    machine.begin("poweroff");
    machine.await_off();
}
