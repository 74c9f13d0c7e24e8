//! The acceptance suite of the existing system (protocol.md 5), by our command line in the text form that its scripts
//! read, with tokens that must be paired.
//!
//! A reboot is one of the daemon here. What needs a second kernel or `core0` is in the tests of the device image: the
//! configuration of `core0`, what it writes into fifos, the kernel that is booted.

mod checks;
mod data;

use checks::Suite;

/// The PIN of the suite (protocol.md 5).
const PIN: &str = "pw";

#[test]
fn the_existing_acceptance_suite_passes() {
    let mut suite = Suite::new();
    // BOOT1
    suite.lists();
    let root = suite.kit_file("ssig_rootca.cert");
    suite.without("Abort", &["ca_register", &root]);
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
