//! Devices: what a container may use, alone or with others, and what appears in its `/dev`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cml_integration::{Daemon, Groups, Output, Setup, eventually, shows};

fn start(daemon: &Daemon, name: &str, lines: &str) -> (String, Output) {
    let uuid = daemon.create_with(name, "busybox", lines);
    let started = daemon.control().ok(&["start", name]);
    daemon.wait_for(name, "RUNNING");
    (uuid, started)
}

fn sh(daemon: &Daemon, name: &str, script: &str) -> Output {
    daemon
        .control()
        .run(&["run", name, "nopty", "sh", "-c", script])
}

/// Whether the container's root can open a node for reading.
fn opens(daemon: &Daemon, name: &str, node: &str) -> bool {
    sh(daemon, name, &format!("exec 3<{node}")).status == 0
}

// Nodes of this machine that are on no default list and can be opened without doing anything. All tests run
// on one kernel: of each of these, only one test may assign it, or tell the kernel's news of it.
/// `/dev/loop-control`
const SHARED: &str = "c 10:237";
/// `/dev/autofs`
const ASSIGNED: &str = "c 10:235";

/// The rule for a device of the kernel's list `misc`, and the file by which its news can be had again.
fn plugged(name: &str) -> (String, PathBuf) {
    let dir = Path::new("/sys/devices/virtual/misc").join(name);
    let number = fs::read_to_string(dir.join("dev")).unwrap();
    (format!("c {}", number.trim()), dir.join("uevent"))
}

fn rules_are_kept(groups: Groups) {
    let mut daemon = Daemon::new(Setup {
        groups,
        ..Setup::default()
    });
    start(&daemon, "web", &format!("allow_dev: \"{SHARED} r\"\n"));
    start(&daemon, "other", "");
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let listed = sh(&daemon, "other", &format!("[ -c /dev/{node} ]"));
        assert_eq!(listed.status, 0, "{node}");
    }
    assert!(opens(&daemon, "other", "/dev/zero"));
    assert!(opens(&daemon, "web", "/dev/loop-control"));
    assert_ne!(
        sh(&daemon, "web", "exec 3>>/dev/loop-control").status,
        0,
        "not for writing"
    );
    assert_ne!(sh(&daemon, "other", "[ -e /dev/loop-control ]").status, 0);
    let control = daemon.control();
    control.ok(&["dev_access", "other", SHARED, "r"]);
    assert!(opens(&daemon, "other", "/dev/loop-control"));
    control.ok(&["dev_access", "web", "deny", SHARED]);
    assert_ne!(sh(&daemon, "web", "[ -e /dev/loop-control ]").status, 0);
    daemon.crash();
    daemon.start();
    assert!(
        opens(&daemon, "other", "/dev/loop-control"),
        "kept over a restart"
    );
    // The old form: a rule alone, and one without rights denies.
    let control = daemon.control();
    control.ok(&["dev_access", "web", "c 10:237 rwm"]);
    assert!(opens(&daemon, "web", "/dev/loop-control"));
    control.ok(&["dev_access", "web", "c 10:237"]);
    assert!(!opens(&daemon, "web", "/dev/loop-control"));
    // What the command gave lasts until the container stops.
    control.ok(&["stop", "other"]);
    daemon.wait_for("other", "STOPPED");
    control.ok(&["start", "other"]);
    assert_ne!(sh(&daemon, "other", "[ -e /dev/loop-control ]").status, 0);
}

#[test]
fn rules_are_kept_by_the_groups_of_this_machine() {
    rules_are_kept(Groups::AsTheyAre);
}

#[test]
fn rules_are_kept_by_version_1_alone() {
    rules_are_kept(Groups::OnlyV1);
}

#[test]
fn a_node_that_a_container_makes_itself_is_no_way_to_a_device() {
    let daemon = Daemon::default();
    // Without a user namespace root may make nodes, if the rules let it.
    let web = "name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\nuserns: false\n";
    daemon.create(web);
    daemon.control().ok(&["start", "web"]);
    daemon
        .control()
        .ok(&["dev_access", "web", "allow", SHARED, "m"]);
    let made = sh(&daemon, "web", "mknod /dev/x c 10 237 && exec 3</dev/x");
    assert_ne!(made.status, 0, "{made:?}");
    let made = sh(&daemon, "web", "mknod /dev/y c 10 63");
    assert_ne!(made.status, 0, "{made:?}");
}

#[test]
fn nodes_have_the_owner_and_mode_of_the_host_as_seen_from_inside() {
    let daemon = Daemon::default();
    start(
        &daemon,
        "web",
        &format!("allow_dev: \"{SHARED}\"\nallow_dev: \"c 4:*\"\n"),
    );
    let seen = |node: &str| sh(&daemon, "web", &format!("stat -c '%u %g %a %t:%T' {node}")).out;
    let host = |node: &str| {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(node).unwrap();
        let number = found.rdev();
        format!(
            "{} {} {:o} {:x}:{:x}\n",
            found.uid(),
            found.gid(),
            found.mode() & 0o777,
            rustix::fs::major(number),
            rustix::fs::minor(number)
        )
    };
    for node in ["/dev/null", "/dev/loop-control", "/dev/tty1"] {
        assert_eq!(seen(node), host(node), "{node}");
    }
    assert!(
        opens(&daemon, "web", "/dev/loop-control"),
        "its own root may"
    );
}

#[test]
fn a_device_for_oneself_is_refused_to_others_with_the_holders_name() {
    let mut daemon = Daemon::default();
    start(&daemon, "holder", &format!("assign_dev: \"{ASSIGNED}\"\n"));
    assert!(opens(&daemon, "holder", "/dev/autofs"));
    let refused = |daemon: &Daemon, name: &str, rule: &str| {
        daemon.create_with(name, "busybox", &format!("assign_dev: \"{rule}\"\n"));
        let refused = daemon
            .control()
            .refused(&["start", name], "CONTAINER_START_EINTERNAL");
        assert!(
            refused.err.contains("container `holder` uses"),
            "{refused:?}"
        );
    };
    refused(&daemon, "same", ASSIGNED);
    refused(&daemon, "wider", "a 10:235");
    daemon.crash();
    daemon.start();
    refused(&daemon, "later", ASSIGNED);
    // Who only shares gets the rest, and is told.
    let (_, started) = start(
        &daemon,
        "shares",
        "allow_dev: \"c 10:235\"\nallow_dev: \"c 10:237\"\n",
    );
    assert!(
        started.err.contains("warning") && started.err.contains("`holder`"),
        "{started:?}"
    );
    assert!(!opens(&daemon, "shares", "/dev/autofs"));
    assert!(opens(&daemon, "shares", "/dev/loop-control"));
    let access = daemon
        .control()
        .refused(&["dev_access", "shares", ASSIGNED, "r"], "CMD_FAILED");
    assert!(access.err.contains("`holder`"), "{access:?}");
    daemon.control().ok(&["stop", "holder"]);
    daemon.wait_for("holder", "STOPPED");
    daemon.control().ok(&["stop", "shares"]);
    daemon.wait_for("shares", "STOPPED");
    daemon.control().ok(&["start", "same"]);
    assert!(opens(&daemon, "same", "/dev/autofs"));
    daemon.create_with("greedy", "busybox", "assign_dev: \"c 1:*\"\n");
    let refused = daemon
        .control()
        .refused(&["start", "greedy"], "CONTAINER_START_EINTERNAL");
    assert!(
        refused.err.contains("every container may use"),
        "{refused:?}"
    );
}

#[test]
fn bad_rules_and_stopped_containers_get_a_clear_answer() {
    let daemon = Daemon::default();
    daemon.create_with("web", "busybox", "");
    let control = daemon.control();
    let refused = control.refused(&["dev_access", "web", SHARED, "r"], "CMD_FAILED");
    assert!(refused.err.contains("not running"), "{refused:?}");
    control.ok(&["start", "web"]);
    for bad in [
        "",
        "c",
        "c 1:3 x",
        "allow",
        "grant c 1:3",
        "c 1:3 r w",
        "c 99999:1",
    ] {
        let refused = control.refused(&["dev_access", "web", bad], "CMD_FAILED");
        assert!(
            refused.err.contains("write it as `c 10:200 rwm`"),
            "{refused:?}"
        );
    }
    assert!(opens(&daemon, "web", "/dev/null"));
}

#[test]
fn a_node_that_appears_on_the_host_appears_in_the_container() {
    let mut daemon = Daemon::default();
    let (rule, event) = plugged("vga_arbiter");
    start(&daemon, "web", &format!("allow_dev: \"{rule}\"\n"));
    start(&daemon, "other", "");
    let there =
        |daemon: &Daemon, name: &str| sh(daemon, name, "[ -c /dev/vga_arbiter ]").status == 0;
    for restart in [false, true] {
        if restart {
            daemon.crash();
            daemon.start();
        }
        assert_eq!(sh(&daemon, "web", "rm /dev/vga_arbiter").status, 0);
        assert!(!there(&daemon, "web"));
        fs::write(&event, "add").unwrap();
        eventually("the node", || there(&daemon, "web").then_some(()));
        assert!(opens(&daemon, "web", "/dev/vga_arbiter"));
        assert!(!there(&daemon, "other"));
        fs::write(&event, "remove").unwrap();
        eventually("its end", || (!there(&daemon, "web")).then_some(()));
        fs::write(&event, "add").unwrap();
        eventually("the node again", || there(&daemon, "web").then_some(()));
    }
}

#[test]
fn a_guest_that_plants_links_in_its_dev_keeps_the_host_out_of_it() {
    let daemon = Daemon::default();
    let (rule, event) = plugged("cpu_dma_latency");
    start(&daemon, "web", &format!("allow_dev: \"{rule}\"\n"));
    let trap = daemon.path("trap");
    fs::write(&trap, "untouched").unwrap();
    let script = format!(
        "rm /dev/cpu_dma_latency && ln -s {} /dev/cpu_dma_latency",
        trap.display()
    );
    assert_eq!(sh(&daemon, "web", &script).status, 0);
    fs::write(event, "add").unwrap();
    daemon.wait_for_log("it was not told of a device");
    assert_eq!(fs::read_to_string(&trap).unwrap(), "untouched");
    assert_eq!(daemon.state("web"), "RUNNING");
}

/// A daemon that finds a sound device: nobody drives it, so an open that the rules allow fails differently.
fn with_sound() -> Daemon {
    Daemon::new(Setup {
        through: vec![
            "unshare",
            "-m",
            "sh",
            "-ec",
            "mount -t tmpfs none /mnt; mkdir /mnt/up /mnt/work /mnt/dev /mnt/up/snd; \
             mknod /mnt/up/snd/controlC0 c 116 0; \
             mount -t overlay -o lowerdir=/dev,upperdir=/mnt/up,workdir=/mnt/work none /mnt/dev; \
             mount --bind /dev/pts /mnt/dev/pts; mount --move /mnt/dev /dev; exec \"$@\"",
            "sh",
        ],
        ..Setup::default()
    })
}

#[test]
fn sound_is_granted_and_taken_at_once_and_for_later() {
    let mut daemon = with_sound();
    start(&daemon, "web", "");
    let there = |daemon: &Daemon| sh(daemon, "web", "[ -c /dev/snd/controlC0 ]").status == 0;
    // EPERM by the rules, ENXIO or ENODEV without a driver.
    let denied = |daemon: &Daemon| {
        let tried = sh(daemon, "web", "exec 3</dev/snd/controlC0");
        assert_ne!(tried.status, 0);
        tried.err.contains("not permitted")
    };
    assert!(!there(&daemon));
    let control = daemon.control();
    control.ok(&["allow_audio", "web"]);
    assert!(there(&daemon) && !denied(&daemon));
    assert!(
        control
            .ok(&["--format", "json", "state", "web"])
            .out
            .contains("\"audio\": true")
    );
    control.ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.crash();
    daemon.start();
    let control = daemon.control();
    control.ok(&["start", "web"]);
    assert!(
        there(&daemon) && !denied(&daemon),
        "for its later starts as well"
    );
    control.ok(&["deny_audio", "web"]);
    assert!(!there(&daemon));
    control.ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    control.ok(&["start", "web"]);
    assert!(!there(&daemon));
    // A container that does not run is granted it for its next start.
    daemon.create_with("late", "busybox", "");
    control.ok(&["allow_audio", "late"]);
    control.ok(&["start", "late"]);
    assert_eq!(sh(&daemon, "late", "[ -c /dev/snd/controlC0 ]").status, 0);
}

#[test]
fn a_device_without_sound_says_so() {
    let sound = fs::read_dir("/dev/snd").is_ok_and(|mut nodes| nodes.next().is_some());
    if !shows(!sound, "this machine has sound") {
        return;
    }
    let daemon = Daemon::default();
    start(&daemon, "web", "");
    let refused = daemon
        .control()
        .refused(&["allow_audio", "web"], "CMD_FAILED");
    assert!(refused.err.contains("no sound"), "{refused:?}");
    let denied = daemon
        .control()
        .ok(&["--format", "table", "deny_audio", "web"]);
    assert!(denied.out.contains("no sound"), "{denied:?}");
    assert!(!daemon.control().ok(&["state", "web"]).out.contains("audio"));
}

#[test]
fn a_pipe_from_the_host_is_read_in_the_container_and_not_written() {
    let mut daemon = Daemon::default();
    let (uuid, _) = start(&daemon, "web", "fifos: \"log\"\nfifos: \"music\"\n");
    start(&daemon, "other", "fifos: \"log\"\n");
    let pipe = daemon.path(&format!("run/fifos/{uuid}/log"));
    let reader = {
        let control = daemon.control();
        std::thread::spawn(move || {
            control.run(&["run", "web", "nopty", "head", "-n1", "/dev/fifos/log"])
        })
    };
    fs::write(&pipe, "hello\n").unwrap();
    assert_eq!(reader.join().unwrap().out, "hello\n");
    let written = sh(&daemon, "web", "echo x >/dev/fifos/log");
    assert!(written.err.contains("denied"), "{written:?}");
    let listed = sh(&daemon, "web", "ls /dev/fifos").out;
    assert_eq!(listed, "log\nmusic\n");
    // Over a restart of the daemon, through the same file.
    daemon.crash();
    daemon.start();
    let reader = {
        let control = daemon.control();
        std::thread::spawn(move || {
            control.run(&["run", "web", "nopty", "head", "-n1", "/dev/fifos/log"])
        })
    };
    fs::write(&pipe, "again\n").unwrap();
    assert_eq!(reader.join().unwrap().out, "again\n");
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    assert!(!pipe.exists());
}
