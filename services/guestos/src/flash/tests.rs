#![allow(clippy::unwrap_used)]
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use cml_wire::proto::GuestOsMount;

struct Bench {
    dir: TempDir,
    flasher: Flasher,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flasher = Flasher {
            backups: dir.path().join("bak"),
            targets: Targets::Anywhere,
        };
        Self { dir, flasher }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image with this content that belongs to `target`.
    fn flash(&self, content: &str, target: &str) -> Flash {
        let image = self.path(&format!("{content}.img"));
        fs::write(&image, content).unwrap();
        let mount = GuestOsMount {
            image_size: Some(content.len() as u64),
            image_sha2_256: Some(hex::encode(Sha256::digest(content))),
            ..Default::default()
        };
        Flash {
            image,
            promise: Promise::of(&mount, false).unwrap(),
            target: self.path(target),
        }
    }

    fn content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }
}

#[test]
fn what_differs_is_written_and_what_was_there_is_kept() {
    let bench = Bench::new();
    fs::write(bench.path("kernel"), "old").unwrap();
    let flashes = [bench.flash("new", "kernel"), bench.flash("more", "initrd")];
    bench.flasher.write("os-1", b"conf", &flashes).unwrap();
    bench.flasher.done("os-1").unwrap();
    assert_eq!(bench.content("kernel").unwrap(), "new");
    assert_eq!(bench.content("initrd").unwrap(), "more");
    assert_eq!(bench.content("bak/os-1/0-new").unwrap(), "old");
    // Nothing to do: not even the backup changes.
    bench.flasher.write("os-1", b"conf", &flashes).unwrap();
    assert_eq!(bench.content("bak/os-1/0-new").unwrap(), "old");
}

#[test]
fn a_failure_leaves_every_target_as_it_was() {
    let bench = Bench::new();
    fs::write(bench.path("kernel"), "old").unwrap();
    let good = [bench.flash("new", "kernel"), bench.flash("more", "initrd")];
    let tampered = bench.flash("sane", "other");
    fs::write(&tampered.image, "evil").unwrap();
    let [one, two] = good.clone();
    let refused = bench.flasher.write("os-1", b"conf", &[one, two, tampered]);
    assert!(refused.unwrap_err().to_string().contains("SHA-256"));
    assert_eq!(bench.content("kernel").unwrap(), "old");
    assert_eq!(bench.content("initrd"), None);
    assert_eq!(bench.content("other"), None);
    assert!(!bench.path("bak/os-1").exists());
    bench.flasher.write("os-1", b"conf", &good).unwrap();
    bench.flasher.take_back("os-1").unwrap();
    assert_eq!(bench.content("kernel").unwrap(), "old");
    assert_eq!(bench.content("initrd"), None);
}

#[test]
fn an_interrupted_flashing_is_taken_back_unless_its_version_is_installed_and_complete() {
    for (stored, target, expected) in [
        (None, "new", "old"),
        (Some("conf"), "new", "new"),
        // The configuration that was there before.
        (Some("other"), "new", "old"),
        // The power was cut while it was being written.
        (Some("conf"), "ne", "old"),
    ] {
        let bench = Bench::new();
        fs::write(bench.path("kernel"), "old").unwrap();
        let flashes = [bench.flash("new", "kernel")];
        bench.flasher.write("os-1", b"conf", &flashes).unwrap();
        fs::write(bench.path("kernel"), target).unwrap();
        if let Some(stored) = stored {
            fs::create_dir(bench.path("os-1")).unwrap();
            fs::write(bench.path("os-1/new.img"), "new").unwrap();
            fs::write(bench.path("os-1.conf"), stored).unwrap();
        }
        bench.flasher.recover(bench.dir.path());
        assert_eq!(bench.content("kernel").unwrap(), expected, "{stored:?}");
        assert!(!bench.path("bak/os-1").join(JOURNAL).exists());
        // A later start has nothing to take back.
        bench.flasher.recover(bench.dir.path());
        assert_eq!(bench.content("kernel").unwrap(), expected);
    }
}

#[test]
fn the_only_backup_survives_what_could_not_be_taken_back() {
    let bench = Bench::new();
    fs::write(bench.path("kernel"), "original").unwrap();
    let flashes = [bench.flash("new", "kernel")];
    bench.flasher.write("os-1", b"conf", &flashes).unwrap();
    // The target is not there when the daemon starts again, as a disk that is mounted later.
    fs::remove_file(bench.path("kernel")).unwrap();
    fs::create_dir(bench.path("kernel")).unwrap();
    bench.flasher.recover(bench.dir.path());
    assert!(bench.flasher.write("os-1", b"conf", &flashes).is_err());
    assert_eq!(bench.content("bak/os-1/0-new").unwrap(), "original");
    bench.flasher.forget("os-1").unwrap();
    fs::remove_dir(bench.path("kernel")).unwrap();
    bench.flasher.write("os-1", b"conf", &flashes).unwrap();
    assert_eq!(bench.content("bak/os-1/0-new").unwrap(), "original");
    bench.flasher.done("os-1").unwrap();
    bench.flasher.forget("os-1").unwrap();
    assert!(!bench.path("bak/os-1").exists());
}

#[test]
fn only_permitted_places_are_written() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path("boot")).unwrap();
    fs::create_dir(bench.path("etc")).unwrap();
    std::os::unix::fs::symlink(bench.path("etc"), bench.path("boot/way-out")).unwrap();
    bench.flasher.targets = Targets::Within(vec![bench.path("boot")]);
    let flashes = [bench.flash("new", "boot/kernel")];
    bench.flasher.write("os-1", b"conf", &flashes).unwrap();
    for target in ["etc/passwd", "boot/way-out/passwd", "boot2"] {
        let refused = bench
            .flasher
            .write("os-1", b"conf", &[bench.flash("new", target)]);
        assert!(
            refused.unwrap_err().to_string().contains("flash_targets"),
            "{target}"
        );
        assert_eq!(bench.content(target), None);
    }
    bench.flasher.targets = Targets::Within(Vec::new());
    assert!(
        bench
            .flasher
            .permit_target(&bench.path("boot/kernel"))
            .is_err()
    );
}

#[test]
fn what_is_neither_file_nor_device_is_no_target() {
    let bench = Bench::new();
    fs::create_dir(bench.path("dir")).unwrap();
    for target in ["dir", "missing/kernel"] {
        let refused = bench
            .flasher
            .write("os-1", b"conf", &[bench.flash("new", target)]);
        assert!(refused.is_err(), "{target}");
    }
    assert!(!bench.path("bak").exists());
}
