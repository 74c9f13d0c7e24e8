//! Where the suite runs: on which side of which control socket, and what a reboot is there.

use std::{fs, process::Command, time::Duration};

use cml_integration::{
    Daemon, PATIENCE, Setup, encrypted,
    machine::{Machine, Options, Shell},
};
use cml_wire::proto::guest_os_mount::Type;

use super::checks::coreos;

/// A shell with `control` in it.
pub trait Place {
    /// What `control` prints with these words, on both streams.
    fn control(&mut self, words: &[&str], input: &str) -> String;
    /// A path that can be used there.
    fn path(&self, name: &str) -> String;
    /// Puts a file there; returns its path.
    fn file(&mut self, name: &str, bytes: &[u8]) -> String;
    /// What lines of shell print.
    fn shell(&mut self, script: &str) -> String;
    /// Reboots the device.
    fn reboot(&mut self);
    /// There is a management container.
    fn has_core0(&self) -> bool;
    /// `device.conf` as the daemon knows it.
    fn device_conf(&self) -> String;
    /// How long something may take.
    fn patience(&self) -> Duration;
    /// Cycles of start and stop in the second run; the suite has 100.
    fn cycles(&self) -> usize;
    /// MiB of the smallest guest OS of zeros; the suite has GiB there, which teaches nothing more.
    fn nullos(&self) -> u64;
}

/// A hosted daemon on this machine.
pub struct OnHost {
    daemon: Daemon,
}

impl OnHost {
    pub fn new() -> Self {
        let plain = encrypted::setup().device_conf;
        let device_conf = format!(
            "{}require_token_pairing: true\nprovisioned_profile: EXTENDED\n",
            plain.replace("signed_configs: false", "signed_configs: true")
        );
        let mut daemon = Daemon::prepared(Setup {
            device_conf,
            ..Setup::default()
        });
        daemon.add_guest("gyroidos-coreos", coreos);
        daemon.add_guest("kernel", |guest| {
            guest.mounts[0].set_mount_type(Type::StoreOnly);
        });
        daemon.start();
        Self { daemon }
    }
}

impl Place for OnHost {
    fn control(&mut self, words: &[&str], input: &str) -> String {
        let output = self.daemon.control().run_with(words, input.as_bytes());
        output.out + &output.err
    }

    fn path(&self, name: &str) -> String {
        self.daemon.path(name).display().to_string()
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.daemon.path(name), bytes).unwrap();
        self.path(name)
    }

    fn shell(&mut self, script: &str) -> String {
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn reboot(&mut self) {
        let said = self.control(&["reboot"], "");
        assert!(!said.contains("Abort"), "{said}");
        self.daemon.stop();
        self.daemon.start();
    }

    fn has_core0(&self) -> bool {
        false
    }

    fn device_conf(&self) -> String {
        self.path("conf/device.conf")
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn cycles(&self) -> usize {
        100
    }

    fn nullos(&self) -> u64 {
        256
    }
}

/// `core0` of a device.
pub struct InCore0 {
    machine: Machine,
}

impl InCore0 {
    pub fn new() -> Self {
        Self {
            machine: Machine::boot_with(Options {
                shell: Shell::LoggedIn,
                ..Options::default()
            }),
        }
    }
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Place for InCore0 {
    fn control(&mut self, words: &[&str], input: &str) -> String {
        let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
        let input = quoted(&input.replace('\n', "\\n"));
        // The suite reads what comes through a pipe: at a terminal there are words for a person.
        let script = format!("printf {input} | control {} 2>&1 | cat", words.join(" "));
        self.machine.shell(&script).0
    }

    fn path(&self, name: &str) -> String {
        format!("/tmp/{name}")
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        self.machine.put(&path, bytes);
        path
    }

    fn shell(&mut self, script: &str) -> String {
        self.machine.shell(script).0
    }

    fn reboot(&mut self) {
        self.machine.begin("control reboot </dev/null");
        self.machine.await_reboot();
    }

    fn has_core0(&self) -> bool {
        true
    }

    fn device_conf(&self) -> String {
        "/data/cml/device.conf".into()
    }

    fn patience(&self) -> Duration {
        // Everything is emulated.
        5 * PATIENCE
    }

    /// Everything is emulated: a hundred take an hour there, and a minute on the host.
    fn cycles(&self) -> usize {
        5
    }

    fn nullos(&self) -> u64 {
        4
    }
}
