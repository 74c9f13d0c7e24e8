//! The kernel's own file systems inside a guest: what is hidden, and what the kernel refuses even where nothing
//! is hidden any more (SEC-03, SEC-04, docs/adr/0042-hidden-kernel-files.md).

use std::fs;

use cml_integration::{Daemon, Output};

fn sh(daemon: &Daemon, name: &str, script: &str) -> Output {
    daemon
        .control()
        .run(&["run", "-T", name, "sh", "-c", script])
}

/// What tells about, or acts on, the whole machine.
const SECRETS: &[&str] = &[
    "/proc/kcore",
    "/proc/kpagecount",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/vmallocinfo",
];
const LEVERS: &[(&str, &str)] = &[
    ("/proc/sysrq-trigger", "h"),
    ("/proc/sys/kernel/core_pattern", "|/tmp/evil"),
    ("/proc/sys/kernel/modprobe", "/tmp/evil"),
    ("/proc/sys/kernel/hostname_of_nobody", "x"),
    ("/proc/sys/vm/drop_caches", "1"),
    ("/proc/sys/kernel/panic", "1"),
    ("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/tmp/evil:"),
    ("/sys/kernel/uevent_helper", "/tmp/evil"),
    ("/sys/power/state", "mem"),
];

#[test]
fn a_guest_that_takes_the_covers_away_finds_what_the_kernel_refuses_it() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    // In a user namespace the covers are the guest's own mounts, and it may mount procfs anew.
    let bare = "for at in $(sed 's/^[^ ]* //;s/ .*//' /proc/mounts | grep '^/proc/\\|^/sys/'); do \
                  umount -l $at 2>/dev/null; done; \
                mkdir -p /tmp/p && mount -t proc none /tmp/p 2>/dev/null; true";
    assert_eq!(sh(&daemon, "web", bare).status, 0);
    for file in SECRETS {
        let read = sh(
            &daemon,
            "web",
            &format!("head -c 4096 {file} | grep -v '^Error' | wc -c"),
        );
        assert_eq!(read.out.trim(), "0", "{file}: {read:?}");
    }
    // Of the keys it sees its own: nobody's are others'.
    let keys = sh(&daemon, "web", "awk '{ print $6 }' /proc/keys").out;
    assert!(keys.lines().all(|owner| owner == "0"), "{keys}");
    for (file, word) in LEVERS {
        let written = sh(&daemon, "web", &format!("echo '{word}' >{file}"));
        assert_ne!(written.status, 0, "{file}: {written:?}");
    }
    let now = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(now, pattern);
}

#[test]
fn without_a_user_namespace_the_covers_stay() {
    let daemon = Daemon::default();
    daemon.running_with("web", "busybox", "userns: false\n");
    for file in SECRETS {
        sh(&daemon, "web", &format!("umount {file}; umount -l {file}"));
        let read = sh(&daemon, "web", &format!("head -c 1 {file} | wc -c"));
        assert_eq!(read.out.trim(), "0", "{file}: {read:?}");
    }
    for (file, word) in LEVERS {
        let written = sh(&daemon, "web", &format!("echo '{word}' >{file}"));
        assert_ne!(written.status, 0, "{file}: {written:?}");
    }
    for script in [
        "mount -t proc none /mnt",
        "mount -o remount,rw /sys",
        "mount --bind / /mnt",
        "unshare -m true",
        "unshare -U true",
        "unshare -Um true",
    ] {
        assert_ne!(sh(&daemon, "web", script).status, 0, "{script}");
    }
}

#[test]
fn a_guest_that_puts_something_else_where_terminals_come_from_gets_none() {
    let daemon = Daemon::default();
    let victim = daemon.path("victim");
    fs::write(&victim, "mine").unwrap();
    for (place, put) in [
        ("link", "ln -s /etc/passwd /dev/pts/ptmx"),
        ("pipe", "mkfifo /dev/pts/ptmx"),
        ("file", "echo x >/dev/pts/ptmx"),
        ("nothing", "true"),
        ("node", "mknod /dev/pts/ptmx c 1 5"),
    ] {
        daemon.running(place, "busybox");
        let script = format!("umount -l /dev/pts; {put}");
        assert_eq!(sh(&daemon, place, &script).status, 0, "{place}");
        let run = daemon.control().run(&["run", "-t", place, "true"]);
        assert_eq!(run.status, 126, "{place}: {run:?}");
        // Commands without a terminal go on.
        daemon.answers(place);
    }
}
