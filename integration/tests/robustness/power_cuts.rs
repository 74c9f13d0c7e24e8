//! The daemon is killed at every effect of what changes keys and volumes. Afterwards the container starts with
//! the old PIN or the new one, never with neither, and what it had written is there.
//!
//! strace delivers the SIGKILL at the n-th call of one kind in a thread, for every n until the work is done
//! before it comes to that. Programs that the daemon starts for the work die in the same way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use cml_integration::{
    Daemon,
    encrypted::{self, sh, volume},
    eventually,
    kit::kit,
};
use cml_wire::proto::guest_os_mount::Type;
use rustix::process::Signal;

/// More calls of one kind than any of the work has in one thread.
const CALLS_MAX: usize = 40;

/// A strace that kills whoever makes the n-th call of a kind.
pub(crate) struct Cut(Child);

impl Cut {
    pub(crate) fn attach(daemon: &Daemon, call: &str, n: usize) -> Self {
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject={call}:signal=SIGKILL:when={n}"))
            .args(["-p", &daemon.pid().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("the package strace is installed");
        let tasks = PathBuf::from(format!("/proc/{}/task", daemon.pid()));
        eventually("strace holds every thread", || {
            let entries = fs::read_dir(&tasks).ok()?;
            let free = |path: &Path| {
                let status = fs::read_to_string(path.join("status")).unwrap_or_default();
                status.contains("TracerPid:\t0\n")
            };
            (!entries.flatten().any(|task| free(&task.path()))).then_some(())
        });
        Self(strace)
    }

    /// Ends the cutting. The daemon is killed if it still lives, so that nothing it holds in memory helps, and
    /// started again.
    pub(crate) fn end(mut self, daemon: &mut Daemon) {
        daemon.signal(Signal::KILL);
        // strace may never hear of the end of a thread that it caught in its last moment.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        daemon.wait();
        daemon.start();
    }
}

/// Carries out the work with a cut at every call of these kinds. `attempt` answers whether the work was done.
pub(crate) fn everywhere(calls: &[&str], mut attempt: impl FnMut(&str, usize) -> bool) {
    for call in calls {
        let done = (1..CALLS_MAX).find(|n| attempt(call, *n));
        assert!(done.is_some_and(|n| n > 1), "{call}: {done:?} cuts nothing");
    }
}

fn daemon() -> Daemon {
    let mut daemon = Daemon::prepared(encrypted::setup());
    daemon.add_guest("small", |guest| {
        guest.init_path = Some("/bin/sleep".into());
        guest.init_param = vec!["1000000".into()];
        guest.mounts.push(volume(Type::Empty, "data", "/data"));
    });
    daemon.start();
    daemon
}

fn create(daemon: &Daemon) -> String {
    daemon.create("name: \"web\"\nguest_os: \"small\"\n")
}

fn start(daemon: &Daemon, pin: &str) -> bool {
    let key = format!("--key={pin}");
    daemon.control().run(&["start", "web", &key]).status == 0
}

fn stop(daemon: &Daemon, pin: &str) {
    let key = format!("--key={pin}");
    daemon.control().ok(&["stop", "web", &key]);
    daemon.wait_for("web", "STOPPED");
}

/// Starts the container once and writes into its volume.
fn write(daemon: &Daemon, pin: &str) {
    assert!(start(daemon, pin), "{}", daemon.log());
    assert_eq!(sh(daemon, "echo x >/data/x && sync").status, 0);
    stop(daemon, pin);
}

/// Whether one of the PINs starts the container with what it had written; which one it was.
fn opened_by<'a>(daemon: &Daemon, pins: &[&'a str]) -> Option<&'a str> {
    let pin = pins.iter().find(|pin| start(daemon, pin))?;
    assert_eq!(sh(daemon, "cat /data/x").out, "x\n");
    stop(daemon, pin);
    Some(pin)
}

/// Cuts a start off and checks that the next ones keep what is written; whether the start was answered.
fn cut_a_start(daemon: &mut Daemon, call: &str, n: usize) -> bool {
    let cut = Cut::attach(daemon, call, n);
    let done = start(daemon, "trustme");
    cut.end(daemon);
    if daemon.state("web") == "RUNNING" {
        stop(daemon, "trustme");
    }
    write(daemon, "trustme");
    assert_eq!(opened_by(daemon, &["trustme"]), Some("trustme"));
    done
}

#[test]
fn a_first_start_that_is_cut_off_can_be_made_again() {
    let mut daemon = daemon();
    create(&daemon);
    let calls = [
        "rename",
        "fsync",
        "fallocate",
        "mkdir",
        "ioctl",
        "move_mount",
        "write",
    ];
    everywhere(&calls, |call, n| {
        let done = cut_a_start(&mut daemon, call, n);
        daemon.control().ok(&["wipe", "web"]);
        done
    });
}

#[test]
fn a_change_of_a_pin_that_is_cut_off_leaves_the_old_pin_or_the_new_one() {
    let mut daemon = daemon();
    for own in [true, false] {
        create(&daemon);
        write(&daemon, "trustme");
        let mut device = "trustme";
        everywhere(&["rename", "fsync", "write"], |call, n| {
            let (old, new) = match device {
                "trustme" => ("trustme", "other"),
                _ => ("other", "trustme"),
            };
            let lines = format!("{old}\n{new}\n{new}\n");
            let words: &[&str] = match own {
                true => &["change_pin", "web"],
                false => &["change_pin"],
            };
            let cut = Cut::attach(&daemon, call, n);
            let changed = daemon.control().run_with(words, lines.as_bytes());
            cut.end(&mut daemon);
            let pin = opened_by(&daemon, &[new, old]).expect("neither PIN opens it");
            if changed.status == 0 {
                assert_eq!(pin, new, "what was answered is true");
            }
            match own {
                // A container without a token of its own, once more: its key changes hands every time.
                true => {
                    daemon.control().ok(&["remove", "web"]);
                    create(&daemon);
                    write(&daemon, "trustme");
                }
                false => device = pin,
            }
            changed.status == 0
        });
        daemon.control().ok(&["remove", "web"]);
    }
}

#[test]
fn a_token_of_the_existing_system_survives_the_cut_of_its_migration() {
    let mut daemon = daemon();
    create(&daemon);
    write(&daemon, "trustme");
    // A fresh migration each time: the token of before, with a key that it has wrapped.
    let tokens = daemon.base().join("tokens");
    everywhere(&["rename", "unlink", "fsync", "write"], |call, n| {
        let _ = fs::remove_file(tokens.join("device.tok"));
        fs::copy(&kit().token, tokens.join("device.p12")).unwrap();
        daemon.control().ok(&["wipe", "web"]);
        let done = cut_a_start(&mut daemon, call, n);
        assert!(!tokens.join("device.p12").exists());
        done
    });
}

#[test]
fn a_wipe_that_is_cut_off_is_finished_or_never_began() {
    let mut daemon = daemon();
    let uuid = create(&daemon);
    everywhere(&["rename", "unlink", "fsync", "write"], |call, n| {
        write(&daemon, "trustme");
        let cut = Cut::attach(&daemon, call, n);
        let done = daemon.control().run(&["wipe", "web"]).status == 0;
        cut.end(&mut daemon);
        assert!(start(&daemon, "trustme"), "{}", daemon.log());
        let left = sh(&daemon, "cat /data/x");
        assert!(!done || left.status != 0, "{left:?}");
        stop(&daemon, "trustme");
        let marks = daemon.base().join(format!("containers/{uuid}.wiping"));
        assert!(!marks.exists());
        done
    });
}
