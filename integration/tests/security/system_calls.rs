//! What a guest can ask of the kernel (SEC-12, SEC-13, runtime.md 2.6, docs/adr/0041-system-calls.md).

use std::{fs, process::Command};

use cml_integration::{Daemon, Setup, eventually};
use serde_json::{Value, json};

const EPERM: i64 = -1;
const ENOENT: i64 = -2;
const ENOEXEC: i64 = -8;
const EBADF: i64 = -9;
const EFAULT: i64 = -14;
const EEXIST: i64 = -17;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;
const EAFNOSUPPORT: i64 = -97;

fn number(report: &Value, name: &str) -> i64 {
    report[name]
        .as_i64()
        .unwrap_or_else(|| panic!("no `{name}` in {report:#}"))
}

#[track_caller]
fn all(report: &Value, names: &[&str], expected: i64) {
    for name in names {
        assert_eq!(number(report, name), expected, "{name}: {report:#}");
    }
}

#[test]
fn what_acts_on_the_whole_machine_or_is_made_for_getting_out_is_refused() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        let report = daemon.hostile(&name, &[], "calls");
        let forbidden = [
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "bpf",
            "perf_event_open",
            "swapon",
            "swapoff",
            "acct",
            "quotactl",
            "quotactl_fd",
            "syslog",
        ];
        all(&report, &forbidden, EPERM);
        let absent = [
            "keyctl",
            "add_key",
            "request_key",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "the next call",
            "a far call",
        ];
        all(&report, &absent, ENOSYS);
        for family in ["alg", "vsock"] {
            let names = [
                format!("socket {family}"),
                format!("socket {family}, disguised"),
            ];
            all(&report, &names.each_ref().map(String::as_str), EAFNOSUPPORT);
        }
        // The neighbours are there.
        for name in ["unix", "inet", "netlink"] {
            assert!(number(&report, &format!("socket {name}")) > 2, "{report:#}");
        }
        for name in ["getpid", "getppid", "adjtimex"] {
            assert!(number(&report, name) >= 0, "{name}: {report:#}");
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_same_calls_have_no_second_door() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let report = daemon.hostile("web", &[], "calls");
    let foreign = [
        "i386 getpid",
        "i386 init_module",
        "i386 mknod",
        "x32 getpid",
        "x32 keyctl",
    ];
    all(&report, &foreign, ENOSYS);
}

#[test]
fn init_and_commands_have_the_same_filter_and_no_setting_takes_it_away() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        let uuid = daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        let of_init = fs::read_to_string(format!("/proc/{}/status", daemon.init_pid(&uuid)));
        let of_init = of_init.unwrap();
        let status = ["run", "-T", &name, "cat", "/proc/self/status"];
        let of_command = daemon.control().ok(&status).out;
        for text in [&of_init, &of_command] {
            for line in ["Seccomp:\t2\n", "Seccomp_filters:\t1\n"] {
                assert!(text.contains(line), "userns {userns}: {text}");
            }
        }
    }
}

#[test]
fn nodes_of_harmless_devices_are_made_and_work_and_others_are_not() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    daemon
        .control()
        .ok(&["run", "-T", "web", "mkdir", "-p", "/tmp/n", "/run/n"]);
    // In the root, which is an overlay and takes no marks of deleted files itself, and in a tmpfs.
    for (dir, whiteout) in [("/tmp/n", EPERM), ("/run/n", 0)] {
        let report = daemon.hostile("web", &[], &format!("nodes {dir}"));
        let made = ["socket", "pipe", "file", "null", "zero", "relative"];
        all(&report, &made, 0);
        all(
            &report,
            &["memory", "log", "console", "block null", "loop"],
            EPERM,
        );
        all(&report, &["whiteout"], whiteout);
        assert_eq!(number(&report, "bytes of zero"), 8, "{report:#}");
        // The errors are the kernel's own.
        all(&report, &["null again"], EEXIST);
        all(&report, &["nowhere"], ENOENT);
        all(&report, &["no pointer"], EFAULT);
        all(&report, &["bad descriptor"], EBADF);
        let script =
            format!("stat -c '%u:%g %a %t:%T' {dir}/null; umount {dir}/null && rm {dir}/null");
        let seen = daemon
            .control()
            .ok(&["run", "-T", "web", "sh", "-c", &script]);
        assert_eq!(seen.out, "0:0 640 1:3\n");
    }
    // Not for somebody without the capability, nor for somebody who has it in a user namespace inside.
    let run = |script: &str| {
        let words = ["run", "-T", "-u", "1234", "web", "sh", "-c", script];
        daemon.control().run(&words)
    };
    daemon
        .control()
        .ok(&["run", "-T", "web", "chmod", "777", "/tmp/n"]);
    assert_ne!(run("mknod /tmp/n/mine c 1 3").status, 0);
    let nested = run("unshare -Ur sh -c 'id -u; mknod /tmp/n/mine c 1 3'");
    assert_eq!(nested.out, "0\n", "{nested:?}");
    assert!(nested.err.contains("not permitted"), "{nested:?}");
    let there = ["run", "-T", "web", "test", "-e", "/tmp/n/mine"];
    assert_ne!(daemon.control().run(&there).status, 0);
}

#[test]
fn a_node_can_be_made_of_what_the_device_rules_allow_also_after_they_changed() {
    let mut daemon = Daemon::default();
    // The kernel's log, and the control of loop devices: no guest has them by itself.
    daemon.running_with("web", "busybox", "allow_dev: \"c 1:11 m\"\n");
    daemon
        .control()
        .ok(&["run", "-T", "web", "mkdir", "/tmp/n"]);
    let script = |daemon: &Daemon, script: &str| {
        let words = ["run", "-T", "web", "sh", "-c", script];
        daemon.control().run(&words)
    };
    let makes = |daemon: &Daemon, name: &str, device: &str| {
        let made = script(daemon, &format!("mknod /tmp/n/{name} {device}"));
        let refused = made.err.contains("not permitted");
        assert_eq!(made.status != 0, refused, "{made:?}");
        !refused
    };
    // Made, but not to be opened: each right by itself.
    assert!(makes(&daemon, "log", "c 1 11"));
    assert_ne!(script(&daemon, "exec 3</tmp/n/log").status, 0);
    assert!(makes(&daemon, "random", "c 10 183"), "of the default list");
    assert!(!makes(&daemon, "loop", "c 10 237"));
    assert!(!makes(&daemon, "block", "b 1 11"), "of the other kind");
    let control = daemon.control();
    control.ok(&["dev_access", "web", "allow", "c 10:*", "rm"]);
    assert!(makes(&daemon, "loop", "c 10 237"));
    assert_eq!(script(&daemon, "exec 3</tmp/n/loop").status, 0);
    control.ok(&["dev_access", "web", "deny", "c 10:237", "m"]);
    assert!(!makes(&daemon, "again", "c 10 237"));
    assert!(makes(&daemon, "other", "c 10 236"));
    daemon.crash();
    daemon.start();
    assert!(!makes(&daemon, "again", "c 10 237"));
    daemon
        .control()
        .ok(&["dev_access", "web", "deny", "c 1:*", "m"]);
    assert!(!makes(&daemon, "null", "c 1 3"));
}

#[test]
fn nodes_are_made_where_the_caller_stands() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    // In a root of its own, in a mount namespace of its own, by a path through `..` and through a link.
    let script = "mkdir -p /tmp/r/bin /tmp/r/deep && cp /bin/busybox /tmp/r/bin/ && ln -s /deep /tmp/r/link && \
                  chroot /tmp/r /bin/busybox sh -c 'cd deep && busybox mknod ../../../a c 1 3 && \
                  busybox mknod /link/b c 1 3' && ls /tmp/r /tmp/r/deep && \
                  unshare -m sh -c 'mount -t tmpfs none /mnt && mknod /mnt/c c 1 3 && echo x >/mnt/c && ls /mnt'; \
                  ls /mnt";
    let made = daemon
        .control()
        .run(&["run", "-T", "web", "sh", "-c", script]);
    assert_eq!(
        made.out, "/tmp/r:\na\nbin\ndeep\nlink\n\n/tmp/r/deep:\nb\nc\n",
        "{made:?}"
    );
}

#[test]
fn changing_what_a_pointer_leads_to_while_a_call_is_looked_at_wins_nothing() {
    let daemon = Daemon::default();
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    daemon.running_with("web", "busybox", "allow_system_time: true\n");
    daemon
        .control()
        .ok(&["run", "-T", "web", "mkdir", "/tmp/n"]);
    // As somebody who may read the clock's state and not change it.
    let clock = daemon.hostile("web", &["-u", "1234"], "race clock");
    assert!(number(&clock, "allowed") > 0, "{clock:#}");
    assert_eq!(number(&clock, "changed by"), 0, "{clock:#}");
    let node = daemon.hostile("web", &[], "race node /tmp/n");
    assert!(number(&node, "made") > 0, "{node:#}");
    assert_eq!(pattern(), before);
    // What was made by chance lies in the guest.
    daemon.answers("web");
}

#[test]
fn callers_that_are_killed_in_the_middle_cost_nothing_but_their_own_call() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    daemon
        .control()
        .ok(&["run", "-T", "web", "mkdir", "/tmp/n"]);
    let report = daemon.hostile("web", &[], "hang /tmp/n");
    assert_eq!(number(&report, "killed"), 100);
    assert_eq!(number(&report, "sysinfo"), 0);
    let emulator = daemon.record(&uuid)["running"]["emulator"]["pid"].clone();
    let children = || {
        let path = format!("/proc/{emulator}/task/{emulator}/children");
        fs::read_to_string(path).unwrap()
    };
    eventually("the end of its children", || {
        children().is_empty().then_some(())
    });
    let descriptors = fs::read_dir(format!("/proc/{emulator}/fd"))
        .unwrap()
        .count();
    assert!(descriptors < 16, "{descriptors}");
    // It ends with its container, and the daemon collects it.
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    eventually("its end", || {
        (!std::path::Path::new(&format!("/proc/{emulator}")).exists()).then_some(())
    });
    daemon.stop();
}

#[test]
fn more_callers_than_are_worked_for_at_once_are_all_answered() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let script = "mkdir /tmp/n; for i in $(seq 40); do mknod /tmp/n/$i c 1 3 & done; wait; ls /tmp/n | wc -l";
    let made = daemon
        .control()
        .ok(&["run", "-T", "web", "sh", "-c", script]);
    assert_eq!(made.out.trim(), "40");
}

#[test]
fn a_guest_is_told_of_itself_and_not_of_the_machine() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let report = daemon.hostile("web", &[], "sysinfo");
    assert_eq!(number(&report, "sysinfo"), 0);
    assert_eq!(number(&report, "unit"), 1);
    assert!(
        (1..20).contains(&number(&report, "processes")),
        "{report:#}"
    );
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!((number(&report, "uptime") as f64) < uptime, "{report:#}");
    assert!(
        number(&report, "free") <= number(&report, "total"),
        "{report:#}"
    );
    // A pointer that the kernel would not take is not taken.
    all(&report, &["no pointer"], EFAULT);
}

#[test]
fn the_clock_is_set_by_those_who_may_and_by_nobody_else() {
    let daemon = Daemon::default();
    daemon.running("no", "busybox");
    daemon.running_with("yes", "busybox", "allow_system_time: true\n");
    let no = daemon.hostile("no", &[], "clocks");
    all(&no, &["clock_settime", "settimeofday", "write"], EPERM);
    all(&no, &["moved by ms", "read"], 0);
    let user = daemon.hostile("yes", &["-u", "1234"], "clocks");
    all(&user, &["clock_settime", "settimeofday", "write"], EPERM);
    let yes = daemon.hostile("yes", &[], "clocks");
    all(&yes, &["clock_settime", "settimeofday", "read", "write"], 0);
    assert!(
        (40..60_000).contains(&number(&yes, "moved by ms")),
        "{yes:#}"
    );
    all(&yes, &["monotonic"], EINVAL);
    all(&yes, &["no pointer"], EFAULT);
    all(&yes, &["time zone"], EPERM);
}

#[test]
fn modules_need_a_user_namespace_and_a_kernel_that_insists_on_signatures() {
    let daemon = Daemon::default();
    daemon.running_with("x", "busybox", "allow_module: \"fuse\"\n");
    // The kernel of this machine may have no modules at all; the call is refused before that matters.
    let report = daemon.hostile("x", &[], "calls");
    let insists = fs::read_to_string("/sys/module/module/parameters/sig_enforce");
    if !insists.is_ok_and(|text| text.starts_with('Y')) {
        all(&report, &["finit_module"], EPERM);
    }
    all(&report, &["init_module", "delete_module"], EPERM);
    daemon.create(
        "name: \"root\"\nguest_os: \"busybox\"\ntoken_type: NONE\nuserns: false\nallow_module: \"fuse\"\n",
    );
    let refused = daemon.control().run(&["start", "root"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(
        refused.out.contains("allow_module") || refused.err.contains("allow_module"),
        "{refused:?}"
    );
}

/// A machine that insists on signatures and has three modules, one of which needs another one. None of their files is one.
fn with_modules() -> Daemon {
    Daemon::new(Setup {
        through: vec![
            "unshare",
            "-m",
            "sh",
            "-ec",
            "mount -t tmpfs none /sys/module; mkdir -p /sys/module/module/parameters; \
             echo Y >/sys/module/module/parameters/sig_enforce; \
             mount -t tmpfs none /mnt; mkdir /mnt/up /mnt/work; \
             mount -t overlay -o lowerdir=/lib,upperdir=/mnt/up,workdir=/mnt/work none /lib; \
             at=/lib/modules/$(uname -r); mkdir -p $at; cd $at; \
             for name in wanted needed other; do echo bogus >$name.ko; done; \
             printf 'wanted.ko: needed.ko\\nneeded.ko:\\nother.ko:\\ngone.ko:\\n' >modules.dep; \
             cd /; exec \"$@\"",
            "sh",
        ],
        ..Setup::default()
    })
}

#[test]
fn a_module_that_is_allowed_gets_as_far_as_the_kernel_and_no_other_does() {
    let daemon = with_modules();
    // The kernel shows a user namespace no sysfs of which something is covered.
    daemon.running_with("no", "busybox", "netns: false\n");
    let allowed = "netns: false\nallow_module: \"wanted\"\nallow_module: \"gone\"\n";
    daemon.running_with("yes", "busybox", allowed);
    let names = ["wanted", "needed", "other", "gone", "invented"];
    let load = |container: &str, options: &[&str]| {
        let make = format!(
            "cd /tmp && for name in {}; do echo evil >$name.ko; done",
            names.join(" ")
        );
        daemon
            .control()
            .ok(&["run", "-T", container, "sh", "-c", &make]);
        let files = names.map(|name| format!("/tmp/{name}.ko"));
        let words = format!("modules {}", files.join(" "));
        let report = daemon.hostile(container, options, &words);
        files.map(|file| number(&report, &file))
    };
    assert_eq!(load("no", &[]), [EPERM; 5]);
    assert_eq!(load("yes", &["-u", "1234"]), [EPERM; 5]);
    let [wanted, needed, other, gone, invented] = load("yes", &[]);
    // The host's file is no module, and this kernel may have none at all.
    for verdict in [wanted, needed] {
        assert!([ENOEXEC, ENOSYS].contains(&verdict), "{verdict}");
    }
    assert_eq!((other, gone, invented), (EPERM, ENOENT, EPERM));
}

#[test]
fn calls_are_done_for_the_guest_of_a_daemon_that_was_started_again() {
    let mut daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    daemon
        .control()
        .ok(&["run", "-T", "web", "mkdir", "-p", "/tmp/a", "/tmp/b"]);
    // A command of before, and commands of after the crash.
    let before =
        "while ! test -e /tmp/go; do sleep 0.1; done; mknod /tmp/a/null c 1 3 && touch /tmp/done";
    let before = format!("setsid sh -c '{before}' >/dev/null 2>&1 </dev/null & true");
    daemon
        .control()
        .ok(&["run", "-T", "web", "sh", "-c", &before]);
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("web"), "RUNNING");
    // It keeps nothing mounted that the daemon had.
    let emulator = daemon.record(&uuid)["running"]["emulator"]["pid"].clone();
    eventually("its own mounts", || {
        let mounts = fs::read_to_string(format!("/proc/{emulator}/mounts")).unwrap();
        let foreign = mounts.contains("/dev/loop") || mounts.contains(" /tmp");
        (!foreign).then_some(())
    });
    daemon
        .control()
        .ok(&["run", "-T", "web", "touch", "/tmp/go"]);
    eventually("the node of the command of before", || {
        let done = daemon
            .control()
            .run(&["run", "-T", "web", "test", "-e", "/tmp/done"]);
        (done.status == 0).then_some(())
    });
    let report = daemon.hostile("web", &[], "nodes /tmp/b");
    all(&report, &["null", "zero"], 0);
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    let status = fs::read_to_string(format!("/proc/{emulator}/status")).unwrap_or_default();
    // Whoever the kernel has made its parent collects it.
    assert!(
        status.is_empty() || status.contains("State:\tZ"),
        "{status}"
    );
}

#[test]
fn a_container_whose_calls_nobody_can_do_does_not_start() {
    // The first thing that the process does for itself fails; for init it does not matter.
    let daemon = Daemon::new(Setup::with_failing(
        "trace=setsid",
        "inject=setsid:error=EPERM",
    ));
    daemon.create_with("web", "busybox", "");
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("leave the session"), "{refused:?}");
    assert_eq!(daemon.state("web"), "STOPPED");
}

#[test]
fn calls_that_nobody_does_any_more_fail_at_once() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    assert_eq!(number(&daemon.hostile("web", &[], "sysinfo"), "sysinfo"), 0);
    let emulator = daemon.record(&uuid)["running"]["emulator"]["pid"].clone();
    let signal = |name: &str| {
        let sent = Command::new("kill")
            .args([name, &emulator.to_string()])
            .status();
        assert!(sent.unwrap().success());
    };
    // Several that are worked for, and then one that is not even looked at.
    let script = "mkdir /tmp/n /tmp/ended; for i in $(seq 12); do \
                  (while mknod /tmp/n/$i c 1 3; do umount /tmp/n/$i; rm /tmp/n/$i; done; touch /tmp/ended/$i) & \
                  done >/dev/null 2>&1; sleep 0.5";
    let run = |script: &str| {
        let words = ["run", "-T", "web", "sh", "-c", script];
        daemon.control().run(&words)
    };
    assert_eq!(run(&format!("setsid sh -c '{script}'")).status, 0);
    signal("-STOP");
    let waits = "setsid sh -c 'mknod /tmp/waits c 1 3; touch /tmp/ended/waits' >/dev/null 2>&1 & sleep 0.5; \
                 test -e /tmp/ended/waits";
    assert_ne!(run(waits).status, 0, "somebody has done it");
    signal("-KILL");
    eventually("the end of all that waited", || {
        (run("ls /tmp/ended | wc -l").out.trim() == "13").then_some(())
    });
    daemon.wait_for_log("the process that does its system calls has ended");
    let report = daemon.hostile("web", &[], "sysinfo");
    all(&report, &["sysinfo", "no pointer"], ENOSYS);
    let made = run("mknod /tmp/null c 1 3");
    assert!(made.err.contains("not implemented"), "{made:?}");
    // Everything else goes on, and the next start brings another one.
    daemon
        .control()
        .ok(&["dev_access", "web", "allow", "c 1:11", "m"]);
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.control().ok(&["start", "web"]);
    let report = daemon.hostile("web", &[], "sysinfo");
    assert_eq!(number(&report, "sysinfo"), 0);
}

#[test]
fn a_guest_without_set_uid_programs_can_say_so() {
    let mut daemon = Daemon::default();
    daemon.add_guest("plain", |guest| guest.no_new_privs = Some(true));
    let uuid = daemon.running("x", "plain");
    let of_init = fs::read_to_string(format!("/proc/{}/status", daemon.init_pid(&uuid))).unwrap();
    let status = ["run", "-T", "x", "cat", "/proc/self/status"];
    for text in [of_init, daemon.control().ok(&status).out] {
        assert!(text.contains("NoNewPrivs:\t1\n"), "{text}");
    }
    assert_eq!(daemon.hostile("x", &[], "sysinfo")["sysinfo"], json!(0));
}
