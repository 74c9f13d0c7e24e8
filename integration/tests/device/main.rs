//! What only a device of its own can show: real boots, power cuts, hardware, other kernels. In machines of QEMU, by the words
//! that an operator types into a shell, most of them into that of `core0`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod firmware;
mod hardware;
mod kernels;
mod persistence;
mod power;
mod trouble;

use cml_integration::{
    kit::kit,
    machine::{Machine, Options, Shell},
};

/// The uuid of the management container.
const CORE0: &str = "00000000-0000-0000-0000-000000000000";

/// A device with `core0` running, and a shell outside of all containers, for what nobody sees from inside.
fn outside(options: Options) -> Machine {
    let mut machine = Machine::boot_with(Options {
        shell: Shell::Outside,
        ..options
    });
    await_core0(&mut machine);
    machine
}

/// A shell outside is there before the daemon.
fn await_core0(machine: &mut Machine) {
    let record = format!("/run/socket/cmld/containers/{CORE0}.json");
    machine.ok(&format!("until [ -e {record} ]; do sleep 1; done"));
    machine.wait_for(CORE0, "RUNNING");
}

/// Puts a signed configuration into `/tmp`: the words for its files.
fn put_signed(machine: &mut Machine, text: &str) -> &'static str {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("new.conf");
    std::fs::write(&conf, text).unwrap();
    kit().sign(&conf, "ssig_cml");
    for end in ["conf", "sig", "cert"] {
        let bytes = std::fs::read(conf.with_extension(end)).unwrap();
        machine.put(&format!("/tmp/new.{end}"), &bytes);
    }
    "/tmp/new.conf /tmp/new.sig /tmp/new.cert"
}

/// A container of the device's guest OS, whose configuration must be signed.
fn create(machine: &mut Machine, name: &str, guestos: &str, lines: &str) {
    let text = format!("name: \"{name}\"\nguest_os: \"{guestos}\"\nguestos_version: 1\n{lines}");
    let files = put_signed(machine, &text);
    machine.ok(&format!("control create {files}"));
}

/// What `control` answers, in the text form; whether it succeeds is another question.
fn answer(machine: &mut Machine, words: &str) -> String {
    machine.shell(&format!("control --format text {words}")).0
}
