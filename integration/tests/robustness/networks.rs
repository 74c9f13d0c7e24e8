//! The daemon is killed at every step of what connects a container. Afterwards the network card is inside or at home,
//! never lost, and the host's network is what it was as soon as the container has stopped.

use std::{fs, thread, time::Duration};

use cml_integration::{Daemon, Network, eventually};

use crate::power_cuts::{Cut, everywhere};

fn daemon() -> (Daemon, Network) {
    with("net_ifaces { netif: \"nic0\" }\n")
}

/// A daemon with the network card `nic0`, and a container with these lines.
fn with(lines: &str) -> (Daemon, Network) {
    let daemon = Daemon::default();
    let world = Network::default();
    daemon.host().join("nic0", &world, "nic0");
    daemon.host().run(
        "ip link set nic0 address 02:00:00:00:00:01 mtu 1400 && ip addr add 10.9.0.1/24 dev nic0 && ip link set nic0 up",
    );
    world.run("ip link set nic0 up");
    daemon.host().carries("nic0");
    daemon.create(&format!(
        "name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n{lines}"
    ));
    (daemon, world)
}

/// What matters of the host's network; what the kernel makes by itself comes and goes in its own time.
fn picture(daemon: &Daemon) -> String {
    let all = daemon.host().picture();
    let lines = all
        .lines()
        .filter(|line| !line.contains("fe80:") && !line.contains("_lft"));
    lines.map(|line| line.to_owned() + "\n").collect()
}

#[track_caller]
fn settles(daemon: &Daemon, before: &str) {
    // It may be stopped, or stopping, already.
    daemon.control().run(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    let as_before = || {
        (0..500).any(|_| {
            let as_before = picture(daemon) == before;
            if !as_before {
                thread::sleep(Duration::from_millis(20));
            }
            as_before
        })
    };
    if !as_before() {
        let now = picture(daemon);
        let only = |these: &str, those: &str| -> Vec<String> {
            let those: Vec<_> = those.lines().collect();
            let these = these.lines().filter(|line| !those.contains(line));
            these.map(str::to_owned).collect()
        };
        panic!(
            "gone: {:#?}, new: {:#?}",
            only(before, &now),
            only(&now, before)
        );
    }
}

/// How netlink is talked to, records are replaced, and namespaces are named and entered.
const CONNECTING: [&str; 4] = ["sendto", "rename", "move_mount", "setns"];
/// The same, and how a namespace loses its name.
const DISCONNECTING: [&str; 4] = ["sendto", "rename", "umount2", "setns"];

fn cut_starts(daemon: &mut Daemon, calls: &[&str]) {
    let before = picture(daemon);
    everywhere(calls, |call, n| {
        let cut = Cut::attach(daemon, call, n);
        let done = daemon.control().run(&["start", "web"]).status == 0;
        cut.end(daemon);
        settles(daemon, &before);
        done
    });
}

#[test]
fn a_start_that_is_cut_off_anywhere_loses_no_interface() {
    let (mut daemon, _world) = daemon();
    cut_starts(&mut daemon, &CONNECTING);
}

#[test]
fn a_start_with_a_filtered_interface_that_is_cut_off_anywhere_leaves_no_bridge() {
    let filtered = "net_ifaces { netif: \"nic0\" mac_filter: \"02:00:00:00:00:aa\" }\n";
    let (mut daemon, _world) = with(filtered);
    cut_starts(&mut daemon, &["sendto"]);
}

#[test]
fn a_command_that_is_cut_off_anywhere_loses_no_interface() {
    let (mut daemon, _world) = with("");
    let before = picture(&daemon);
    for command in ["assign_iface", "unassign_iface"] {
        everywhere(&["sendto", "rename"], |call, n| {
            daemon.control().ok(&["start", "web"]);
            daemon.wait_for("web", "RUNNING");
            let words = |command| [command, "web", "--iface", "nic0"];
            if command == "unassign_iface" {
                daemon.control().ok(&words("assign_iface"));
            }
            let cut = Cut::attach(&daemon, call, n);
            let done = daemon.control().run(&words(command)).status == 0;
            cut.end(&mut daemon);
            settles(&daemon, &before);
            done
        });
    }
}

#[test]
fn a_stop_that_is_cut_off_anywhere_loses_no_interface() {
    let (mut daemon, _world) = daemon();
    let before = picture(&daemon);
    everywhere(&DISCONNECTING, |call, n| {
        daemon.control().ok(&["start", "web"]);
        daemon.wait_for("web", "RUNNING");
        let before_it = stops_logged(&daemon);
        let cut = Cut::attach(&daemon, call, n);
        let stopping = daemon.control().run(&["stop", "web", "--no-wait"]).status == 0;
        let done = stopping && stops(&daemon, before_it);
        cut.end(&mut daemon);
        settles(&daemon, &before);
        done
    });
}

fn stops_logged(daemon: &Daemon) -> usize {
    daemon.log().matches("state=\"STOPPED\"").count()
}

/// Whether the container has stopped once more before the daemon dies. It is not asked, as it would be cut off by its
/// own answers.
fn stops(daemon: &Daemon, before: usize) -> bool {
    let status = format!("/proc/{}/status", daemon.pid());
    eventually("an end of container or daemon", || {
        let dead = fs::read_to_string(&status).map_or(true, |text| text.contains("State:\tZ"));
        let stopped = stops_logged(daemon) > before;
        (dead || stopped).then_some(stopped)
    })
}
