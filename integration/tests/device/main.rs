//! What only a device of its own can show: real boots, power cuts, other kernels. In machines of QEMU, by the words that an
//! operator types into the shell of `core0`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod kernels;
mod power;

use cml_integration::{kit::kit, machine::Machine};

/// The uuid of the management container.
const CORE0: &str = "00000000-0000-0000-0000-000000000000";

/// A container of the device's guest OS, whose configuration must be signed.
fn create(machine: &mut Machine, name: &str, guestos: &str, lines: &str) {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("new.conf");
    let text = format!("name: \"{name}\"\nguest_os: \"{guestos}\"\nguestos_version: 1\n{lines}");
    std::fs::write(&conf, text).unwrap();
    kit().sign(&conf, "ssig_cml");
    for end in ["conf", "sig", "cert"] {
        let bytes = std::fs::read(conf.with_extension(end)).unwrap();
        machine.put(&format!("/tmp/new.{end}"), &bytes);
    }
    machine.ok("control create /tmp/new.conf /tmp/new.sig /tmp/new.cert");
}

/// What `control` answers, in the text form; whether it succeeds is another question.
fn answer(machine: &mut Machine, words: &str) -> String {
    machine.shell(&format!("control --format text {words}")).0
}
