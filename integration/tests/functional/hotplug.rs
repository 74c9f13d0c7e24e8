//! News of devices: what a guest hears, and what becomes of news that nobody heard.

use std::{fs, path::Path, thread};

use cml_integration::{Daemon, eventually};
use rustix::process::Signal;

fn sh(daemon: &Daemon, script: &str) -> bool {
    let words = ["run", "web", "nopty", "sh", "-c", script];
    daemon.control().run(&words).status == 0
}

#[test]
fn a_guest_hears_of_its_own_devices_what_the_kernel_says_and_of_no_others() {
    // One that every guest may open, and one that none may.
    let (mine, other) = ("/devices/virtual/mem/full", "/devices/virtual/mem/kmsg");
    let happens = |device: &str, what: &str| {
        fs::write(format!("/sys{device}/uevent"), what).unwrap();
    };
    let mut daemon = Daemon::default();
    daemon.running("web", "busybox");
    for restart in [false, true] {
        if restart {
            daemon.crash();
            daemon.start();
        }
        sh(&daemon, "rm -f /run/hostile.listens");
        let report = thread::scope(|scope| {
            let listens = scope.spawn(|| daemon.hostile("web", &[], &format!("news {mine}")));
            eventually("somebody who listens", || {
                sh(&daemon, "test -e /run/hostile.listens").then_some(())
            });
            // One after the other, so that the second tells that the first has been dealt with.
            happens(other, "add");
            happens(mine, "change");
            listens.join().unwrap()
        });
        assert_eq!(report["bound"], 0, "{report:#}");
        assert_eq!(report[format!("change@{mine}")], 1, "{report:#}");
        assert_eq!(report["forged"], 0, "{report:#}");
        assert_eq!(report["without a number"], 0, "{report:#}");
        assert!(report.get(format!("add@{other}")).is_none(), "{report:#}");
    }
}

/// More than a socket holds: 2 MiB, of which the kernel counts at least 512 bytes for each.
const FLOOD: usize = 6000;

#[test]
fn what_is_lost_in_a_flood_of_news_is_found_by_looking() {
    let daemon = Daemon::default();
    let device = Path::new("/sys/devices/virtual/misc/btrfs-control");
    let number = fs::read_to_string(device.join("dev")).unwrap();
    let rule = format!("allow_dev: \"c {}\"\n", number.trim());
    daemon.running_with("web", "busybox", &rule);
    assert!(sh(&daemon, "rm /dev/btrfs-control"));
    daemon.signal(Signal::STOP);
    // Of something that has no node, and so concerns nobody.
    for _ in 0..FLOOD {
        fs::write("/sys/devices/system/cpu/cpu0/uevent", "change").unwrap();
    }
    fs::write(device.join("uevent"), "add").unwrap();
    daemon.signal(Signal::CONT);
    eventually("the node", || {
        sh(&daemon, "test -c /dev/btrfs-control").then_some(())
    });
}
