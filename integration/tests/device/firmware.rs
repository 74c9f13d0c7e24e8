//! The disk image as a real machine starts it.

use cml_integration::machine::{Machine, Options};

use crate::create;

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn firmware_boots_the_disk_into_core0_and_again_after_a_reboot() {
    let mut machine = Machine::boot_with(Options {
        firmware: true,
        ..Options::default()
    });
    // Only the unified kernel image has these words.
    let words = machine.ok("cat /proc/cmdline");
    assert!(words.starts_with("console=tty0 "), "{words}");
    create(&mut machine, "idle", "busybox", "token_type: NONE\n");
    machine.ok("control start idle");
    machine.wait_for("idle", "RUNNING");
    // The address that QEMU's network gives, and its router. The others get there through core0.
    machine.ok("until ip -4 addr show eth0 | grep -q 'inet 10[.]0[.]2[.]15'; do sleep 1; done");
    machine.ok("control run idle nopty ping -c 1 10.0.2.2");
    machine.begin("control reboot </dev/null");
    machine.await_reboot();
    machine.ok("control start idle");
    machine.wait_for("idle", "RUNNING");
}
