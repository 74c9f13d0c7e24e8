//! Guest OSes that are pushed: from servers of all manners, beside and in the place of each other.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cml_integration::{Client, Daemon, Setup, eventually, kit::kit};
use cml_wire::{
    proto::{
        ControllerToDaemon, DaemonToController, GuestOsConfig, controller_to_daemon::Command,
        daemon_to_controller::Response,
    },
    text,
};

/// What a request asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    path: String,
    /// The first byte that is wanted.
    from: usize,
}

/// How the server answers a request.
enum Answer {
    /// With these bytes, from the wanted one on.
    File(Vec<u8>),
    /// With these bytes from the beginning, whatever is wanted.
    Whole(Vec<u8>),
    /// As `File`, but the connection breaks after so many bytes.
    Cut(Vec<u8>, usize),
    /// As `File`, byte by byte at first.
    Slow(Vec<u8>),
    /// Without a length, and so to the end of the connection.
    Endless(Vec<u8>),
    /// With a status line alone.
    Status(&'static str),
    /// Not, as long as the server exists.
    Silence,
}

/// An HTTP server on loopback.
struct Server {
    base: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    fn new(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (asked, ended) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (seen, over) = (asked.clone(), ended.clone());
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (answer, seen, over) = (answer.clone(), seen.clone(), over.clone());
                thread::spawn(move || {
                    let Some(request) = read_request(&stream) else {
                        return;
                    };
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    // A client that goes away is what some of the tests are about.
                    let _ = respond(&stream, &request, answer(number, &request), &over);
                });
            }
        });
        Self { base, asked, ended }
    }

    /// Serves the kit's image under every name.
    fn good() -> Self {
        Self::new(|_, _| Answer::File(image()))
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.base.trim_start_matches("http://"));
    }
}

fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut from = 0;
    for line in lines {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            return Some(Asked { path, from });
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok()?;
        }
    }
    None
}

fn respond(
    mut stream: &TcpStream,
    request: &Asked,
    answer: Answer,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let head = |from: usize, size: usize| match from {
        0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"),
        from => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{size}\r\n\r\n",
            size - from,
            size - 1
        ),
    };
    match answer {
        Answer::File(bytes) => {
            stream.write_all(head(request.from, bytes.len()).as_bytes())?;
            stream.write_all(&bytes[request.from..])
        }
        Answer::Whole(bytes) => {
            stream.write_all(head(0, bytes.len()).as_bytes())?;
            stream.write_all(&bytes)
        }
        Answer::Cut(bytes, after) => {
            stream.write_all(head(request.from, bytes.len()).as_bytes())?;
            stream.write_all(&bytes[request.from..request.from + after])
        }
        Answer::Slow(bytes) => {
            stream.write_all(head(request.from, bytes.len()).as_bytes())?;
            for byte in &bytes[..20] {
                stream.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(50));
            }
            stream.write_all(&bytes[20..])
        }
        Answer::Endless(bytes) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            stream.write_all(&bytes)
        }
        Answer::Status(status) => {
            stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
        }
        Answer::Silence => {
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    }
}

fn image() -> Vec<u8> {
    fs::read(kit().store.join("busybox-1/root.img")).unwrap()
}

/// A signed configuration outside the store.
struct Package {
    conf: PathBuf,
}

impl Package {
    /// The kit's guest under another name, changed.
    fn new(
        daemon: &Daemon,
        name: &str,
        version: u64,
        change: impl FnOnce(&mut GuestOsConfig),
    ) -> Self {
        let bytes = fs::read(kit().store.join("busybox-1.conf")).unwrap();
        let mut config: GuestOsConfig = text::parse(&bytes).unwrap();
        (config.name, config.version) = (name.to_owned(), version);
        change(&mut config);
        let dir = daemon.path("packages");
        fs::create_dir_all(&dir).unwrap();
        let conf = dir.join(format!("{name}-{version}.conf"));
        fs::write(&conf, text::print_file(&config)).unwrap();
        let package = Self { conf };
        package.sign("ssig_cml");
        package
    }

    fn sign(&self, signer: &str) {
        kit().sign(&self.conf, signer);
    }

    fn part(&self, suffix: &str) -> PathBuf {
        self.conf.with_extension(suffix)
    }

    /// The words for `control`.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["push_guestos_config".to_owned()];
        words.extend(["conf", "sig", "cert"].map(|part| self.part(part).display().to_string()));
        words
    }

    fn message(&self) -> ControllerToDaemon {
        let read = |suffix| Some(fs::read(self.part(suffix)).unwrap());
        ControllerToDaemon {
            command: Command::PushGuestosConfig.into(),
            guestos_config_file: read("conf"),
            guestos_config_signature: read("sig"),
            guestos_config_certificate: read("cert"),
            ..Default::default()
        }
    }
}

#[track_caller]
fn pushed(daemon: &Daemon, package: &Package) {
    let words = package.words();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = daemon.control().ok(&words);
    assert_eq!(output.value("response"), "GUESTOS_MGR_INSTALL_COMPLETED");
}

/// It must fail; the words of the failure come back.
#[track_caller]
fn refused(daemon: &Daemon, package: &Package) -> String {
    let words = package.words();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    daemon
        .control()
        .refused(&words, "GUESTOS_MGR_INSTALL_FAILED")
        .err
}

fn store(daemon: &Daemon) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(daemon.store())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn files(stems: &[&str]) -> Vec<String> {
    let mut all: Vec<_> = stems
        .iter()
        .flat_map(|stem| ["", ".cert", ".conf", ".sig"].map(|suffix| format!("{stem}{suffix}")))
        .collect();
    all.sort();
    all
}

/// A daemon without any guest OS whose device.conf names this base.
fn empty(base: &str) -> Daemon {
    Daemon::new(setup(base))
}

fn setup(base: &str) -> Setup {
    let setup = Setup::default();
    Setup {
        guest: false,
        device_conf: format!("update_base_url: \"{base}\"\n{}", setup.device_conf),
        ..setup
    }
}

fn versions(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.control().ok(&["list_guestos"]).out;
    let fields = listed.lines().filter_map(|line| {
        let line = line.strip_prefix("  ")?;
        line.strip_prefix("version: ").map(str::to_owned)
    });
    fields.collect()
}

fn responses(client: &mut Client) -> Vec<DaemonToController> {
    let mut all = Vec::new();
    loop {
        let reply = client.reply().expect("a final reply");
        let last = !matches!(
            reply.response(),
            Response::GuestosMgrInstallStarted | Response::GuestosMgrInstallWaiting
        );
        all.push(reply);
        if last {
            return all;
        }
    }
}

#[test]
fn a_guest_os_is_fetched_installed_and_started_and_fetched_only_once() {
    let server = Server::good();
    let daemon = empty(&server.base);
    let package = Package::new(&daemon, "os", 3, |_| {});
    pushed(&daemon, &package);
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/operatingsystems/x86/os-3/root.img");
    assert_eq!(store(&daemon), files(&["os-3"]));
    daemon.running("web", "os");
    let state = daemon.control().ok(&["state", "web"]);
    assert_eq!(state.value("trust_level"), "SIGNED");
    pushed(&daemon, &package);
    assert_eq!(server.asked().len(), 1, "it was there already");
    // What is damaged is fetched again, although its size is right.
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    let path = daemon.store().join("os-3/root.img");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    pushed(&daemon, &package);
    assert_eq!(server.asked().len(), 2);
    daemon.control().ok(&["start", "web"]);
}

#[test]
fn replies_are_started_and_completed_and_progress_only_for_those_who_ask() {
    let server = Server::new(|_, _| Answer::Slow(image()));
    let daemon = empty(&server.base);
    let codes = |message: &ControllerToDaemon| {
        let mut client = daemon.client();
        client.send(message);
        responses(&mut client)
    };
    let plain = codes(&Package::new(&daemon, "a", 1, |_| {}).message());
    let names: Vec<_> = plain.iter().map(DaemonToController::response).collect();
    assert_eq!(
        names,
        [
            Response::GuestosMgrInstallStarted,
            Response::GuestosMgrInstallCompleted
        ]
    );
    let told = codes(&ControllerToDaemon {
        want_progress: Some(true),
        ..Package::new(&daemon, "b", 1, |_| {}).message()
    });
    let progress: Vec<_> = told.iter().filter_map(|one| one.progress.clone()).collect();
    assert!(!progress.is_empty(), "{told:?}");
    for one in &progress {
        assert_eq!(
            (one.name.as_str(), one.total),
            ("b-1", image().len() as u64)
        );
        assert!(one.done <= one.total);
    }
    let refused = codes(&ControllerToDaemon {
        command: Command::PushGuestosConfig.into(),
        ..Default::default()
    });
    assert_eq!(refused[0].response(), Response::GuestosMgrInstallFailed);
}

#[test]
fn a_cut_download_goes_on_where_it_was_or_from_the_beginning() {
    let server = Server::new(|number, _| match number {
        0 | 1 => Answer::Cut(image(), 1000),
        _ => Answer::File(image()),
    });
    let daemon = empty(&server.base);
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    let from: Vec<_> = server.asked().iter().map(|asked| asked.from).collect();
    assert_eq!(from, [0, 1000, 2000]);
    // One that knows no ranges, and one that had something else in the meantime.
    let ignorant = Server::new(|number, _| match number {
        0 => Answer::Cut(image(), 1000),
        _ => Answer::Whole(image()),
    });
    let changed = Server::new(|number, _| match number {
        0 => Answer::Cut(vec![7; image().len()], 1000),
        _ => Answer::File(image()),
    });
    for (name, server) in [("ignorant", &ignorant), ("changed", &changed)] {
        let base = server.base.clone();
        let package = Package::new(&daemon, name, 1, |guest| {
            guest.update_base_url = Some(base);
        });
        pushed(&daemon, &package);
    }
    assert_eq!(
        changed
            .asked()
            .iter()
            .map(|asked| asked.from)
            .collect::<Vec<_>>(),
        [0, 1000, 0]
    );
    daemon.running("web", "ignorant");
}

#[test]
fn what_is_not_the_promised_image_is_refused_and_leaves_nothing() {
    let server = Server::new(|_, asked| {
        let mut wrong = image();
        wrong[100] ^= 1;
        let longer = [image(), vec![0; 1 << 20]].concat();
        let name = asked.path.rsplit('/').nth(1).unwrap().to_owned();
        match name.as_str() {
            "wrong-1" => Answer::File(wrong),
            "longer-1" => Answer::File(longer),
            "endless-1" => Answer::Endless(longer),
            "shorter-1" => Answer::Endless(image()[..5000].into()),
            "absent-1" => Answer::Status("404 Not Found"),
            "broken-1" => Answer::Status("503 Service Unavailable"),
            _ => Answer::File(image()),
        }
    });
    let daemon = empty(&server.base);
    for (name, said, requests) in [
        ("wrong", "SHA-256", 1),
        ("longer", "bytes instead of", 1),
        ("endless", "more than", 1),
        ("shorter", "ended after", 3),
        ("absent", "404", 1),
        ("broken", "503", 3),
    ] {
        let before = server.asked().len();
        let error = refused(&daemon, &Package::new(&daemon, name, 1, |_| {}));
        assert!(
            error.contains(said) && error.contains(&server.base),
            "{error}"
        );
        assert_eq!(server.asked().len() - before, requests, "{name}");
        assert!(store(&daemon).is_empty(), "{name}: {:?}", store(&daemon));
    }
    pushed(&daemon, &Package::new(&daemon, "good", 1, |_| {}));
    assert_eq!(store(&daemon), files(&["good-1"]));
    let nobody = Package::new(&daemon, "nobody", 1, |guest| {
        // Port 9 is discard; nobody listens there.
        guest.update_base_url = Some("http://127.0.0.1:9".into());
    });
    assert!(refused(&daemon, &nobody).contains("127.0.0.1:9"));
}

#[test]
fn nothing_is_fetched_or_written_before_signature_and_configuration_are_good() {
    let server = Server::good();
    let daemon = empty(&server.base);
    let rogue = Package::new(&daemon, "rogue", 1, |_| {});
    rogue.sign("rogue");
    let local = Package::new(&daemon, "local", 1, |_| {});
    local.sign("local");
    let tampered = Package::new(&daemon, "tampered", 1, |_| {});
    let text = fs::read_to_string(&tampered.conf).unwrap();
    fs::write(&tampered.conf, text.replace("version: 1", "version: 2")).unwrap();
    let garbage = Package::new(&daemon, "garbage", 1, |_| {});
    fs::write(&garbage.conf, "this is no configuration").unwrap();
    garbage.sign("ssig_cml");
    for package in [
        rogue,
        local,
        tampered,
        garbage,
        Package::new(&daemon, "zero", 0, |_| {}),
        Package::new(&daemon, "no-hash", 1, |guest| {
            guest.mounts[0].image_sha2_256 = None;
        }),
        Package::new(&daemon, "no-size", 1, |guest| {
            guest.mounts[0].image_size = None;
        }),
        Package::new(&daemon, "huge", 1, |guest| {
            guest.mounts[0].image_size = Some(u64::MAX / 2);
        }),
        Package::new(&daemon, "path", 1, |guest| {
            guest.mounts[0].image_file = "../x".into();
        }),
        Package::new(&daemon, "url", 1, |guest| {
            guest.update_base_url = Some("ftp://127.0.0.1".into());
        }),
    ] {
        let mut client = daemon.client();
        let reply = client.ask(&package.message());
        assert_eq!(reply.response(), Response::GuestosMgrInstallFailed);
        assert!(!reply.error_text().is_empty());
        assert!(store(&daemon).is_empty());
    }
    assert!(server.asked().is_empty());
}

#[test]
fn images_come_from_a_directory_too_and_without_any_base_only_if_they_are_there() {
    let daemon = empty("");
    let package = Package::new(&daemon, "os", 1, |_| {});
    assert!(refused(&daemon, &package).contains("update_base_url"));
    let mirror = daemon.path("mirror");
    let base = format!("file://{}", mirror.display());
    let with_base = Package::new(&daemon, "os", 1, |guest| {
        guest.update_base_url = Some(base.clone());
    });
    assert!(refused(&daemon, &with_base).contains("No such file"));
    let dir = mirror.join("operatingsystems/x86/os-1");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("root.img"), "short").unwrap();
    assert!(refused(&daemon, &with_base).contains("5 bytes"));
    fs::write(dir.join("root.img"), image()).unwrap();
    pushed(&daemon, &with_base);
    // Another configuration of the same version, validly signed, takes its place.
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    assert!(
        !fs::read_to_string(daemon.store().join("os-1.conf"))
            .unwrap()
            .contains("file://")
    );
    let words = Package::new(&daemon, "os", 1, |guest| {
        guest.init_env = vec!["A=1".into()]
    });
    words.sign("rogue");
    refused(&daemon, &words);
    let listed = daemon.control().ok(&["list_guestos"]).out;
    assert!(!listed.contains("A=1"));
    daemon.running("web", "os");
}

#[test]
fn newer_versions_come_beside_older_ones_which_go_when_nobody_uses_them() {
    let server = Server::good();
    let mut daemon = empty(&server.base);
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    daemon.running("web", "os");
    pushed(&daemon, &Package::new(&daemon, "os", 2, |_| {}));
    pushed(&daemon, &Package::new(&daemon, "other", 1, |_| {}));
    assert_eq!(versions(&daemon), ["1", "2", "1"]);
    let error = refused(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    assert!(error.contains("version 2"), "{error}");
    daemon.answers("web");
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    eventually("the old version is gone", || {
        (store(&daemon) == files(&["os-2", "other-1"])).then_some(())
    });
    assert_eq!(versions(&daemon), ["2", "1"]);
    daemon.control().ok(&["start", "web"]);
    daemon.stop();
    daemon.start();
    assert_eq!(store(&daemon), files(&["os-2", "other-1"]));
}

#[test]
fn a_version_that_a_signed_container_pins_stays() {
    let server = Server::good();
    let setup = setup(&server.base);
    let daemon = Daemon::new(Setup {
        device_conf: setup
            .device_conf
            .replace("signed_configs: false", "signed_configs: true"),
        ..setup
    });
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    let conf = daemon.path("pinned.conf");
    let text = "name: \"pinned\"\nguest_os: \"os\"\nguestos_version: 1\ntoken_type: NONE\n";
    fs::write(&conf, text).unwrap();
    kit().sign(&conf, "ssig_cml");
    let part = |suffix| conf.with_extension(suffix).display().to_string();
    daemon
        .control()
        .ok(&["create", &part("conf"), &part("sig"), &part("cert")]);
    pushed(&daemon, &Package::new(&daemon, "os", 2, |_| {}));
    pushed(&daemon, &Package::new(&daemon, "os", 3, |_| {}));
    eventually("version 2 is gone", || {
        (versions(&daemon) == ["1", "3"]).then_some(())
    });
    daemon.control().ok(&["start", "pinned"]);
    daemon.control().ok(&["remove", "pinned"]);
    eventually("version 1 is gone", || {
        (store(&daemon) == files(&["os-3"])).then_some(())
    });
}

#[test]
fn a_guest_os_is_removed_with_all_its_files_unless_a_container_uses_it() {
    let server = Server::good();
    let daemon = empty(&server.base);
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    pushed(&daemon, &Package::new(&daemon, "os-1", 1, |_| {}));
    let uuid = daemon.create("name: \"web\"\nguest_os: \"os\"\ntoken_type: NONE\n");
    let used = daemon
        .control()
        .refused(&["remove_guestos", "os"], "CMD_FAILED");
    assert!(used.err.contains("`web`"), "{used:?}");
    daemon
        .control()
        .refused(&["remove_guestos", "absent"], "CMD_FAILED");
    daemon
        .control()
        .refused(&["remove_guestos", "../os"], "CMD_FAILED");
    daemon.control().ok(&["remove", &uuid]);
    daemon.control().ok(&["remove_guestos", "os"]);
    assert_eq!(store(&daemon), files(&["os-1-1"]));
    assert_eq!(versions(&daemon), ["1"]);
    daemon
        .control()
        .refused(&["remove_guestos", "os"], "CMD_FAILED");
    // It can come again, and containers see it at once.
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    daemon.running("web", "os");
}

#[test]
fn a_stalled_installation_holds_nobody_up_and_a_crash_in_it_leaves_nothing() {
    let server = Server::new(|_, asked| match asked.path.contains("stalled") {
        true => Answer::Silence,
        false => Answer::File(image()),
    });
    let mut daemon = empty(&server.base);
    let mut clients = Vec::new();
    for number in 0..4 {
        let stalled = Package::new(&daemon, &format!("stalled{number}"), 1, |guest| {
            let second = guest.mounts[0].clone();
            guest.mounts.push(second);
            guest.mounts[1].image_file = "second".into();
            guest.mounts[1].mount_point = "/second".into();
        });
        let mut client = daemon.client();
        let begun = client.ask(&stalled.message());
        assert_eq!(begun.response(), Response::GuestosMgrInstallStarted);
        clients.push(client);
    }
    let again = Package::new(&daemon, "stalled0", 2, |_| {});
    assert!(refused(&daemon, &again).contains("already"));
    assert!(versions(&daemon).is_empty());
    pushed(&daemon, &Package::new(&daemon, "os", 1, |_| {}));
    daemon.running("web", "os");
    daemon
        .control()
        .refused(&["remove_guestos", "stalled0"], "CMD_FAILED");
    assert!(store(&daemon).len() > files(&["os-1"]).len());
    daemon.crash();
    daemon.start();
    daemon.wait_for("web", "RUNNING");
    eventually("the left-overs are gone", || {
        (store(&daemon) == files(&["os-1"])).then_some(())
    });
    assert_eq!(versions(&daemon), ["1"]);
}

fn openssl(dir: &Path, words: &str) {
    let mut command = std::process::Command::new("openssl");
    cml_integration::kit::run(command.args(words.split_whitespace()).current_dir(dir));
}

#[test]
fn a_registered_ca_vouches_until_it_is_removed() {
    let server = Server::good();
    let daemon = empty(&server.base);
    let control = daemon.control();
    let package = Package::new(&daemon, "customers", 1, |_| {});
    package.sign("rogue");
    assert!(refused(&daemon, &package).contains("ca_register"));
    let leaf = kit().certificate("rogue").display().to_string();
    control.refused(&["ca_register", &leaf], "GUESTOS_MGR_REGISTER_CA_ERROR");
    let text = fs::read_to_string(kit().certificate("rogue_rootca")).unwrap();
    let root = daemon.path("root.cert").display().to_string();
    fs::write(
        &root,
        format!("Certificate:\r\n{}", text.replace('\n', "\r\n")),
    )
    .unwrap();
    for _ in 0..2 {
        let done = control.ok(&["ca_register", &root]);
        assert_eq!(done.value("response"), "GUESTOS_MGR_REGISTER_CA_OK");
    }
    pushed(&daemon, &package);
    daemon.create("name: \"web\"\nguest_os: \"customers\"\ntoken_type: NONE\n");
    assert_eq!(control.ok(&["state", "web"]).value("trust_level"), "SIGNED");
    let listed: serde_json::Value =
        serde_json::from_str(&control.ok(&["--format", "json", "ca_list"]).out).unwrap();
    let cas = listed["cas"].as_array().unwrap();
    assert_eq!((cas.len(), &cas[0]["kind"]), (2, &"VENDOR".into()));
    let id = cas[1]["id"].as_str().unwrap();
    assert!(daemon.base().join("tokens/ca").join(id).is_file());
    control.refused(&["ca_remove", "vendor"], "CMD_FAILED");
    control.refused(&["ca_remove", "0123"], "CMD_FAILED");
    control.ok(&["ca_remove", id]);
    eventually("the guest OS is not trusted any more", || {
        (control.ok(&["state", "web"]).value("trust_level") == "UNSIGNED").then_some(())
    });
    assert!(versions(&daemon).is_empty());
    control.refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    control.ok(&["ca_register", &root]);
    eventually("the guest OS is trusted again", || {
        (control.ok(&["state", "web"]).value("trust_level") == "SIGNED").then_some(())
    });
}

#[test]
fn a_cms_signature_is_as_good_as_a_raw_one() {
    let server = Server::good();
    let mut daemon = empty(&server.base);
    let package = Package::new(&daemon, "os", 1, |_| {});
    let (key, cert) = (kit().key("ssig_cml"), kit().certificate("ssig_cml"));
    openssl(
        &daemon.path("packages"),
        &format!(
            "cms -sign -in os-1.conf -signer {} -inkey {} -md sha512 -keyopt rsa_padding_mode:pss \
             -outform PEM -out os-1.sig",
            cert.display(),
            key.display()
        ),
    );
    pushed(&daemon, &package);
    daemon.stop();
    daemon.start();
    assert_eq!(versions(&daemon), ["1"]);
}

/// `openssl` as a server of files in a directory, with a certificate of its own for 127.0.0.1.
struct Https {
    child: std::process::Child,
    port: u16,
}

impl Https {
    fn new(dir: &Path) -> Self {
        openssl(
            dir,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout tls.key \
             -out tls.cert -subj /CN=loopback -addext subjectAltName=IP:127.0.0.1 \
             -addext basicConstraints=critical,CA:FALSE",
        );
        // Free a moment ago; nothing else on this machine asks for one by number.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = std::process::Command::new("openssl")
            .args([
                "s_server",
                "-HTTP",
                "-quiet",
                "-accept",
                &format!("127.0.0.1:{port}"),
            ])
            .args(["-cert", "tls.cert", "-key", "tls.key"])
            .current_dir(dir)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        eventually("the server", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port }
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn https_is_believed_if_the_machine_trusts_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("operatingsystems/x86/os-1");
    fs::create_dir_all(&images).unwrap();
    // That server sends the file as it is, with its header.
    let header = "HTTP/1.0 200 OK\r\n\r\n";
    fs::write(
        images.join("root.img"),
        [header.as_bytes(), &image()].concat(),
    )
    .unwrap();
    let server = Https::new(dir.path());
    let base = format!("https://127.0.0.1:{}", server.port);
    let trusting = format!("SSL_CERT_FILE={}", dir.path().join("tls.cert").display());
    // The fixture's words live as long as the test binary.
    let trusting: &'static str = Box::leak(trusting.into_boxed_str());
    let believing = Daemon::new(Setup {
        through: vec!["env", trusting],
        ..setup(&base)
    });
    pushed(&believing, &Package::new(&believing, "os", 1, |_| {}));
    let doubting = empty(&base);
    let error = refused(&doubting, &Package::new(&doubting, "os", 1, |_| {}));
    assert!(error.contains("certificate"), "{error}");
    assert!(store(&doubting).is_empty());
}
