//! The plug is pulled, and nothing that was answered is lost.

use std::{thread::sleep, time::Duration};

use cml_integration::machine::{Machine, Options, Shell};

use crate::{answer, await_core0, create, outside, put_signed};

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

/// A guest OS that is offered where `file://tmp/mirror` leads, so large that its installation takes some seconds. Returns the
/// words that push it.
fn offer(machine: &mut Machine, name: &str, sha256: &str) -> String {
    let dir = format!("/tmp/mirror/operatingsystems/x86/{name}-1");
    machine.ok(&format!(
        "mkdir -p {dir} && truncate -s {SIZE} {dir}/root.img"
    ));
    let files = put_signed(
        machine,
        &format!(
            "name: \"{name}\"\nhardware: \"x86\"\nversion: 1\nmounts {{\n  image_file: \"root\"\n  mount_point: \"/\"\n  \
             fs_type: \"squashfs\"\n  mount_type: STORE_ONLY\n  image_size: {SIZE}\n  image_sha2_256: \"{sha256}\"\n}}\n\
             description {{\n  en: \"Zeros\"\n}}\nupdate_base_url: \"file://tmp/mirror\"\n"
        ),
    );
    format!("control --format text push_guestos_config {files}")
}

/// Bytes of that guest OS.
const SIZE: u64 = 96 << 20;

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn an_installation_is_there_as_a_whole_or_not_at_all() {
    let mut machine = outside(Options::default());
    let zeros = machine.ok(&format!(
        "truncate -s {SIZE} /tmp/zeros && sha256sum /tmp/zeros"
    ));
    let sha256 = zeros.split(' ').next().unwrap().to_owned();
    let store = "/data/cml/operatingsystems";
    let mut seen = Vec::new();
    for (name, after) in [("soon", 1), ("later", 4), ("answered", 0)] {
        let push = offer(&mut machine, name, &sha256);
        match after {
            0 => {
                let said = machine.ok(&push);
                assert!(said.contains("GUESTOS_MGR_INSTALL_COMPLETED"), "{said}");
            }
            seconds => {
                machine.begin(&push);
                sleep(Duration::from_secs(seconds));
            }
        }
        machine.power_cut();
        await_core0(&mut machine);
        // What was begun is finished or gone, and in nobody's way.
        let hidden = machine.ok(&format!("ls -A {store} | grep '^[.]' || true"));
        assert_eq!(hidden, "", "{name}");
        let there = answer(&mut machine, "list_guestos").contains(&format!("name: \"{name}\""));
        if !there {
            assert_eq!(
                machine.ok(&format!("ls {store} | grep '^{name}-' || true")),
                ""
            );
            let push = offer(&mut machine, name, &sha256);
            let said = machine.ok(&push);
            assert!(said.contains("GUESTOS_MGR_INSTALL_COMPLETED"), "{said}");
        }
        let stored = machine.ok(&format!("sha256sum {store}/{name}-1/root.img"));
        assert!(stored.starts_with(&sha256), "{stored}");
        seen.push(there);
    }
    assert_eq!(seen.last(), Some(&true), "what was answered is there");
}
