//! A device with its management container. Its daemon is a child of the first program of a process namespace, so that the
//! end of the machine is the end of that namespace: the kernel then tells a restart from a power-off by the signal.

use std::{
    fs,
    ops::{Deref, DerefMut},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
            process::ExitStatusExt,
        },
    },
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use cml_integration::{
    Daemon, Output, PATIENCE, Setup,
    encrypted::{by_device_mapper, volume},
    eventually,
    kit::kit,
    shows,
};
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};

pub const CORE0: &str = "00000000-0000-0000-0000-000000000000";
/// What `device.conf` of the fixture says of configurations.
pub const UNSIGNED: &str = "signed_configs: false";
/// How pid_namespaces(7) shows the end of a machine.
pub const RESTARTED: Option<i32> = Some(1);
pub const SWITCHED_OFF: Option<i32> = Some(2);
/// What `control` returns when no daemon is there.
const UNREACHABLE: i32 = 125;
/// A machine of its own, as far as this one allows: without the cards of the host, and with a first program that starts the
/// daemon again whenever it ends.
const MACHINE: [&str; 10] = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--net",
    "sh",
    "-c",
    "while :; do \"$@\" --device; done",
    "sh",
];

/// Puts `control` into a guest OS, as a file of the device.
pub fn with_control(guest: &mut GuestOsConfig) {
    guest.mounts.push(GuestOsMount {
        image_file: "control".into(),
        mount_point: "/usr/bin/control".into(),
        fs_type: "none".into(),
        mount_type: Type::BindFile.into(),
        ..Default::default()
    });
}

/// A device on which `core0` runs, for as long as the machine has no other: its control groups go by its uuid.
#[derive(Debug)]
pub struct Device {
    daemon: Daemon,
    _only: UnixListener,
}

impl Deref for Device {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Device {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

fn device() -> Device {
    device_from(UNSIGNED, |_| ())
}

/// One whose guest OS for `core0` has something more.
fn device_with(more: impl FnOnce(&mut GuestOsConfig)) -> Device {
    device_from(UNSIGNED, |daemon| {
        daemon.add_guest("coreos", |guest| {
            with_control(guest);
            more(guest);
        });
    })
}

/// A device with these lines in its `device.conf`, in whose store something is laid out before it starts.
pub fn device_from(lines: &str, lay_out: impl FnOnce(&mut Daemon)) -> Device {
    let only = SocketAddr::from_abstract_name("cml-test-core0").unwrap();
    let limit = Instant::now() + 10 * PATIENCE;
    let only = loop {
        match UnixListener::bind_addr(&only) {
            Ok(only) => break only,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        sleep(Duration::from_millis(50));
    };
    let plain = Setup::default();
    let device_conf = plain
        .device_conf
        .replace("hostedmode: true", "hostedmode: false")
        .replace(UNSIGNED, lines);
    let mut daemon = Daemon::prepared(Setup {
        device_conf: format!("{device_conf}c0os: \"coreos\"\n"),
        through: MACHINE.to_vec(),
        ..plain
    });
    daemon.add_guest("coreos", with_control);
    daemon.add_guest("installer", |guest| {
        guest.feature_install_guest = Some(true);
        with_control(guest);
    });
    let shared = daemon.base().join("files_shared");
    fs::create_dir(&shared).unwrap();
    let control = shared.join("control");
    fs::copy(kit().init.with_file_name("control"), &control).unwrap();
    fs::set_permissions(&control, fs::Permissions::from_mode(0o755)).unwrap();
    lay_out(&mut daemon);
    daemon.start();
    daemon.wait_for(CORE0, "RUNNING");
    Device {
        daemon,
        _only: only,
    }
}

/// What `control` says inside a container.
pub fn inside(daemon: &Daemon, container: &str, words: &[&str]) -> Output {
    let run = ["run", container, "nopty", "control", "--format", "text"];
    daemon.control().run(&[&run[..], words].concat())
}

/// Ends the device from inside `core0`.
pub fn end(mut daemon: Device, words: &[&str], signal: Option<i32>) {
    let run = ["run", CORE0, "nopty"];
    daemon.control().run(&[&run[..], words].concat());
    assert_eq!(daemon.wait().signal(), signal, "{}", daemon.log());
}

/// Kills the first process of `core0`. The daemon counts in its own machine; a killer outside needs the number that the
/// process has here.
fn kill_core0(daemon: &Daemon) {
    let inner = format!("\t{}\t1", daemon.init_pid(CORE0));
    kill(|entry| {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let numbers = read("status");
        let numbers = numbers.lines().find(|line| line.starts_with("NSpid:"));
        numbers.is_some_and(|line| line.ends_with(&inner)) && read("cgroup").contains(CORE0)
    });
}

/// Kills the daemon inside the machine, and waits for the next one.
fn kill_daemon(daemon: &Daemon) {
    // The only process of its program that has this directory as its base.
    let base = daemon.base();
    kill(|entry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        words.starts_with(kit().cmld.as_os_str().as_encoded_bytes())
            && String::from_utf8_lossy(&words).contains(base.to_str().unwrap())
    });
    eventually("another daemon", || {
        let state = daemon.control().run(&["state", CORE0]);
        (state.status == 0).then_some(())
    });
}

/// Kills the one process that is meant.
fn kill(is_it: impl Fn(&fs::DirEntry) -> bool) {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found: Vec<_> = entries.filter(is_it).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let number = found[0].file_name().into_string().unwrap().parse().unwrap();
    let process = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

/// Waits until `core0` runs with another first process than this one.
fn wait_for_another_core0(daemon: &Daemon, pid: u32) {
    eventually("another core0", || {
        let runs = daemon.state(CORE0) == "RUNNING" && daemon.init_pid(CORE0) != pid;
        runs.then_some(())
    });
}

#[test]
fn core0_is_there_without_a_configuration_and_commands_the_device_from_inside() {
    let daemon = device();
    let state = inside(&daemon, CORE0, &["state", "c0"]);
    assert_eq!(state.value("uuid"), CORE0, "{state:?}");
    assert_eq!(state.value("guestos"), "coreos");
    // It makes a container, and runs a command in it.
    let create = "printf 'name: \"web\"\\nguest_os: \"busybox\"\\ntoken_type: NONE\\n' >/tmp/web.conf \
                  && control create /tmp/web.conf && control start web && control run web nopty hostname";
    let made = daemon
        .control()
        .run(&["run", CORE0, "nopty", "sh", "-c", create]);
    assert_eq!(made.status, 0, "{made:?}");
    assert!(made.out.ends_with("web\n"), "{made:?}");
    daemon.wait_for("web", "RUNNING");
    end(daemon, &["control", "reboot"], RESTARTED);
}

#[test]
fn core0_is_neither_started_nor_stopped_nor_frozen_nor_removed_by_command() {
    let daemon = device();
    for (command, response) in [
        ("start", "CMD_UNSUPPORTED"),
        ("stop", "CMD_UNSUPPORTED"),
        // protocol.md 3.4
        ("remove", "CMD_FAILED"),
        ("wipe", "CMD_FAILED"),
        // Nobody could thaw it.
        ("freeze", "CMD_FAILED"),
    ] {
        let words = [command, CORE0];
        daemon.control().refused(&words, response);
        assert_eq!(inside(&daemon, CORE0, &words).value("response"), response);
    }
    let change = daemon
        .control()
        .run_with(&["change_pin", CORE0], b"trustme\nx\nx\n");
    assert_eq!(change.value("response"), "CMD_UNSUPPORTED");
    // What everybody has stored is deleted, and core0 is still there to say so.
    assert_eq!(
        inside(&daemon, CORE0, &["wipe_device"]).value("response"),
        "CMD_OK"
    );
    assert_eq!(daemon.state(CORE0), "RUNNING");
    end(daemon, &["poweroff"], SWITCHED_OFF);
}

#[test]
fn another_configuration_of_core0_is_taken_when_the_device_starts_again() {
    let mut daemon = device();
    let conf = daemon.path("core0.conf");
    // Its token is not looked at: nobody types a PIN when a device starts.
    fs::write(
        &conf,
        "name: \"core0\"\nguest_os: \"coreos\"\ninit_env: \"A=b\"\n",
    )
    .unwrap();
    let update = ["update_config", CORE0, conf.to_str().unwrap()];
    assert_eq!(daemon.control().ok(&update).value("name"), "core0");
    assert_eq!(
        daemon.control().ok(&["config", CORE0]).value("name"),
        "core0"
    );
    assert_eq!(daemon.control().ok(&["state", CORE0]).value("name"), "c0");
    inside(&daemon, CORE0, &["reboot"]);
    assert_eq!(daemon.wait().signal(), RESTARTED);
    daemon.start();
    daemon.wait_for("core0", "RUNNING");
    let set = daemon
        .control()
        .ok(&["run", "core0", "nopty", "sh", "-c", "echo $A"]);
    assert_eq!(set.out, "b\n");
    // With a root of its own, and the same rights all the same.
    assert_eq!(
        inside(&daemon, "core0", &["reload"]).value("response"),
        "CMD_OK"
    );
    end(daemon, &["control", "reboot"], RESTARTED);
}

#[test]
fn a_core0_that_dies_is_started_again_and_the_device_stays() {
    let daemon = device();
    daemon.running("web", "busybox");
    let pid = daemon.init_pid(CORE0);
    kill_core0(&daemon);
    wait_for_another_core0(&daemon, pid);
    assert_eq!(daemon.state("web"), "RUNNING");
    eventually("core0 is heard", || {
        (inside(&daemon, CORE0, &["reload"]).status == 0).then_some(())
    });
    end(daemon, &["poweroff"], SWITCHED_OFF);
}

#[test]
fn core0_stores_its_data_also_where_the_kernel_cannot_protect_them() {
    if !shows(!by_device_mapper(), "this kernel can protect them") {
        return;
    }
    let mut daemon = device_with(|guest| guest.mounts.push(volume(Type::Empty, "etc", "/data")));
    let mode = daemon.control().ok(&["state", CORE0]);
    assert_eq!(mode.value("cryptfs_mode"), "NOT_IMPLEMENTED");
    let warned = "nothing notices changes of what core0 stores";
    assert!(daemon.log().contains(warned), "{}", daemon.log());
    let sh = |daemon: &Daemon, script: &str| {
        let run = ["run", CORE0, "nopty", "sh", "-c", script];
        daemon.control().run(&run).out
    };
    let reboot = |daemon: &mut Device, between: &dyn Fn(&Path)| {
        inside(daemon, CORE0, &["reboot"]);
        assert_eq!(daemon.wait().signal(), RESTARTED);
        between(&daemon.base().join("containers").join(CORE0));
        daemon.start();
        daemon.wait_for(CORE0, "RUNNING");
    };
    sh(&daemon, "echo kept >/data/file");
    // That is for core0 alone.
    daemon.create("name: \"web\"\nguest_os: \"coreos\"\ntoken_type: NONE\n");
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(refused.err.contains("no device-mapper"), "{refused:?}");
    reboot(&mut daemon, &|_| ());
    assert_eq!(sh(&daemon, "cat /data/file"), "kept\n");
    // What a kernel with device-mapper has made stays as it is, for the next one.
    let protected = |images: &Path| images.join("etc.img");
    reboot(&mut daemon, &|images| {
        fs::rename(images.join("etc.plain.img"), protected(images)).unwrap();
        fs::write(protected(images), "protected").unwrap();
    });
    assert_eq!(
        sh(&daemon, "cat /data/file 2>/dev/null || echo new"),
        "new\n"
    );
    // Nor does it suffer when the other one is damaged.
    reboot(&mut daemon, &|images| {
        let plain = images.join("etc.plain.img");
        let size = fs::metadata(&plain).unwrap().len();
        fs::write(&plain, vec![0; size.try_into().unwrap()]).unwrap();
    });
    assert!(daemon.log().contains("the volume begins anew"));
    let images = daemon.base().join("containers").join(CORE0);
    assert_eq!(fs::read(protected(&images)).unwrap(), b"protected");
    end(daemon, &["control", "reboot"], RESTARTED);
}

#[test]
fn a_guest_that_installs_guest_oses_hears_nothing_else_and_others_have_no_socket() {
    let daemon = device();
    daemon.running("installer", "installer");
    daemon.running("plain", "busybox");
    assert_eq!(inside(&daemon, "installer", &["list_guestos"]).status, 0);
    for words in [&["reload"][..], &["reboot"], &["wipe_device"]] {
        let refused = inside(&daemon, "installer", words);
        assert_eq!(refused.value("response"), "CMD_UNSUPPORTED", "{words:?}");
    }
    let look = ["run", "plain", "nopty", "ls", "/run/socket"];
    assert_eq!(daemon.control().ok(&look).out, "cml-service\n");
    end(daemon, &["control", "reboot"], RESTARTED);
}

#[test]
fn a_daemon_that_takes_over_hears_core0_and_still_ends_the_device_with_it() {
    let mut daemon = device();
    daemon.running("installer", "installer");
    let pid = daemon.init_pid(CORE0);
    kill_daemon(&daemon);
    daemon.wait_for(CORE0, "RUNNING");
    assert_eq!(daemon.init_pid(CORE0), pid);
    eventually("core0 is heard", || {
        (inside(&daemon, CORE0, &["reload"]).status == 0).then_some(())
    });
    assert_eq!(inside(&daemon, "installer", &["list_guestos"]).status, 0);
    // The reason may escape a daemon that is not its parent. Then core0 is there again, for another try.
    eventually("the end of the device", || {
        let off = daemon.control().run(&["run", CORE0, "nopty", "poweroff"]);
        (off.status == UNREACHABLE).then_some(())
    });
    assert_eq!(daemon.wait().signal(), SWITCHED_OFF, "{}", daemon.log());
}

#[test]
fn a_core0_that_was_taken_over_and_dies_is_started_again_and_the_device_stays() {
    let daemon = device();
    daemon.running("web", "busybox");
    let pid = daemon.init_pid(CORE0);
    kill_daemon(&daemon);
    daemon.wait_for(CORE0, "RUNNING");
    assert_eq!(daemon.init_pid(CORE0), pid);
    kill_core0(&daemon);
    wait_for_another_core0(&daemon, pid);
    assert_eq!(daemon.state("web"), "RUNNING");
    end(daemon, &["poweroff"], SWITCHED_OFF);
}
