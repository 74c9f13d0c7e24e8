//! Control groups as a guest has them: a part of its own to divide, and no way to anything else (SEC-07,
//! docs/adr/0040-groups-of-guests.md).

use std::fs;

use cml_integration::{Daemon, Groups, Setup, eventually};

fn sh(daemon: &Daemon, name: &str, script: &str) -> cml_integration::Output {
    daemon
        .control()
        .run(&["run", "-T", name, "sh", "-c", script])
}

/// What a service manager does in its first moments. A process of init may end while it is being moved.
const DIVIDE: &str = "set -e; cd /sys/fs/cgroup; \
    mkdir init.scope system.slice system.slice/one.service; \
    until test -z \"$(cat cgroup.procs)\"; do \
    for pid in $(cat cgroup.procs); do echo $pid >init.scope/cgroup.procs || true; done; done; \
    for controller in $(cat cgroup.controllers); do echo +$controller >cgroup.subtree_control; done; \
    sleep 100 & echo $! >system.slice/one.service/cgroup.procs; \
    cat /proc/$!/cgroup | grep ^0::; \
    echo 1 >system.slice/one.service/cgroup.kill; wait; \
    rmdir system.slice/one.service system.slice";

#[test]
fn a_guest_divides_its_part_and_commands_still_find_their_place() {
    for userns in [true, false] {
        for groups in [Groups::AsTheyAre, Groups::OnlyV2] {
            let daemon = Daemon::new(Setup {
                groups,
                ..Setup::default()
            });
            daemon.running_with("x", "busybox", &format!("userns: {userns}\n"));
            let divided = sh(&daemon, "x", DIVIDE);
            assert_eq!(
                divided.out, "0::/system.slice/one.service\n",
                "{groups:?}, userns {userns}: {divided:?}"
            );
            // The group that commands begin in can be taken away, too, when none is in it.
            let away = "setsid sh -c 'echo $$ >/sys/fs/cgroup/init.scope/cgroup.procs; \
                        while ! rmdir /sys/fs/cgroup/cmld-injected; do sleep 0.1; done; touch /tmp/gone' \
                        >/dev/null 2>&1 </dev/null & true";
            assert_eq!(sh(&daemon, "x", away).status, 0);
            eventually("the end of the group", || {
                (sh(&daemon, "x", "test -e /tmp/gone").status == 0).then_some(())
            });
            let again = sh(&daemon, "x", "grep ^0:: /proc/self/cgroup");
            assert_eq!(again.out, "0::/cmld-injected\n");
            daemon.control().ok(&["freeze", "x"]);
            daemon.control().ok(&["unfreeze", "x"]);
            daemon.control().ok(&["remove", "x"]);
        }
    }
}

/// All groups of the machine share the numbers of those with memory, and what is too deep has no path.
#[test]
fn a_guest_makes_no_more_groups_than_it_may_and_all_go_with_it() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        let uuid = daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        let many = "cd /sys/fs/cgroup; mkdir $(seq 1500 | sed s/^/g/) 2>/dev/null; ls -d g* | wc -l; rmdir g*";
        let made: u32 = sh(&daemon, &name, many).out.trim().parse().unwrap();
        assert!((900..=1000).contains(&made), "userns {userns}: {made}");
        let deep = "cd /sys/fs/cgroup; long=$(printf 'n%.0s' $(seq 255)); depth=0; \
                    while mkdir $long 2>/dev/null && cd $long; do depth=$((depth+1)); done; echo $depth";
        let depth: u32 = sh(&daemon, &name, deep).out.trim().parse().unwrap();
        assert!((10..15).contains(&depth), "userns {userns}: {depth}");
        daemon.control().ok(&["stop", &name]);
        daemon.wait_for(&name, "STOPPED");
        assert!(!fs::exists(format!("/sys/fs/cgroup/unified/cml/{uuid}")).unwrap());
    }
}

#[test]
fn a_guest_neither_leaves_its_part_nor_sees_or_changes_what_is_around_it() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        let uuid = daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        // Mounted anew it is the same part; nothing of it has the container's name.
        let names = "mkdir -p /tmp/m; mount -t cgroup2 none /tmp/m 2>/dev/null; \
                     ls -R /sys/fs/cgroup /tmp/m; cat /proc/self/cgroup /proc/1/cgroup /proc/self/mountinfo";
        let seen = sh(&daemon, &name, names).out;
        assert!(!seen.contains(&uuid) && !seen.contains("/.."), "{seen}");
        // What the daemon sets is not the guest's to change.
        let group = format!("/sys/fs/cgroup/unified/cml/{uuid}");
        // Without a user namespace it may write these files of its own part, and they mean nothing above it.
        let attempts: &[_] = match userns {
            true => &[
                "echo 1 >/sys/fs/cgroup/cgroup.freeze",
                "echo 5 >/sys/fs/cgroup/cgroup.max.depth",
                "echo 1 >/sys/fs/cgroup/cgroup.kill",
            ],
            false => &[],
        };
        for attempt in attempts {
            let done = sh(&daemon, &name, attempt);
            assert_ne!(done.status, 0, "userns {userns}: {attempt}: {done:?}");
        }
        assert!(
            fs::read_to_string(format!("{group}/cgroup.procs"))
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            fs::read_to_string(format!("{group}/cgroup.freeze")).unwrap(),
            "0\n"
        );
    }
}

/// Whether this machine has hierarchies of version 1.
fn has_version_1() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup"))
}

#[test]
fn nothing_of_version_1_can_be_written_and_no_release_agent_found() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        let script = "for c in cpu cpuacct cpuset memory devices freezer blkio pids net_cls net_prio perf_event \
                      rdma misc name=systemd; do \
                        mkdir -p /tmp/$c; \
                        mount -t cgroup -o $c none /tmp/$c 2>/dev/null || continue; \
                        echo \"mounted: $c\"; \
                        for file in /tmp/$c/* $(find /tmp/$c -name release_agent); do \
                          if test -f $file && { printf '' >>$file; } 2>/dev/null; then echo \"writable: $file\"; fi; \
                        done; \
                        for try in release_agent notify_on_release cgroup.procs tasks; do \
                          if { echo 1 >/tmp/$c/$try; } 2>/dev/null; then echo \"written: $c/$try\"; fi; \
                        done; \
                        mkdir /tmp/$c/made 2>/dev/null && echo \"made: $c\"; \
                      done; echo end";
        let done = sh(&daemon, &name, script);
        let (mounted, other): (Vec<_>, Vec<_>) = done
            .out
            .lines()
            .partition(|line| line.starts_with("mounted: "));
        assert_eq!(other, ["end"], "userns {userns}: {done:?}");
        // Otherwise nothing was tried.
        assert_eq!(!mounted.is_empty(), userns && has_version_1(), "{done:?}");
    }
}

#[test]
fn a_machine_without_the_unified_hierarchy_gives_a_guest_none() {
    let daemon = Daemon::new(Setup {
        groups: Groups::OnlyV1,
        ..Setup::default()
    });
    daemon.running("x", "busybox");
    assert_eq!(sh(&daemon, "x", "ls /sys/fs/cgroup | wc -l").out, "0\n");
}
