//! What is plugged into a device: a keypad for PINs, sound, USB devices, network cards. One machine has it all.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use cml_integration::machine::{Machine, Options};
use serde_json::json;

use crate::{answer, create, outside};

/// A keypad and a sound card are there from the beginning; the ports are for what comes later.
const HARDWARE: [&str; 12] = [
    "-device",
    "qemu-xhci,id=usb",
    "-device",
    "usb-kbd,bus=usb.0,serial=PAD",
    "-audiodev",
    "none,id=sound",
    "-device",
    "ich9-intel-hda",
    "-device",
    "hda-duplex,audiodev=sound",
    "-device",
    "pcie-root-port,id=bay,chassis=1,slot=1",
];

/// QEMU's USB devices for people have one identity; their serial numbers tell them apart.
const WEB: &str = "usb_pin_entry: true
usb_configs { id: \"0627:0001\" serial: \"PAD\" assign: false type: PIN_ENTRY }
usb_configs { id: \"0627:0001\" serial: \"STICK\" assign: true type: GENERIC }
net_ifaces { netif: \"02:fc:00:00:00:aa\" }
";
/// Another one with the same keypad.
const TYPED: &str = "usb_pin_entry: true
usb_configs { id: \"0627:0001\" serial: \"PAD\" assign: false type: PIN_ENTRY }
";
const CARD: &str = "02:fc:00:00:00:aa";

/// Emulated hardware takes its time to be noticed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until lines of shell succeed, or fail.
#[track_caller]
fn eventually(machine: &mut Machine, what: &str, script: &str, succeeds: bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (said, status) = machine.shell(script);
        if (status == 0) == succeeds {
            return;
        }
        assert!(Instant::now() < end, "{what}: {script}: {said}");
        sleep(Duration::from_millis(200));
    }
}

/// A command of which the PIN is typed on the keypad: what it answers. The daemon listens to nobody but the keypad then.
#[track_caller]
fn with_keys(machine: &mut Machine, words: &str, keys: &[&str]) -> String {
    with_keys_while(machine, words, keys, |_| ())
}

/// As [`with_keys`], with something else before the first key.
#[track_caller]
fn with_keys_while(
    machine: &mut Machine,
    words: &str,
    keys: &[&str],
    before: impl FnOnce(&mut Machine),
) -> String {
    // No child of the shell: that of busybox ends with it.
    machine.ok(&format!(
        "(control --format text {words} >/tmp/answer 2>&1 &)"
    ));
    let listens = "ls -l /proc/$(pidof cmld)/fd | grep -q /dev/input/event";
    eventually(machine, "nobody listens to the keypad", listens, true);
    before(machine);
    machine.beside().press(keys);
    eventually(machine, "no answer", "grep -q response: /tmp/answer", true);
    machine.ok("cat /tmp/answer")
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn a_keypad_sound_usb_devices_and_network_cards_go_where_they_belong() {
    let mut machine = outside(Options {
        hardware: &HARDWARE,
        ..Options::default()
    });
    create(&mut machine, "web", "busybox", WEB);
    create(&mut machine, "typed", "busybox", TYPED);
    create(&mut machine, "other", "busybox", "token_type: NONE\n");
    machine.ok("printf '\\n1234\\n1234\\n' | control change_pin web");
    machine.ok("control start other");
    machine.wait_for("other", "RUNNING");
    a_pin_is_typed_on_the_keypad_alone(&mut machine);
    sound_is_granted_and_taken(&mut machine);
    a_usb_device_is_known_by_its_serial_number(&mut machine);
    a_network_card_comes_and_goes(&mut machine);
}

/// Numbers of keys, as the kernel counts them.
const KEY_1: u16 = 2;
const KEY_5: u16 = 6;

/// Shell that looks whether somebody else has heard that this key went down: behind 16 bytes of time `struct input_event`
/// has its type (1: a key), its code and its value (1: down).
fn heard(key: u16) -> String {
    let event = format!("0100{key:02x}0001000000");
    format!("hexdump -v -e '24/1 \"%02x\" \"\\n\"' /tmp/heard | grep -q '{event}$'")
}

fn a_pin_is_typed_on_the_keypad_alone(machine: &mut Machine) {
    let aborted = with_keys(machine, "start web", &["1", "esc"]);
    assert!(
        aborted.contains("CONTAINER_USB_PIN_ENTRY_FAIL"),
        "{aborted}"
    );
    let wrong = with_keys(
        machine,
        "start web --key=1234",
        &["1", "2", "3", "5", "ret"],
    );
    assert!(wrong.contains("CONTAINER_START_PASSWD_WRONG"), "{wrong}");
    // Whoever else reads that keypad hears nothing meanwhile, and nobody else is asked to type on it.
    machine.ok("for node in /dev/input/event*; do (cat $node >>/tmp/heard 2>/dev/null &); done");
    let keys = ["1", "2", "9", "backspace", "kp_3", "4", "kp_enter"];
    let started = with_keys_while(machine, "start web", &keys, |machine| {
        let second = answer(machine, "start typed");
        assert!(second.contains("CONTAINER_USB_PIN_ENTRY_FAIL"), "{second}");
    });
    assert!(started.contains("CONTAINER_START_OK"), "{started}");
    machine.wait_for("web", "RUNNING");
    machine.ok(&format!("! {}", heard(KEY_1)));
    machine.beside().press(&["5"]);
    eventually(machine, "nobody else has it back", &heard(KEY_5), true);
    machine.ok("killall cat");
}

fn sound_is_granted_and_taken(machine: &mut Machine) {
    let opens = |container: &str| {
        format!("control run {container} nopty sh -c 'exec 3</dev/snd/controlC0'")
    };
    eventually(machine, "no sound", "[ -c /dev/snd/controlC0 ]", true);
    assert_ne!(machine.shell(&opens("web")).1, 0);
    machine.ok("control allow_audio web");
    machine.ok(&opens("web"));
    assert_ne!(machine.shell(&opens("other")).1, 0);
    machine.ok("control deny_audio web");
    assert_ne!(machine.shell(&opens("web")).1, 0);
    let left = machine.shell("control run web nopty ls /dev/snd").0;
    assert!(!left.contains("controlC0"), "{left}");
}

fn a_usb_device_is_known_by_its_serial_number(machine: &mut Machine) {
    let plug = |machine: &mut Machine, id: &str, serial: &str| {
        let mouse = json!({ "driver": "usb-mouse", "id": id, "bus": "usb.0", "serial": serial });
        machine.beside().plug(&mouse);
        let seen = format!("grep -qx {serial} /sys/bus/usb/devices/*/serial");
        eventually(machine, "the device is not seen", &seen, true);
    };
    // A container gets the device as a whole; what its driver on the host makes of it stays there.
    let node = "/dev/$(for d in /sys/bus/usb/devices/*; do grep -qsx STICK $d/serial && \
                sed -n s/^DEVNAME=//p $d/uevent; done)";
    plug(machine, "wrong", "STOCK");
    plug(machine, "stick", "STICK");
    machine.ok(&format!("echo {node} >/tmp/node"));
    let inside = |container: &str| {
        format!("control run {container} nopty sh -c \"exec 3<$(cat /tmp/node)\"")
    };
    eventually(machine, "it has not come", &inside("web"), true);
    let all = machine.ok("control run web nopty find /dev/bus -type c");
    assert_eq!(all, machine.ok("cat /tmp/node"), "and nothing else");
    assert_ne!(machine.shell(&inside("other")).1, 0);
    machine.beside().unplug("stick");
    let there = "control run web nopty ls $(cat /tmp/node)";
    eventually(machine, "it has not gone", there, false);
    // It has another number when it comes again.
    plug(machine, "stick", "STICK");
    machine.ok(&format!("echo {node} >/tmp/node"));
    eventually(machine, "it has not come again", &inside("web"), true);
}

fn a_network_card_comes_and_goes(machine: &mut Machine) {
    let plug = |machine: &mut Machine| {
        let net = json!({ "type": "user", "id": "lan", "restrict": true });
        machine.beside().execute("netdev_add", &net);
        let card = json!({
            "driver": "virtio-net-pci", "id": "card", "bus": "bay", "netdev": "lan", "mac": CARD
        });
        machine.beside().plug(&card);
    };
    let has = |container: &str| format!("control run {container} nopty ip link | grep -q {CARD}");
    assert_ne!(machine.shell(&has("web")).1, 0);
    plug(machine);
    eventually(machine, "the card is not in web", &has("web"), true);
    let listed = answer(machine, "ifaces web");
    assert!(listed.contains(CARD), "{listed}");
    assert_ne!(machine.shell(&has("core0")).1, 0, "core0 has it as well");
    // It is pulled out while the container has it, and comes again.
    machine.beside().unplug("card");
    eventually(machine, "the card is still in web", &has("web"), false);
    machine
        .beside()
        .execute("netdev_del", &json!({ "id": "lan" }));
    plug(machine);
    eventually(machine, "the card is not in web again", &has("web"), true);
    let stopped = with_keys(machine, "stop web", &["1", "2", "3", "4", "ret"]);
    assert!(stopped.contains("CONTAINER_STOP_OK"), "{stopped}");
    machine.wait_for("web", "STOPPED");
    // What nobody claims is the router's.
    eventually(machine, "the card is not in core0", &has("core0"), true);
}
