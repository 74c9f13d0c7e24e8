//! The checks of protocol.md 5.1 to 5.5: output is searched for words, exit statuses are not looked at.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use cml_integration::{encrypted, kit::kit};
use cml_wire::{
    proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type},
    text,
};

use sha2::{Digest, Sha256};

use super::{PIN, data, place::Place};

/// A device under test.
pub struct Suite {
    place: Box<dyn Place>,
}

/// The guest OS of the suite, with a volume.
pub fn coreos(guest: &mut GuestOsConfig) {
    guest.init_path = Some("/bin/sleep".into());
    guest.init_param = vec!["1000000".into()];
    guest
        .mounts
        .push(encrypted::volume(Type::Empty, "etc", "/data"));
}

impl Suite {
    /// The suite on a device with a software root, the guest OS of `core0` and a kernel.
    pub fn new(place: Box<dyn Place>) -> Self {
        Self { place }
    }

    /// What a command prints, on both streams.
    fn says(&mut self, words: &[&str]) -> String {
        self.says_with(words, "")
    }

    fn says_with(&mut self, words: &[&str], input: &str) -> String {
        let words = [&["--format", "text"], words].concat();
        self.place.control(&words, input)
    }

    /// A command whose output must contain this.
    #[track_caller]
    pub fn with(&mut self, expected: &str, words: &[&str]) -> String {
        let said = self.says(words);
        assert!(
            said.contains(expected),
            "{words:?} without {expected:?}: {said}"
        );
        said
    }

    /// A command whose output must not contain this.
    #[track_caller]
    pub fn without(&mut self, unwanted: &str, words: &[&str]) {
        let said = self.says(words);
        assert!(!said.contains(unwanted), "{words:?}: {said}");
    }

    /// `list` answers.
    #[track_caller]
    pub fn lists(&mut self) {
        self.with("code: CONTAINER_STATUS", &["list"]);
    }

    /// A file of the PKI.
    pub fn kit_file(&mut self, name: &str) -> String {
        let bytes = std::fs::read(kit().pki.join(name)).unwrap();
        self.place.file(name, &bytes)
    }

    /// An unsigned configuration file.
    pub fn conf(&mut self, name: &str, text: &str) -> String {
        self.place
            .file(&format!("{name}.conf"), text.trim_start().as_bytes())
    }

    /// Configuration, signature and certificate.
    fn signed(&mut self, name: &str, text: &str) -> [String; 3] {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join(format!("{name}.conf"));
        std::fs::write(&conf, text.trim_start()).unwrap();
        kit().sign(&conf, "ssig_cml");
        ["conf", "sig", "cert"].map(|end| {
            let bytes = std::fs::read(conf.with_extension(end)).unwrap();
            self.place.file(&format!("{name}.{end}"), &bytes)
        })
    }

    /// A guest OS like the kit's, changed.
    fn package(
        &mut self,
        name: &str,
        version: u64,
        change: impl FnOnce(&mut GuestOsConfig),
    ) -> Vec<String> {
        let bytes = std::fs::read(kit().store.join("busybox-1.conf")).unwrap();
        let mut config: GuestOsConfig = text::parse(&bytes).unwrap();
        (config.name, config.version) = (name.to_owned(), version);
        change(&mut config);
        let files = self.signed(&format!("{name}-{version}"), &text::print_file(&config));
        let mut words = vec!["push_guestos_config".to_owned()];
        words.extend(files);
        words
    }

    /// A container of a signed configuration.
    #[track_caller]
    pub fn created(&mut self, name: &str, text: &str) {
        let [conf, sig, cert] = self.signed(name, text);
        self.with("guest_os", &["create", &conf, &sig, &cert]);
        self.with(name, &["list"]);
    }

    /// Another signed configuration of a container.
    #[track_caller]
    pub fn updated(&mut self, container: &str, text: &str, expected: &str) {
        let [conf, sig, cert] = self.signed("update", text);
        self.with(expected, &["update_config", container, &conf, &sig, &cert]);
    }

    /// The device comes up again with what is on the disk.
    pub fn reboot(&mut self) {
        self.place.reboot();
        self.lists();
    }

    /// `core0` takes another configuration when the device starts again (protocol.md 5.3, step 3).
    #[track_caller]
    pub fn core0_updated(&mut self) {
        if self.place.has_core0() {
            self.updated("core0", data::CORE0, "allow_dev: \"b 8:");
            self.with("core0", &["config", "core0"]);
        }
    }

    /// Any state but these on the way is a failure: nothing flickers.
    #[track_caller]
    fn waits_running(&mut self, container: &str) {
        let end = Instant::now() + self.place.patience();
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
    fn waits_stopped(&mut self, container: &str) {
        let end = Instant::now() + self.place.patience();
        while !self.says(&["state", container]).contains("STOPPED") {
            assert!(Instant::now() < end, "{container} does not stop");
            sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn started(&mut self, container: &str) {
        let key = format!("--key={PIN}");
        self.with("CONTAINER_START_OK", &["start", container, &key]);
        self.waits_running(container);
    }

    #[track_caller]
    fn stopped(&mut self, container: &str) {
        let key = format!("--key={PIN}");
        self.with("CONTAINER_STOP_OK", &["stop", container, &key]);
        self.waits_stopped(container);
    }

    #[track_caller]
    fn pin(&mut self, container: &str, old: &str, expected: &str) {
        let said = self.says_with(
            &["change_pin", container],
            &format!("{old}\n{PIN}\n{PIN}\n"),
        );
        assert!(said.contains(expected), "{said}");
    }

    /// Suite A, first run (protocol.md 5.4).
    #[track_caller]
    pub fn first_run(&mut self, container: &str) {
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
    pub fn second_run(&mut self, container: &str) {
        self.lists();
        self.pin(container, PIN, "CONTAINER_CHANGE_PIN_SUCCESSFUL");
        self.rest_of_suite_a(container);
    }

    #[track_caller]
    fn rest_of_suite_a(&mut self, container: &str) {
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
    pub fn renamed_and_back(&mut self) {
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
    pub fn cycles_then_removal(&mut self, container: &str) {
        for _ in 0..self.place.cycles() {
            self.started(container);
            self.stopped(container);
        }
        let logs = self.place.path("retrieved");
        self.place.shell(&format!("mkdir -p {logs}"));
        self.with("CMD_OK", &["retrieve_logs", &logs]);
        self.place.shell(&format!("rm -r {logs}"));
        let key = format!("--key={PIN}");
        self.without("Abort", &["remove", container, &key]);
        self.without(&format!("\"{container}\""), &["list"]);
        let absent = "Container with provided uuid/name does not exist!";
        self.with(absent, &["remove", container, &key]);
    }

    #[track_caller]
    pub fn removed_while_it_runs(&mut self, container: &str) {
        self.pin(container, "", "CONTAINER_CHANGE_PIN_SUCCESSFUL");
        self.started(container);
        let key = format!("--key={PIN}");
        self.without("Abort", &["remove", container, &key]);
        self.without(container, &["list"]);
    }

    /// Updates whose images are not there at first (protocol.md 5.5).
    #[track_caller]
    pub fn nullos(&mut self, number: u64) {
        let name = format!("nullos-{number}");
        // Relative to the root of whoever pushes, which is ours.
        let mirror = self.place.path("volatile");
        let base = format!("file:/{mirror}");
        let images = format!("{mirror}/operatingsystems/x86/{name}-1");
        let zeros = self.place.path("zeros");
        let size = (number * self.place.nullos()) << 20;
        self.place
            .shell(&format!("mkdir -p {images}; truncate -s {size} {zeros}"));
        let mut hash = |program: &str| {
            let said = self.place.shell(&format!("{program} {zeros}"));
            said.split(' ').next().unwrap().to_owned()
        };
        let (sha1, sha256) = (hash("sha1sum"), hash("sha256sum"));
        let words = self.package(&name, 1, |guest| {
            guest.update_base_url = Some(base);
            guest.mounts = vec![GuestOsMount {
                image_file: "root".into(),
                mount_point: "/".into(),
                fs_type: "squashfs".into(),
                mount_type: Type::SharedRw.into(),
                image_size: Some(size),
                image_sha1: Some(sha1),
                image_sha2_256: Some(sha256),
                image_verity_sha256: Some("0".repeat(64)),
                ..Default::default()
            }];
        });
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.with("response: GUESTOS_MGR_INSTALL_FAILED", &words);
        let hashes = format!("{images}/root.hash.img");
        let tree = size / 256;
        self.place.shell(&format!(
            "mv {zeros} {images}/root.img; truncate -s {tree} {hashes}"
        ));
        self.with("response: GUESTOS_MGR_INSTALL_COMPLETED", &words);
        self.place.shell(&format!("rm -r {mirror}"));
    }

    #[track_caller]
    pub fn provisioning(&mut self) {
        self.with("device_is_provisioned: false", &["get_provisioned"]);
        self.with("response: CMD_OK", &["set_provisioned"]);
        self.with("device_is_provisioned: true", &["get_provisioned"]);
        self.with("response: CMD_UNSUPPORTED", &["set_provisioned"]);
    }

    /// The kernel that is installed under the next version.
    #[track_caller]
    pub fn kernel_update(&mut self) {
        let mirror = self.place.path("volatile");
        let images = format!("{mirror}/operatingsystems/x86/kernel-2");
        let base = format!("file:/{mirror}");
        self.place.shell(&format!("mkdir -p {images}"));
        let image = b"a kernel, as far as the store can tell";
        let written = self.place.file("kernel.img", image);
        self.place.shell(&format!("mv {written} {images}/root.img"));
        let words = self.package("kernel", 2, |guest| {
            guest.update_base_url = Some(base);
            let mount = &mut guest.mounts[0];
            mount.set_mount_type(Type::StoreOnly);
            mount.image_size = Some(image.len() as u64);
            mount.image_sha2_256 = Some(hex::encode(Sha256::digest(image)));
            mount.image_sha1 = None;
        });
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.with("response: GUESTOS_MGR_INSTALL_COMPLETED", &words);
        self.both_kernels();
    }

    /// Name, hardware and version stand on consecutive lines, for scripts.
    #[track_caller]
    pub fn both_kernels(&mut self) {
        let listed = self.says(&["list_guestos"]);
        let lines: Vec<_> = listed.lines().map(str::trim).collect();
        let versions = lines
            .windows(3)
            .filter(|lines| lines[0] == "name: \"kernel\"");
        let versions: Vec<_> = versions.map(|lines| lines[2]).collect();
        assert_eq!(versions, ["version: 1", "version: 2"], "{listed}");
    }

    #[track_caller]
    pub fn log_names_the_configuration(&mut self) {
        let logs = self.place.path("retrieved");
        self.place.shell(&format!("mkdir -p {logs}"));
        self.with("CMD_OK", &["retrieve_logs", &logs]);
        let line = format!("device.conf path is {}", self.place.device_conf());
        let newest = format!("ls {logs}/cml-daemon* | sort | tail -n 1");
        let found = self
            .place
            .shell(&format!("grep -c -F '{line}' $({newest})"));
        assert_ne!(found.trim(), "0", "{line}");
    }
}
