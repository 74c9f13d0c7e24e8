//! The checks of protocol.md 5.1 to 5.5: output is searched for words, exit statuses are not looked at.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use cml_integration::{Daemon, PATIENCE, Setup, encrypted, kit::kit, package::Package};
use cml_wire::proto::{GuestOsMount, guest_os_mount::Type};

use super::{PIN, data};

/// MiB of the smallest guest OS of zeros; the suite has GiB there, which teaches nothing more.
const NULLOS: u64 = 256;
/// Cycles of start and stop in the second run.
const CYCLES: usize = 100;

/// A device under test.
pub struct Suite {
    daemon: Daemon,
}

impl Suite {
    /// A device with a software root, the guest OS of `core0` and a kernel.
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
        daemon.add_guest("gyroidos-coreos", |guest| {
            guest.init_path = Some("/bin/sleep".into());
            guest.init_param = vec!["1000000".into()];
            guest
                .mounts
                .push(encrypted::volume(Type::Empty, "etc", "/data"));
        });
        daemon.add_guest("kernel", |guest| {
            guest.mounts[0].set_mount_type(Type::StoreOnly);
        });
        daemon.start();
        Self { daemon }
    }

    /// What a command prints, on both streams.
    fn says(&self, words: &[&str]) -> String {
        self.says_with(words, "")
    }

    fn says_with(&self, words: &[&str], input: &str) -> String {
        let words = [&["--format", "text"], words].concat();
        let output = self.daemon.control().run_with(&words, input.as_bytes());
        output.out + &output.err
    }

    /// A command whose output must contain this.
    #[track_caller]
    pub fn with(&self, expected: &str, words: &[&str]) -> String {
        let said = self.says(words);
        assert!(
            said.contains(expected),
            "{words:?} without {expected:?}: {said}"
        );
        said
    }

    /// A command whose output must not contain this.
    #[track_caller]
    pub fn without(&self, unwanted: &str, words: &[&str]) {
        let said = self.says(words);
        assert!(!said.contains(unwanted), "{words:?}: {said}");
    }

    /// `list` answers.
    #[track_caller]
    pub fn lists(&self) {
        self.with("code: CONTAINER_STATUS", &["list"]);
    }

    /// A file of the PKI.
    pub fn kit_file(&self, name: &str) -> String {
        kit().pki.join(name).display().to_string()
    }

    /// An unsigned configuration file.
    pub fn conf(&self, name: &str, text: &str) -> String {
        let path = self.daemon.path(&format!("{name}.conf"));
        fs::write(&path, text.trim_start()).unwrap();
        path.display().to_string()
    }

    /// Configuration, signature and certificate.
    fn signed(&self, name: &str, text: &str) -> [String; 3] {
        let conf = PathBuf::from(self.conf(name, text));
        kit().sign(&conf, "ssig_cml");
        ["conf", "sig", "cert"].map(|end| conf.with_extension(end).display().to_string())
    }

    /// A container of a signed configuration.
    #[track_caller]
    pub fn created(&self, name: &str, text: &str) {
        let [conf, sig, cert] = self.signed(name, text);
        self.with("guest_os", &["create", &conf, &sig, &cert]);
        self.with(name, &["list"]);
    }

    /// Another signed configuration of a container.
    #[track_caller]
    pub fn updated(&self, container: &str, text: &str, expected: &str) {
        let [conf, sig, cert] = self.signed("update", text);
        self.with(expected, &["update_config", container, &conf, &sig, &cert]);
    }

    /// The device comes up again with what is on the disk.
    pub fn reboot(&mut self) {
        self.without("Abort", &["reboot"]);
        self.daemon.stop();
        self.daemon.start();
        self.lists();
    }

    /// Any state but these on the way is a failure: nothing flickers.
    #[track_caller]
    fn waits_running(&self, container: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.says(&["state", container]);
            if said.contains("RUNNING") {
                return;
            }
            assert!(
                said.contains("STARTING") || said.contains("BOOTING"),
                "{said}"
            );
            assert!(Instant::now() < end, "{said}");
            sleep(Duration::from_millis(100));
        }
    }

    #[track_caller]
    fn waits_stopped(&self, container: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.says(&["state", container]).contains("STOPPED") {
            assert!(Instant::now() < end, "{container} does not stop");
            sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn started(&self, container: &str) {
        let key = format!("--key={PIN}");
        self.with("CONTAINER_START_OK", &["start", container, &key]);
        self.waits_running(container);
    }

    #[track_caller]
    fn stopped(&self, container: &str) {
        let key = format!("--key={PIN}");
        self.with("CONTAINER_STOP_OK", &["stop", container, &key]);
        self.waits_stopped(container);
    }

    #[track_caller]
    fn pin(&self, container: &str, old: &str, expected: &str) {
        let said = self.says_with(
            &["change_pin", container],
            &format!("{old}\n{PIN}\n{PIN}\n"),
        );
        assert!(said.contains(expected), "{said}");
    }

    /// Suite A, first run (protocol.md 5.4).
    #[track_caller]
    pub fn first_run(&self, container: &str) {
        self.lists();
        let key = format!("--key={PIN}");
        self.with(
            "CONTAINER_START_TOKEN_UNPAIRED",
            &["start", container, &key],
        );
        self.pin(container, "", "CONTAINER_CHANGE_PIN_SUCCESSFUL");
        self.rest_of_suite_a(container);
    }

    /// Suite A, second run.
    #[track_caller]
    pub fn second_run(&self, container: &str) {
        self.lists();
        self.pin(container, PIN, "CONTAINER_CHANGE_PIN_SUCCESSFUL");
        self.rest_of_suite_a(container);
    }

    #[track_caller]
    fn rest_of_suite_a(&self, container: &str) {
        let key = format!("--key={PIN}");
        self.pin(container, "wrongpin", "CONTAINER_CHANGE_PIN_FAILED");
        self.started(container);
        self.with(container, &["config", container]);
        self.with("gyroidos-coreos", &["list_guestos"]);
        let absent = "Container with provided uuid/name does not exist!";
        self.with(absent, &["remove", "nonexistent-container"]);
        self.with("CONTAINER_START_EEXIST", &["start", container, &key]);
        self.stopped(container);
        self.with(
            "CONTAINER_STOP_FAILED_NOT_RUNNING",
            &["stop", container, &key],
        );
        self.waits_stopped(container);
    }

    /// Row 12: an update of a stopped container counts at once, that of a running one when it has stopped.
    #[track_caller]
    pub fn renamed_and_back(&self) {
        let state = self.says(&["state", "signedcontainer1"]);
        let line = state.lines().find(|line| line.contains("uuid:")).unwrap();
        let uuid = line.split('"').nth(1).unwrap().to_owned();
        self.updated(&uuid, &data::rename(), "name: \"signedcontainer1-rename\"");
        self.started("signedcontainer1-rename");
        self.updated(&uuid, data::UPDATE, "name: \"signedcontainer1\"");
        self.stopped(&uuid);
        self.started("signedcontainer1");
        self.stopped("signedcontainer1");
    }

    /// Rows 13 to 15.
    #[track_caller]
    pub fn cycles_then_removal(&self, container: &str) {
        for _ in 0..CYCLES {
            self.started(container);
            self.stopped(container);
        }
        let logs = tempfile::tempdir().unwrap();
        self.with("CMD_OK", &["retrieve_logs", logs.path().to_str().unwrap()]);
        let key = format!("--key={PIN}");
        self.without("Abort", &["remove", container, &key]);
        self.without(&format!("\"{container}\""), &["list"]);
        let absent = "Container with provided uuid/name does not exist!";
        self.with(absent, &["remove", container, &key]);
    }

    #[track_caller]
    pub fn removed_while_it_runs(&self, container: &str) {
        self.pin(container, "", "CONTAINER_CHANGE_PIN_SUCCESSFUL");
        self.started(container);
        let key = format!("--key={PIN}");
        self.without("Abort", &["remove", container, &key]);
        self.without(container, &["list"]);
    }

    /// Updates whose images are not there at first (protocol.md 5.5).
    #[track_caller]
    pub fn nullos(&self, number: u64) {
        let name = format!("nullos-{number}");
        // Relative to the root of whoever pushes, which is ours.
        let mirror = self.daemon.path("volatile");
        let base = format!("file:/{}", mirror.display());
        let images = mirror.join(format!("operatingsystems/x86/{name}-1"));
        fs::create_dir_all(&images).unwrap();
        let size = (number * NULLOS) << 20;
        let zeros = self.daemon.path("zeros");
        File::create(&zeros).unwrap().set_len(size).unwrap();
        let hash = |program: &str| {
            let output = Command::new(program).arg(&zeros).output().unwrap();
            String::from_utf8(output.stdout)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        let package = Package::new(&self.daemon, &name, 1, |guest| {
            guest.update_base_url = Some(base);
            guest.mounts = vec![GuestOsMount {
                image_file: "root".into(),
                mount_point: "/".into(),
                fs_type: "squashfs".into(),
                mount_type: Type::SharedRw.into(),
                image_size: Some(size),
                image_sha1: Some(hash("sha1sum")),
                image_sha2_256: Some(hash("sha256sum")),
                image_verity_sha256: Some("0".repeat(64)),
                ..Default::default()
            }];
        });
        let words = package.words();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.with("response: GUESTOS_MGR_INSTALL_FAILED", &words);
        fs::rename(&zeros, images.join("root.img")).unwrap();
        let hashes = File::create(images.join("root.hash.img")).unwrap();
        hashes.set_len(number << 20).unwrap();
        self.with("response: GUESTOS_MGR_INSTALL_COMPLETED", &words);
        fs::remove_dir_all(&mirror).unwrap();
    }

    #[track_caller]
    pub fn provisioning(&self) {
        self.with("device_is_provisioned: false", &["get_provisioned"]);
        self.with("response: CMD_OK", &["set_provisioned"]);
        self.with("device_is_provisioned: true", &["get_provisioned"]);
        self.with("response: CMD_UNSUPPORTED", &["set_provisioned"]);
    }

    /// The kernel that is installed under the next version.
    #[track_caller]
    pub fn kernel_update(&self) {
        let mirror = self.daemon.path("volatile");
        let images = mirror.join("operatingsystems/x86/kernel-2");
        fs::create_dir_all(&images).unwrap();
        fs::write(images.join("root.img"), kit().image()).unwrap();
        let base = format!("file:/{}", mirror.display());
        let package = Package::new(&self.daemon, "kernel", 2, |guest| {
            guest.update_base_url = Some(base);
            guest.mounts[0].set_mount_type(Type::StoreOnly);
        });
        let words = package.words();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.with("response: GUESTOS_MGR_INSTALL_COMPLETED", &words);
        self.both_kernels();
    }

    /// Name, hardware and version stand on consecutive lines, for scripts.
    #[track_caller]
    pub fn both_kernels(&self) {
        let listed = self.says(&["list_guestos"]);
        let lines: Vec<_> = listed.lines().map(str::trim).collect();
        let versions = lines
            .windows(3)
            .filter(|lines| lines[0] == "name: \"kernel\"");
        let versions: Vec<_> = versions.map(|lines| lines[2]).collect();
        assert_eq!(versions, ["version: 1", "version: 2"], "{listed}");
    }

    #[track_caller]
    pub fn log_names_the_configuration(&self) {
        let logs = tempfile::tempdir().unwrap();
        self.with("CMD_OK", &["retrieve_logs", logs.path().to_str().unwrap()]);
        let mut names: Vec<_> = fs::read_dir(logs.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        let newest = fs::read_to_string(names.last().unwrap()).unwrap();
        let conf = self.daemon.path("conf/device.conf");
        let line = format!("device.conf path is {}", conf.display());
        assert!(newest.contains(&line), "{newest}");
    }
}
