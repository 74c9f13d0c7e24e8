//! The plug is pulled, and nothing that was answered is lost.

use cml_integration::machine::{Machine, Options, Shell};
use serde_json::json;

use crate::{CORE0, answer, await_core0, create, outside, put_signed};

/// Begins a command, and pulls the plug as soon as there is a sign that it is under way.
#[track_caller]
fn cut_when(machine: &mut Machine, sign: &str, words: &str) {
    machine.ok(&format!(
        "({words} >/dev/null 2>&1 </dev/null &) ; until {sign}; do :; done"
    ));
    machine.power_cut();
    await_core0(machine);
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn nothing_that_was_answered_is_lost_when_the_plug_is_pulled() {
    let mut machine = outside(Options::default());
    create(&mut machine, "web", "gyroidos-coreos", "");
    machine.ok("printf '\\npw\\npw\\n' | control change_pin web");
    let state = answer(&mut machine, "state web");
    let uuid = state
        .lines()
        .find_map(|line| line.trim().strip_prefix("uuid: \""))
        .unwrap()
        .trim_end_matches('"')
        .to_owned();
    let images = format!("/data/cml/containers/{uuid}");
    machine.power_cut();
    await_core0(&mut machine);

    // Created, with its PIN. Its first start, which makes its volume, is cut short and then done again.
    assert!(answer(&mut machine, "start web --key=wrong").contains("CONTAINER_START_PASSWD_WRONG"));
    let begun = format!("[ -e {images}/.etc.img.new ]");
    cut_when(&mut machine, &begun, "control start web --key=pw");
    machine.ok(&format!("! [ -e {images}/etc.img ]"));
    assert!(answer(&mut machine, "state web").contains("state: STOPPED"));
    machine.ok("control start web --key=pw");
    machine.wait_for("web", "RUNNING");
    machine.ok("control run web nopty sh -c 'echo kept >/data/file; sync'");

    // What a guest has written is there; a token that was locked is open again, by the reboot alone.
    machine.power_cut();
    await_core0(&mut machine);
    for _ in 0..3 {
        answer(&mut machine, "start web --key=wrong");
    }
    assert!(answer(&mut machine, "start web --key=pw").contains("CONTAINER_LOCKED_TILL_REBOOT"));
    machine.begin("control reboot </dev/null");
    machine.await_reboot();
    await_core0(&mut machine);
    machine.ok("control start web --key=pw");
    machine.wait_for("web", "RUNNING");
    let kept = machine.ok("control run web nopty cat /data/file");
    assert_eq!(kept, "kept\n");
    let state = answer(&mut machine, "state web");
    assert!(state.contains("cryptfs_mode: INTEGRITY_ENCRYPT"), "{state}");

    // A change of the PIN is either done or not.
    machine.ok("control stop web --key=pw");
    machine.wait_for("web", "STOPPED");
    let counted = format!("[ -e /data/cml/tokens/{uuid}.tries ]");
    let change = "printf 'pw\\nnew\\nnew\\n' | control change_pin web";
    cut_when(&mut machine, &counted, &format!("sh -c \"{change}\""));
    let old = answer(&mut machine, "start web --key=pw").contains("CONTAINER_START_OK");
    if !old {
        machine.ok("control start web --key=new");
    }
    let key = if old { "pw" } else { "new" };
    machine.wait_for("web", "RUNNING");
    assert_eq!(machine.ok("control run web nopty cat /data/file"), "kept\n");

    // A wipe that was begun is finished, and the container begins anew. Somebody has the image open, so it takes long enough.
    machine.ok(&format!("control stop web --key={key}"));
    machine.wait_for("web", "STOPPED");
    machine.ok(&format!("losetup $(losetup -f) {images}/etc.img"));
    // The mark is on the disk when the daemon waits for whoever that is.
    let begun = format!("[ -e {images}.wiping ] && sleep 3");
    cut_when(&mut machine, &begun, "control wipe web");
    machine.ok("grep -qs 'finishing an interrupted wipe' /run/cmld.stderr /data/logs/*");
    machine.ok(&format!("! [ -e {images}/etc.img ]"));
    machine.ok(&format!("control start web --key={key}"));
    machine.wait_for("web", "RUNNING");
    let found = machine.shell("control run web nopty cat /data/file").0;
    assert!(found.contains("No such file"), "{found}");
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

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn only_the_keys_and_the_button_end_the_machine_and_they_stop_the_containers_first() {
    let mut machine = outside(Options::default());
    create(&mut machine, "idle", "busybox", "token_type: NONE\n");
    machine.ok("control start idle");
    machine.wait_for("idle", "RUNNING");
    // Neither the death of the daemon nor a reboot of the core0 that its successor has taken over.
    let init =
        format!("grep -o '\"pid\":[0-9]*' /run/socket/cmld/containers/{CORE0}.json | head -n 1");
    let before = machine.ok(&init);
    machine.ok("killall -9 cmld && sleep 1");
    await_core0(&mut machine);
    machine.ok("control run core0 nopty reboot");
    machine.ok(&format!(
        "while [ \"$({init})\" = '{}' ]; do sleep 1; done",
        before.trim()
    ));
    await_core0(&mut machine);
    assert!(answer(&mut machine, "state idle").contains("state: RUNNING"));
    let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
    machine
        .beside()
        .execute("send-key", &json!({ "keys": keys }));
    machine.await_reboot();
    await_core0(&mut machine);
    // What the daemon says when all of them have.
    machine.ok("grep -q 'cmld ends' /data/logs/*");
    machine.ok("control start idle");
    machine.wait_for("idle", "RUNNING");
    machine.beside().execute("system_powerdown", &json!({}));
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
    // KiB that are stored when the plug is pulled: as soon as it has begun, in the middle, not before there is an answer.
    for (name, stored) in [
        ("soon", Some(0)),
        ("later", Some(SIZE / 2048)),
        ("answered", None),
    ] {
        let push = offer(&mut machine, name, &sha256);
        match stored {
            Some(kib) => {
                let hidden = format!("{store}/.install-{name}-1");
                let sign =
                    format!("[ -e {hidden} ] && [ $(du -sk {hidden} | cut -f 1) -gt {kib} ]");
                cut_when(&mut machine, &sign, &push);
            }
            None => {
                let said = machine.ok(&push);
                assert!(said.contains("GUESTOS_MGR_INSTALL_COMPLETED"), "{said}");
                machine.power_cut();
                await_core0(&mut machine);
            }
        }
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
    assert_eq!(
        seen,
        [false, false, true],
        "what was answered is there, and nothing else"
    );
}
