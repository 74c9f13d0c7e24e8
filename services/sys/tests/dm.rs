//! The device mapper itself: what is written through our tables, what other tools read of it, and what
//! tampering and wrong keys look like.
//!
//! These need root, loop devices, `dmsetup` and `veritysetup`, and a kernel with dm-crypt, dm-integrity
//! and dm-verity. They run one after the other: `--ignored --test-threads=1`.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use cml_sys::{
    dm::{Control, Device, Journal, Target, integrity, verity::Superblock},
    loopdev::{self, Loop},
};

const DATA: u64 = 10 << 20;
const META: u64 = DATA / 10;
const SECTORS: u64 = DATA / 512;
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the tests put their pattern, and a place that keeps its zeros.
const HERE: u64 = 1 << 20;
const THERE: u64 = 5 << 20;

fn key(first: u8) -> Vec<u8> {
    (first..first + 96).collect()
}

fn pattern() -> Vec<u8> {
    (0..64 << 10).map(|at: u32| (at % 251) as u8).collect()
}

/// The four ways to protect a volume (crypto.md 5.1).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    IntegrityEncrypt,
    Authenc,
    IntegrityOnly,
    EncryptOnly,
}

const MODES: [Mode; 4] = [
    Mode::IntegrityEncrypt,
    Mode::Authenc,
    Mode::IntegrityOnly,
    Mode::EncryptOnly,
];
const DETECTING: [Mode; 3] = [Mode::IntegrityEncrypt, Mode::Authenc, Mode::IntegrityOnly];

/// The images of a volume.
struct Images {
    mode: Mode,
    data: File,
    meta: File,
}

impl Images {
    fn new(mode: Mode) -> Self {
        let (data, meta) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        data.set_len(DATA).unwrap();
        meta.set_len(META).unwrap();
        Self { mode, data, meta }
    }

    /// As after the first use: every sector has its tag.
    fn formatted(mode: Mode) -> Self {
        let images = Self::new(mode);
        let open = images.try_open(&key(0), Journal::Off).unwrap();
        let mut device = File::options().write(true).open(open.path()).unwrap();
        for _ in 0..DATA >> 20 {
            device.write_all(&[0; 1 << 20]).unwrap();
        }
        device.sync_all().unwrap();
        drop(device);
        open.close();
        images
    }

    fn open(&self, key: &[u8]) -> Open {
        self.try_open(key, Journal::On).unwrap()
    }

    fn try_open(&self, key: &[u8], journal: Journal) -> cml_sys::Result<Open> {
        let mut open = Open::new(self);
        let mut below = open.data.path.clone();
        let meta = &open.meta.path;
        let (crypt_key, mac_key) = key.split_at(64);
        let integrity = match self.mode {
            Mode::EncryptOnly => None,
            Mode::Authenc => Some(Target::integrity_for_crypt(&below, meta, journal)?),
            _ => Some(Target::integrity(&below, meta, mac_key, journal)?),
        };
        if let Some(target) = integrity {
            below = open.add("test-integrity", &target)?.path;
        }
        let crypt = match self.mode {
            Mode::IntegrityOnly => None,
            Mode::Authenc => Some(Target::crypt_authenticated(&below, key)?),
            _ => Some(Target::crypt(&below, crypt_key)?),
        };
        if let Some(target) = crypt {
            open.add("test", &target)?;
        }
        Ok(open)
    }

    /// The same by `dmsetup`, with tables written out.
    fn open_by_dmsetup(&self, key: &[u8]) -> Open {
        let mut open = Open::new(self);
        let (data, meta) = (open.data.path.display(), open.meta.path.display());
        let (all, crypt, mac) = (
            hex::encode(key),
            hex::encode(&key[..64]),
            hex::encode(&key[64..]),
        );
        let mut tables = Vec::new();
        match self.mode {
            Mode::EncryptOnly => {}
            Mode::Authenc => tables.push((
                "test-integrity",
                format!("integrity {data} 0 32 J 1 meta_device:{meta}"),
            )),
            Mode::IntegrityEncrypt | Mode::IntegrityOnly => tables.push((
                "test-integrity",
                format!(
                    "integrity {data} 0 32 J 3 meta_device:{meta} \
                     internal_hash:hmac(sha256):{mac} allow_discards"
                ),
            )),
        }
        let below = match self.mode {
            Mode::EncryptOnly => format!("{data}"),
            _ => "/dev/mapper/test-integrity".to_owned(),
        };
        match self.mode {
            Mode::IntegrityOnly => {}
            Mode::Authenc => tables.push((
                "test",
                format!(
                    "crypt capi:authenc(hmac(sha256),xts(aes))-random {all} 0 {below} 0 1 \
                     integrity:32:aead"
                ),
            )),
            Mode::IntegrityEncrypt | Mode::EncryptOnly => tables.push((
                "test",
                format!("crypt aes-xts-plain64 {crypt} 0 {below} 0 1 allow_discards"),
            )),
        }
        for (name, table) in tables {
            run(Command::new("dmsetup")
                .args(["create", name, "--table"])
                .arg(format!("0 {SECTORS} {table}")));
            open.names.push(name);
            open.top = PathBuf::from("/dev/mapper").join(name);
        }
        open
    }

    /// Changes the image behind the back of the device.
    fn tamper(&self, at: u64) {
        let mut byte = [0];
        self.data.read_exact_at(&mut byte, at).unwrap();
        self.data.write_all_at(&[!byte[0]], at).unwrap();
    }
}

/// An open volume; its devices go away with it, the topmost first.
struct Open {
    control: Control,
    names: Vec<&'static str>,
    top: PathBuf,
    data: Loop,
    meta: Loop,
}

impl Open {
    fn new(images: &Images) -> Self {
        Self {
            control: Control::open().unwrap(),
            names: Vec::new(),
            top: PathBuf::new(),
            data: loopdev::attach(&images.data, false).unwrap(),
            meta: loopdev::attach(&images.meta, false).unwrap(),
        }
    }

    fn add(&mut self, name: &'static str, target: &Target) -> cml_sys::Result<Device> {
        let device = self.control.create(name, None, false, SECTORS, target)?;
        self.names.push(name);
        self.top.clone_from(&device.path);
        Ok(device)
    }

    fn path(&self) -> &Path {
        &self.top
    }

    fn write(&self, bytes: &[u8], at: u64) {
        let device = File::options().write(true).open(&self.top).unwrap();
        device.write_all_at(bytes, at).unwrap();
        device.sync_all().unwrap();
    }

    fn read(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; pattern().len()];
        File::open(&self.top)?.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn close(mut self) {
        while let Some(name) = self.names.pop() {
            self.control.remove(name, PATIENCE).unwrap();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        while let Some(name) = self.names.pop() {
            let _ = self.control.remove(name, PATIENCE);
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn is_eio<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
    result.unwrap_err().raw_os_error() == Some(libc::EIO)
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_volume_keeps_what_is_written_and_hides_it_where_it_is_encrypted() {
    for mode in MODES {
        let images = Images::new(mode);
        assert_eq!(integrity::read(&images.meta).unwrap(), None, "{mode:?}");
        let images = Images::formatted(mode);
        let expected = (mode != Mode::EncryptOnly).then_some(SECTORS);
        assert_eq!(integrity::read(&images.meta).unwrap(), expected, "{mode:?}");

        let open = images.open(&key(0));
        open.write(&pattern(), HERE);
        open.close();
        let open = images.open(&key(0));
        assert_eq!(open.read(HERE).unwrap(), pattern(), "{mode:?}");
        open.close();

        let mut raw = vec![0; pattern().len()];
        images.data.read_exact_at(&mut raw, HERE).unwrap();
        assert_eq!(raw == pattern(), mode == Mode::IntegrityOnly, "{mode:?}");
    }
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn volumes_of_dmsetup_open_here_and_ours_open_there() {
    for mode in MODES {
        let images = Images::formatted(mode);
        let theirs = images.open_by_dmsetup(&key(0));
        theirs.write(&pattern(), HERE);
        theirs.close();
        let ours = images.open(&key(0));
        assert_eq!(ours.read(HERE).unwrap(), pattern(), "{mode:?}");
        ours.write(&pattern(), THERE);
        ours.close();
        let theirs = images.open_by_dmsetup(&key(0));
        assert_eq!(theirs.read(THERE).unwrap(), pattern(), "{mode:?}");
        theirs.close();
    }
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_changed_byte_of_the_image_is_an_io_error_there_and_nowhere_else() {
    for mode in DETECTING {
        let images = Images::formatted(mode);
        images.tamper(HERE + 5000);
        let open = images.open(&key(0));
        assert!(is_eio(open.read(HERE)), "{mode:?}");
        assert_eq!(open.read(THERE).unwrap(), vec![0; 64 << 10], "{mode:?}");
        open.close();
    }
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_wrong_key_is_an_io_error() {
    for mode in DETECTING {
        let images = Images::formatted(mode);
        // The volume was closed properly, so the table itself loads.
        let open = images.open(&key(1));
        assert!(is_eio(open.read(HERE)), "{mode:?}");
        open.close();
        let open = images.open(&key(0));
        assert_eq!(open.read(HERE).unwrap(), vec![0; 64 << 10], "{mode:?}");
        open.close();
    }
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn sectors_that_were_never_written_cannot_be_read() {
    for mode in DETECTING {
        let images = Images::new(mode);
        let open = images.open(&key(0));
        assert!(is_eio(open.read(HERE)), "{mode:?}");
        open.close();
    }
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_verified_image_is_read_only_and_its_corruption_an_io_error() {
    let control = Control::open().unwrap();
    for algorithm in ["sha256", "sha512"] {
        for salt in ["-", "0011223344"] {
            verified_image(&control, algorithm, salt);
        }
    }
}

fn verified_image(control: &Control, algorithm: &str, salt: &str) {
    let (data, hash) = (
        tempfile::NamedTempFile::new().unwrap(),
        tempfile::NamedTempFile::new().unwrap(),
    );
    let content = pattern().repeat(16);
    data.as_file().write_all_at(&content, 0).unwrap();
    let told = run(Command::new("veritysetup")
        .args(["format", "--hash", algorithm, "--salt", salt])
        .args([data.path(), hash.path()]));
    let root = told
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .unwrap()
        .trim();
    let mut head = [0; 512];
    hash.as_file().read_exact_at(&mut head, 0).unwrap();
    let block = Superblock::parse(&head, content.len() as u64).unwrap();
    assert_eq!(block.algorithm.to_string(), algorithm);

    let open = |root: &str| {
        let data = loopdev::attach(data.as_file(), true).unwrap();
        let hash = loopdev::attach(hash.as_file(), true).unwrap();
        let root = hex::decode(root).unwrap();
        let target = Target::verity(&block, &data.path, &hash.path, &root).unwrap();
        let sectors = block.data_blocks * 8;
        let device = control.create(
            "test-verity",
            Some("CRYPT-VERITY-test"),
            true,
            sectors,
            &target,
        );
        device.unwrap()
    };
    let read = |device: &Device, at: u64| {
        let mut bytes = vec![0; 4096];
        File::open(&device.path)?.read_exact_at(&mut bytes, at)?;
        io::Result::Ok(bytes)
    };

    let device = open(root);
    assert_eq!(read(&device, 8192).unwrap(), content[8192..8192 + 4096]);
    // Whether it can be opened for writing depends on the kernel; that nothing is written does not.
    let writer = File::options().write(true).open(&device.path);
    assert!(
        writer
            .and_then(|device| device.write_all_at(&[0; 4096], 0))
            .is_err()
    );
    assert_eq!(control.status("test-verity").unwrap(), "V");
    control.remove("test-verity", PATIENCE).unwrap();

    // The image as a whole under another root.
    let mut other = root.to_owned();
    other.replace_range(0..1, if root.starts_with('0') { "1" } else { "0" });
    let device = open(&other);
    assert!(is_eio(read(&device, 0)));
    control.remove("test-verity", PATIENCE).unwrap();

    data.as_file().write_all_at(b"changed", 8192 + 100).unwrap();
    let device = open(root);
    assert!(is_eio(read(&device, 8192)));
    assert_eq!(read(&device, 0).unwrap(), content[..4096]);
    assert_eq!(control.status("test-verity").unwrap(), "C");
    control.remove("test-verity", PATIENCE).unwrap();
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn removal_waits_for_a_late_closer_as_long_as_it_was_told() {
    let images = Images::formatted(Mode::EncryptOnly);
    let open = images.open(&key(0));
    let busy = File::open(open.path()).unwrap();
    let control = Control::open().unwrap();
    for patience in [Duration::ZERO, Duration::from_millis(200)] {
        let before = Instant::now();
        let error = control.remove("test", patience).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EBUSY));
        assert!(before.elapsed() >= patience);
    }
    let closer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        drop(busy);
    });
    let before = Instant::now();
    control.remove("test", PATIENCE).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(300));
    closer.join().unwrap();
    assert!(!control.list().unwrap().contains(&"test".to_owned()));
    control.remove("test", Duration::ZERO).unwrap();
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_device_in_use_can_go_with_its_last_user() {
    let images = Images::formatted(Mode::EncryptOnly);
    let open = images.open(&key(0));
    let user = File::open(open.path()).unwrap();
    let control = Control::open().unwrap();
    control.remove_when_unused("test").unwrap();
    assert_eq!(control.status("test").unwrap(), "");
    user.read_exact_at(&mut [0; 4096], HERE).unwrap();
    drop(user);
    let before = Instant::now();
    while control.list().unwrap().contains(&"test".to_owned()) {
        assert!(before.elapsed() < PATIENCE, "it stays");
        thread::sleep(Duration::from_millis(5));
    }
    control.remove_when_unused("test").unwrap();
    open.close();
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_device_has_a_node_while_it_exists_and_a_status_without_its_key() {
    let images = Images::formatted(Mode::IntegrityEncrypt);
    let open = images.open(&key(0));
    let control = Control::open().unwrap();
    let names = control.list().unwrap();
    assert!(names.contains(&"test".to_owned()) && names.contains(&"test-integrity".to_owned()));

    let found = fs::metadata(open.path()).unwrap();
    assert!(found.file_type().is_block_device());
    let status = control.status("test-integrity").unwrap();
    assert!(status.starts_with("0 "), "no mismatch so far: {status}");
    assert_eq!(control.status("test").unwrap(), "");
    assert!(control.status("absent").is_err());

    let number = found.rdev();
    let path = open.path().to_owned();
    open.close();
    let left = fs::metadata(&path).map(|found| found.rdev() == number);
    assert!(!left.unwrap_or(false), "the node stays");
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_second_device_of_the_same_name_or_uuid_is_refused_in_words() {
    let images = Images::new(Mode::EncryptOnly);
    let open = images.open(&key(0));
    let control = Control::open().unwrap();
    let other = loopdev::attach(&images.meta, false).unwrap();
    let target = Target::crypt(&other.path, &key(0)[..64]).unwrap();
    let error = control.create("test", None, false, 8, &target).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("exists already"), "{error}");
    // The first one is not the worse for it.
    assert_eq!(open.read(HERE).unwrap().len(), 64 << 10);

    control
        .create("test2", Some("one"), false, 8, &target)
        .unwrap();
    let error = control
        .create("test3", Some("one"), false, 8, &target)
        .unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::AlreadyExists);
    control.remove("test2", PATIENCE).unwrap();
    open.close();
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_table_that_the_kernel_refuses_leaves_no_device() {
    let control = Control::open().unwrap();
    let before = control.list().unwrap();
    let absent = Target::crypt(Path::new("/dev/absent"), &key(0)[..64]).unwrap();
    assert!(control.create("test", None, false, 8, &absent).is_err());

    // A meta device that holds something else is not overwritten.
    let images = Images::new(Mode::IntegrityEncrypt);
    images.meta.write_all_at(b"something", 0).unwrap();
    assert!(images.try_open(&key(0), Journal::On).is_err());
    let mut head = [0; 9];
    images.meta.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(&head, b"something");

    // One that is too small for the tags.
    let images = Images::new(Mode::IntegrityEncrypt);
    images.meta.set_len(META / 10).unwrap();
    assert!(images.try_open(&key(0), Journal::On).is_err());

    assert!(control.create("", None, false, 8, &absent).is_err());
    assert!(control.create("a/b", None, false, 8, &absent).is_err());
    assert_eq!(control.list().unwrap(), before);
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn targets_are_found_with_their_modules() {
    let control = Control::open().unwrap();
    for name in ["crypt", "integrity", "verity"] {
        assert!(control.has_target(name).unwrap(), "{name}");
    }
    assert!(!control.has_target("absent").unwrap());
    let targets = control.targets().unwrap();
    let crypt = targets
        .iter()
        .find(|target| target.name == "crypt")
        .unwrap();
    assert!(crypt.version >= [1, 14, 0], "{crypt:?}");
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn a_missing_control_node_is_made() {
    drop(Control::open().unwrap());
    fs::remove_file("/dev/mapper/control").unwrap();
    Control::open().unwrap().list().unwrap();
    let made = fs::metadata("/dev/mapper/control").unwrap();
    assert_eq!(made.mode() & 0o7777, 0o600);
}

#[test]
#[ignore = "needs device-mapper; `make test-device` runs it"]
fn scanners_are_told_to_keep_off_and_nobody_is_waited_for() {
    use rustix::net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
    };
    let events = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::KOBJECT_UEVENT),
    )
    .unwrap();
    bind(&events, &netlink::SocketAddrNetlink::new(0, 1)).unwrap();
    Images::new(Mode::EncryptOnly).open(&key(0)).close();

    let mut seen = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok((length, _)) = recv(&events, &mut buffer, RecvFlags::empty()) {
        let event = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Some(cookie) = event
            .split('\0')
            .find_map(|line| line.strip_prefix("DM_COOKIE="))
        else {
            continue;
        };
        seen.push(event.split('@').next().unwrap().to_owned());
        // What udev's rules make of it.
        let flags = run(Command::new("dmsetup").args(["udevflags", cookie]));
        for flag in ["SUBSYSTEM_RULES", "DISK_RULES", "OTHER_RULES"] {
            assert!(
                flags.contains(&format!("DM_UDEV_DISABLE_{flag}_FLAG='1'")),
                "{flags}"
            );
        }
        assert!(flags.contains("DM_UDEV_PRIMARY_SOURCE_FLAG='1'"), "{flags}");
        run(Command::new("dmsetup").args(["udevcomplete", cookie]));
    }
    assert_eq!(seen, ["change", "remove"]);
}
