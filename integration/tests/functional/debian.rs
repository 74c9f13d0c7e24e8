//! A whole operating system with systemd as its init (docs/adr/0040-groups-of-guests.md). Its image takes minutes
//! to build, so these run by `make test-debian`.

use std::fs;

use cml_integration::{
    Daemon, eventually,
    kit::{kit, project},
};

/// Installs what `make debian` has built, signed by somebody whom the daemon trusts.
fn with_debian() -> Daemon {
    let mut daemon = Daemon::default();
    daemon.stop();
    let built = project().join("out/operatingsystems");
    fs::create_dir_all(daemon.store().join("debian-1")).unwrap();
    for name in ["debian-1.conf", "debian-1/root.img"] {
        let from = built.join(name);
        fs::copy(&from, daemon.store().join(name))
            .unwrap_or_else(|error| panic!("{}: {error}; run `make debian`", from.display()));
    }
    kit().sign(&daemon.store().join("debian-1.conf"), "ssig_cml");
    daemon.start();
    daemon
}

/// Waits for the end of the boot and returns what systemd thinks of it.
fn booted(daemon: &Daemon, name: &str) -> String {
    eventually("the end of the boot", || {
        let run = ["run", "-T", name, "systemctl", "is-system-running"];
        let said = daemon.control().run(&run).out.trim().to_owned();
        ["running", "degraded"]
            .contains(&said.as_str())
            .then_some(said)
    })
}

#[test]
#[ignore = "needs the Debian guest, which takes minutes to build: make test-debian"]
fn systemd_boots_without_a_failed_mount_and_shuts_down_when_it_is_asked_to() {
    let daemon = with_debian();
    daemon.running("deb", "debian");
    let state = booted(&daemon, "deb");
    let run = |words: &[&str]| {
        daemon
            .control()
            .run(&[&["run", "-T", "deb"], words].concat())
    };
    let failed = run(&[
        "systemctl",
        "list-units",
        "--failed",
        "--no-legend",
        "--plain",
        "--no-pager",
    ]);
    assert!(!failed.out.contains(".mount"), "{state}: {failed:?}");
    // Services have groups of their own in the container's part.
    let journald = "systemctl show -p MainPID --value systemd-journald";
    let group = run(&["sh", "-c", &format!("grep ^0:: /proc/$({journald})/cgroup")]);
    assert_eq!(group.out, "0::/system.slice/systemd-journald.service\n");
    // Services of which systemd makes much: a place, a user and devices of their own.
    let unit = "[Service]\nType=oneshot\nPrivateTmp=yes\nPrivateDevices=yes\nDynamicUser=yes\nProtectSystem=strict\n\
                ExecStart=/bin/sh -c 'echo x >/dev/null && id -u && head -c 4 /dev/zero | wc -c'\n";
    let script = format!(
        "printf '%s' \"{unit}\" >/run/systemd/system/own.service && systemctl daemon-reload && \
         systemctl start own && journalctl -o cat -u own --no-pager"
    );
    let own = run(&["sh", "-c", &script]);
    assert!(own.status == 0 && own.out.contains("\n4\n"), "{own:?}");
    let freeze = daemon.control();
    freeze.ok(&["freeze", "deb"]);
    freeze.ok(&["unfreeze", "deb"]);
    // A reboot from inside comes back.
    run(&["systemctl", "reboot"]);
    daemon.wait_for_log("REBOOTING");
    daemon.wait_for("deb", "RUNNING");
    booted(&daemon, "deb");
    daemon.control().ok(&["stop", "deb"]);
    daemon.wait_for("deb", "STOPPED");
    // It has ended by itself, by power-off (SIGINT, pid_namespaces(7)), and was not killed.
    let log = daemon.log();
    let end = log
        .lines()
        .rfind(|line| line.contains("init ended"))
        .unwrap();
    assert!(end.contains("Signalled(2)"), "{end}");
}

#[test]
#[ignore = "needs the Debian guest, which takes minutes to build: make test-debian"]
fn systemd_is_adopted_by_a_daemon_that_was_started_again() {
    let mut daemon = with_debian();
    daemon.running("deb", "debian");
    booted(&daemon, "deb");
    daemon.crash();
    daemon.start();
    assert_eq!(daemon.state("deb"), "RUNNING");
    booted(&daemon, "deb");
    daemon.control().ok(&["stop", "deb"]);
    daemon.wait_for("deb", "STOPPED");
}
