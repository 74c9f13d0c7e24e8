//! What confines a guest, as a whole: a snapshot that is looked at when it changes, so that no change of the
//! containment is made by accident.

use cml_integration::Daemon;
use serde_json::{Value, json};

/// SYS_RESOURCE: not every machine has it to give.
const NOT_EVERYWHERE: u64 = 24;

fn report(daemon: &Daemon, name: &str) -> Value {
    let output = daemon.control().ok(&["run", "-T", name, "probe", "report"]);
    let mut report: Value = serde_json::from_str(&output.out).unwrap();
    for numbers in report["capabilities"].as_object_mut().unwrap().values_mut() {
        let numbers = numbers.as_array_mut().unwrap();
        numbers.retain(|number| *number != json!(NOT_EVERYWHERE));
    }
    report
}

#[test]
fn what_confines_a_guest_is_what_was_reviewed() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    insta::assert_json_snapshot!("guest", report(&daemon, "web"));
}

#[test]
fn what_confines_a_guest_without_a_user_namespace_is_what_was_reviewed() {
    let daemon = Daemon::default();
    daemon.running_with("web", "busybox", "userns: false\n");
    insta::assert_json_snapshot!("guest_of_root", report(&daemon, "web"));
}

#[test]
fn what_confines_a_guest_on_the_hosts_network_is_what_was_reviewed() {
    let daemon = Daemon::default();
    daemon.running_with("web", "busybox", "netns: false\n");
    let mut report = report(&daemon, "web");
    // Those of the host, if it shows any.
    report["interfaces"] = json!([]);
    insta::assert_json_snapshot!("guest_on_hosts_network", report);
}

#[test]
fn every_kernel_file_that_is_to_be_hidden_and_exists_is_hidden() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        let uuid = daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        let mounts = format!("/proc/{}/mounts", daemon.init_pid(&uuid));
        let mounts = std::fs::read_to_string(mounts).unwrap();
        for file in [
            "kcore",
            "keys",
            "kpagecount",
            "slabinfo",
            "timer_list",
            "vmallocinfo",
            "interrupts",
        ] {
            let path = format!("/proc/{file}");
            let exists = std::path::Path::new(&path).exists();
            assert_eq!(
                mounts.contains(&format!(" {path} ")),
                exists,
                "userns {userns}: {path}"
            );
        }
    }
}
