//! The acceptance suite of the existing system (protocol.md 5), by our command line in the text form that its scripts
//! read, with tokens that must be paired.
//!
//! It runs twice: by the shell of this machine, where a reboot is one of the daemon, and, in a machine of QEMU, from inside
//! `core0` of a device that really boots four times.

mod checks;
mod data;
mod place;

use checks::Suite;
use place::{InCore0, OnHost, Place};

/// The PIN of the suite (protocol.md 5).
const PIN: &str = "pw";

#[test]
fn the_existing_acceptance_suite_passes() {
    passes(Box::new(OnHost::new()));
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn the_existing_acceptance_suite_passes_from_inside_core0_of_a_device_over_four_boots() {
    passes(Box::new(InCore0::new()));
}

fn passes(place: Box<dyn Place>) {
    let mut suite = Suite::new(place);
    // BOOT1
    suite.lists();
    let root = suite.kit_file("ssig_rootca.cert");
    suite.without("Abort", &["ca_register", &root]);
    suite.core0_updated();
    let plain = suite.conf("testcontainer", data::TEST);
    suite.without("uuids", &["create", &plain]);
    for (name, text) in [
        ("signedcontainer1", data::SIGNED_1),
        ("signedcontainer2", data::SIGNED_2),
        ("rmcontainer3", data::REMOVED),
    ] {
        suite.created(name, text);
    }
    suite.reboot();

    // BOOT2
    for name in ["signedcontainer1", "signedcontainer2", "rmcontainer3"] {
        suite.with(name, &["list"]);
    }
    suite.updated(
        "signedcontainer1",
        data::UPDATE,
        "netif: \"00:00:00:00:00:11\"",
    );
    suite.first_run("signedcontainer1");
    suite.renamed_and_back();
    suite.first_run("signedcontainer2");
    suite.removed_while_it_runs("rmcontainer3");
    suite.nullos(1);
    suite.nullos(2);
    suite.reboot();

    // BOOT3
    suite.second_run("signedcontainer1");
    suite.renamed_and_back();
    suite.cycles_then_removal("signedcontainer1");
    suite.second_run("signedcontainer2");
    suite.cycles_then_removal("signedcontainer2");
    suite.nullos(3);
    suite.provisioning();
    suite.kernel_update();
    suite.reboot();

    // BOOT4
    suite.both_kernels();
    suite.log_names_the_configuration();
}
