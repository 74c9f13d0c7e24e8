//! `kill -9` of the daemon at any moment: the next one finds or undoes what it left (LIF-14).

use std::{thread, time::Duration};

use cml_integration::{Daemon, eventually, groups};

/// Moments at which the daemon is killed after a start was asked for: a start takes 20 to 40 ms here.
const MOMENTS: u64 = 16;

#[test]
fn a_daemon_killed_at_any_moment_of_a_start_leaves_nothing_undecided() {
    let mut daemon = Daemon::default();
    let uuid = daemon.create("name: \"x\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
    for moment in 0..MOMENTS {
        let mut start = daemon.control().command(&["start", "x"]);
        let asked = thread::spawn(move || start.output().unwrap());
        daemon.wait_for_log("state=\"STARTING\"");
        thread::sleep(Duration::from_millis(moment * 3));
        daemon.crash();
        asked.join().unwrap();
        daemon.start();
        let state = daemon.state("x");
        assert!(
            ["RUNNING", "STOPPED"].contains(&state.as_str()),
            "{moment}: {state}"
        );
        if state == "RUNNING" {
            assert_eq!(daemon.facts("x")["hostname"], "x");
        } else {
            daemon.control().ok(&["start", "x"]);
        }
        let pid = daemon.init_pid(&uuid);
        assert_eq!(inits(&uuid), [pid], "{moment}");
        kill(pid);
        daemon.wait_for("x", "STOPPED");
    }
}

/// Every process of the container that is the first of its PID namespace.
fn inits(uuid: &str) -> Vec<u32> {
    let group = format!("/cml/{uuid}");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let read = |file| std::fs::read_to_string(entry.path().join(file)).ok();
            let status = read("status")?;
            let numbers = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))?;
            let inside = numbers.split_whitespace().last()?;
            // One that was killed and waits to be collected runs nothing any more.
            let alive = !status.contains("State:\tZ");
            (alive && inside == "1" && read("cgroup")?.contains(&group)).then_some(pid)
        })
        .collect()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_daemon_killed_during_a_removal_leaves_the_container_whole_or_gone() {
    let mut daemon = Daemon::default();
    for moment in 0..8 {
        let uuid = daemon.running("x", "busybox");
        let mut remove = daemon.control().command(&["remove", "x"]);
        let asked = thread::spawn(move || remove.output().unwrap());
        thread::sleep(Duration::from_millis(moment * 3));
        daemon.crash();
        asked.join().unwrap();
        daemon.start();
        if daemon.control().ok(&["list"]).out.contains(&uuid) {
            daemon.control().ok(&["remove", &uuid]);
        }
        eventually("the end of its groups", || {
            groups(std::slice::from_ref(&uuid)).is_empty().then_some(())
        });
    }
    assert_eq!(
        std::fs::read_dir(daemon.base().join("containers"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_daemon_killed_again_and_again_always_comes_back() {
    let mut daemon = Daemon::default();
    daemon.running("x", "busybox");
    for moment in 0..20 {
        daemon.crash();
        daemon.start();
        thread::sleep(Duration::from_millis(moment));
    }
    assert_eq!(daemon.state("x"), "RUNNING");
    assert_eq!(daemon.facts("x")["hostname"], "x");
}
