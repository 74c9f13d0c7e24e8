//! Interfaces of containers, through the daemon. The host is a namespace of the test, and so is the world behind it.
//! What the service does by itself is tested beside it (`services/network/tests`).

use std::{collections::BTreeSet, fs, thread, time::Duration};

use cml_integration::{Daemon, Network, Setup, cycles, kit::kit};
use cml_wire::proto::{
    AssignInterfaceParams, ContainerConfig, ControllerToDaemon, controller_to_daemon::Command,
    daemon_to_controller::Response,
};
use rustix::process::{Pid, Signal, kill_process};

const MAC: &str = "02:00:00:00:00:01";

/// A daemon whose host has the network card `nic0`, with everything that can be set; its other end is in the world.
fn with_card() -> (Daemon, Network) {
    let daemon = Daemon::default();
    let world = plug(&daemon);
    daemon.host().carries("nic0");
    (daemon, world)
}

pub(crate) fn plug(daemon: &Daemon) -> Network {
    let world = Network::default();
    // It gets its name last: a daemon that waits for it takes it at once.
    daemon.host().join("plugged0", &world, "nic0");
    daemon.host().run(&format!(
        "ip link set plugged0 address {MAC} mtu 1400 && ip addr add 10.9.0.1/24 dev plugged0 && \
         ip link set plugged0 up && ip link set plugged0 name nic0"
    ));
    world.run("ip addr add 10.9.0.2/24 dev nic0 && ip link set nic0 up");
    world
}

pub(crate) fn run(daemon: &Daemon, container: &str, line: &str) -> String {
    daemon
        .control()
        .ok(&["run", container, "nopty", "sh", "-c", line])
        .out
}

pub(crate) fn pings(daemon: &Daemon, container: &str, to: &str) -> bool {
    let ping = ["run", container, "nopty", "ping", "-c", "1", "-W", "2", to];
    daemon.control().run(&ping).status == 0
}

pub(crate) fn address(daemon: &Daemon, container: &str) -> String {
    let shown = run(daemon, container, "ip -4 -o addr show dev host0");
    let cidr = shown.split_whitespace().nth(3).unwrap();
    cidr.split('/').next().unwrap().to_owned()
}

pub(crate) fn home(daemon: &Daemon) -> bool {
    daemon.host().run("ip -o link").contains(": nic0@")
}

pub(crate) fn inside(daemon: &Daemon, container: &str) -> bool {
    run(daemon, container, "ip link").contains(MAC)
}

/// What the kernel makes by itself comes and goes in its own time.
fn plain(picture: &str) -> Vec<String> {
    let lines = picture
        .lines()
        .filter(|line| !line.contains("fe80:") && !line.contains("_lft"));
    lines.map(str::to_owned).collect()
}

/// The host's network is what it was.
#[track_caller]
fn same(daemon: &Daemon, before: &str) {
    let before = plain(before);
    let is = || plain(&daemon.host().picture());
    let settled = (0..200).any(|_| {
        let settled = is() == before;
        if !settled {
            thread::sleep(Duration::from_millis(20));
        }
        settled
    });
    let now = is();
    let only = |these: &[String], those: &[String]| {
        let these = these.iter().filter(|line| !those.contains(line));
        these.cloned().collect::<Vec<_>>()
    };
    assert!(
        settled,
        "gone: {:#?}, new: {:#?}",
        only(&before, &now),
        only(&now, &before)
    );
}

pub(crate) fn stop(daemon: &Daemon, container: &str) {
    daemon.control().ok(&["stop", container]);
    daemon.wait_for(container, "STOPPED");
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn containers_reach_the_host_the_world_and_each_other_with_and_without_a_user_namespace() {
    let (daemon, _world) = with_card();
    let before = daemon.host().picture();
    daemon.running("a", "busybox");
    daemon.running_with("b", "busybox", "userns: false\n");
    for name in ["a", "b"] {
        assert!(pings(&daemon, name, "10.9.0.1"), "{name}");
        assert!(pings(&daemon, name, "10.9.0.2"), "{name}");
    }
    assert!(pings(&daemon, "a", &address(&daemon, "b")));
    assert!(pings(&daemon, "b", &address(&daemon, "a")));
    for name in ["a", "b"] {
        stop(&daemon, name);
    }
    same(&daemon, &before);
}

/// Two containers, `a` and `b`, of a daemon that keeps containers apart.
pub fn two_isolated() -> Daemon {
    let setup = Setup::default();
    let daemon = Daemon::new(Setup {
        device_conf: format!("isolate_containers: true\n{}", setup.device_conf),
        ..setup
    });
    daemon.running("a", "busybox");
    daemon.running("b", "busybox");
    daemon
}

#[test]
fn isolated_containers_do_not_reach_each_other() {
    let daemon = two_isolated();
    assert!(pings(&daemon, "a", "172.23.1.1"));
    assert!(!pings(&daemon, "a", &address(&daemon, "b")));
}

#[test]
fn a_container_without_a_network_of_its_own_sees_the_hosts_and_changes_nothing() {
    let (daemon, _world) = with_card();
    let before = daemon.host().picture();
    for userns in [true, false] {
        let name = format!("userns-{userns}");
        let lines = format!("netns: false\nuserns: {userns}\nnet_ifaces {{ netif: \"nic0\" }}\n");
        daemon.running_with(&name, "busybox", &lines);
        assert!(run(&daemon, &name, "ip addr").contains("10.9.0.1"));
        let shown = daemon.control().ok(&["ifaces", &name]).out;
        assert!(shown.contains("nic0"), "{shown}");
        let assign = ["assign_iface", &name, "--iface", "nic0"];
        daemon.control().refused(&assign, "CMD_FAILED");
        same(&daemon, &before);
    }
}

#[test]
fn names_and_addresses_are_shown_written_down_once_and_kept() {
    let mut daemon = Daemon::default();
    let lines = "vnet_configs { if_name: \"lan\" configure: true if_rootns_name: \"r_9\" }\n\
                 vnet_configs { if_name: \"raw\" configure: false }\n";
    let uuid = daemon.running_with("a", "busybox", lines);
    daemon.running("b", "busybox");
    let stored = || -> ContainerConfig {
        let text = fs::read(daemon.base().join(format!("containers/{uuid}.conf"))).unwrap();
        cml_wire::text::parse(&text).unwrap()
    };
    let macs: Vec<_> = stored()
        .vnet_configs
        .into_iter()
        .map(|one| one.if_mac.unwrap())
        .collect();
    let links = run(&daemon, "a", "ip link");
    assert!(
        links.contains(&macs[0]) && links.contains(&macs[1]),
        "{links}"
    );
    let shown = daemon.control().ok(&["config", "a"]).out;
    assert!(
        shown.contains(&macs[0]) && shown.contains("if_rootns_name: \"r_9\""),
        "{shown}"
    );
    assert!(shown.contains("if_rootns_name: \"cmlv2\""), "{shown}");
    assert!(daemon.host().run("ip -o link").contains("r_9@"));
    let shown = daemon.control().ok(&["config", "b"]).out;
    assert!(shown.contains("if_name: \"host0\""), "{shown}");
    let addresses = |daemon: &Daemon| {
        (
            run(daemon, "a", "ip -o addr show dev lan scope global"),
            address(daemon, "b"),
        )
    };
    let before = addresses(&daemon);
    daemon.stop();
    daemon.start();
    for name in ["b", "a"] {
        daemon.control().ok(&["start", name]);
        daemon.wait_for(name, "RUNNING");
    }
    assert_eq!(addresses(&daemon), before);
}

#[test]
fn a_network_card_comes_home_however_its_container_ends() {
    let (mut daemon, _world) = with_card();
    let before = daemon.host().picture();
    let uuid = daemon.create(&format!(
        "name: \"a\"\nguest_os: \"busybox\"\ntoken_type: NONE\nnet_ifaces {{ netif: \"{MAC}\" }}\n\
         net_ifaces {{ netif: \"missing0\" }}\n"
    ));
    let start = |daemon: &Daemon| {
        daemon.control().ok(&["start", "a"]);
        daemon.wait_for("a", "RUNNING");
        assert!(inside(daemon, "a") && !home(daemon));
        run(
            daemon,
            "a",
            "ip link set nic0 down; ip link set nic0 name eth9 mtu 1300",
        );
    };
    let end = |daemon: &Daemon| {
        daemon.wait_for("a", "STOPPED");
        same(daemon, &before);
    };
    start(&daemon);
    stop(&daemon, "a");
    end(&daemon);
    // The guest crashes.
    start(&daemon);
    kill(daemon.init_pid(&uuid));
    end(&daemon);
    // The daemon crashes, and what it gave is still known.
    start(&daemon);
    daemon.crash();
    daemon.start();
    assert!(inside(&daemon, "a"));
    stop(&daemon, "a");
    end(&daemon);
    // Both crash.
    start(&daemon);
    let init = daemon.init_pid(&uuid);
    daemon.crash();
    kill(init);
    thread::sleep(Duration::from_millis(100));
    daemon.start();
    end(&daemon);
    // Its namespace has a name as long as it lives, as `ip netns` has it.
    start(&daemon);
    assert!(fs::exists(format!("/run/netns/{uuid}")).unwrap());
    daemon.control().ok(&["remove", "a"]);
    same(&daemon, &before);
}

#[test]
fn a_start_that_fails_gives_back_what_it_took() {
    let (mut daemon, _world) = with_card();
    daemon.add_guest("broken", |guest| {
        guest.init_path = Some("/no/such/init".into())
    });
    let before = daemon.host().picture();
    let lines = "token_type: NONE\nnet_ifaces { netif: \"nic0\" }\n";
    daemon.create(&format!("name: \"a\"\nguest_os: \"broken\"\n{lines}"));
    let failed = ["start", "a"];
    daemon
        .control()
        .refused(&failed, "CONTAINER_START_EINTERNAL");
    same(&daemon, &before);
    daemon.running_with("b", "busybox", "net_ifaces { netif: \"nic0\" }\n");
    daemon.create(&format!("name: \"c\"\nguest_os: \"busybox\"\n{lines}"));
    let said = daemon
        .control()
        .refused(&["start", "c"], "CONTAINER_START_EINTERNAL")
        .err;
    assert!(said.contains("belongs to container"), "{said}");
    assert!(inside(&daemon, "b"));
}

#[test]
fn interfaces_are_assigned_and_taken_away_by_command() {
    let (daemon, _world) = with_card();
    let before = daemon.host().picture();
    let uuid = daemon.running("a", "busybox");
    let control = daemon.control();
    control.ok(&["assign_iface", "--iface", "nic0", "a"]);
    assert!(inside(&daemon, "a"));
    let json = control.ok(&["--format", "json", "ifaces", "a"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let nic = json["ifaces"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "nic0")
        .unwrap();
    assert_eq!(
        (&nic["kind"], &nic["mac"], &nic["host_name"]),
        (&"PHYSICAL".into(), &MAC.into(), &"nic0".into())
    );
    let table = control.ok(&["--format", "table", "ifaces", "a"]).out;
    assert!(
        table.contains("host0") && table.contains("VIRTUAL") && table.contains("172.23."),
        "{table}"
    );
    let text = control.ok(&["ifaces", "a"]).out;
    assert!(
        text.contains("link/ether") && text.contains("code: CONTAINER_IFACES"),
        "{text}"
    );
    run(&daemon, "a", "ip link set nic0 name inner");
    control.ok(&["unassign_iface", "a", "--iface", "inner"]);
    same_with_container(&daemon);
    // Persistent: by one name here, by another there, running or not.
    let stored =
        || fs::read_to_string(daemon.base().join(format!("containers/{uuid}.conf"))).unwrap();
    control.ok(&["assign_iface", "--iface", "nic0", "a", "--persistent"]);
    control.ok(&["assign_iface", "--iface", "nic0", "a", "--persistent"]);
    assert_eq!(stored().matches("netif").count(), 1, "{}", stored());
    stop(&daemon, "a");
    same(&daemon, &before);
    control.ok(&["start", "a"]);
    daemon.wait_for("a", "RUNNING");
    assert!(inside(&daemon, "a"));
    control.ok(&["unassign_iface", "a", "-p", "--iface", MAC]);
    assert!(!stored().contains("netif") && home(&daemon));
    stop(&daemon, "a");
    let refused = control.refused(&["assign_iface", "a", "--iface", "nic0"], "CMD_FAILED");
    assert!(refused.err.contains("--persistent"), "{refused:?}");
    control.ok(&["assign_iface", "a", "--iface", MAC, "-p"]);
    control.ok(&["unassign_iface", "a", "--iface", "nic0", "-p"]);
    assert!(!stored().contains("netif"));
    assert_eq!(
        control
            .ok(&["--format", "table", "ifaces", "a"])
            .out
            .lines()
            .count(),
        1
    );
}

#[track_caller]
fn same_with_container(daemon: &Daemon) {
    assert!(home(daemon));
    let nic = daemon.host().run("ip addr show dev nic0");
    assert!(
        nic.contains("mtu 1400") && nic.contains("10.9.0.1/24"),
        "{nic}"
    );
}

#[test]
fn wrong_interfaces_are_refused_with_a_reason_and_nothing_changes() {
    let (daemon, _world) = with_card();
    let uuid = daemon.running("a", "busybox");
    let other = daemon.running_with("b", "busybox", "net_ifaces { netif: \"nic0\" }\n");
    let before = daemon.host().picture();
    let conf = daemon.base().join(format!("containers/{uuid}.conf"));
    let stored = fs::read(&conf).unwrap();
    for (interface, reason) in [
        ("", "neither the name"),
        ("../x", "neither the name"),
        ("sixteen-bytes-xx", "neither the name"),
        ("nothing0", "no interface `nothing0`"),
        ("02:00:00:00:00:77", "no interface"),
        ("lo", "loopback"),
        ("nic0", &other),
        (MAC, &other),
        ("cmlv1", "virtual interface"),
    ] {
        for persistent in [&[][..], &["--persistent"]] {
            let words = [&["assign_iface", "a", "--iface", interface], persistent].concat();
            let refused = daemon.control().refused(&words, "CMD_FAILED");
            assert!(refused.err.contains(reason), "{interface}: {refused:?}");
        }
    }
    for interface in ["", "../x", "nothing0", "lo", "host0", "nic0"] {
        for persistent in [&[][..], &["--persistent"]] {
            let words = [&["unassign_iface", "a", "--iface", interface], persistent].concat();
            daemon.control().refused(&words, "CMD_FAILED");
        }
    }
    // Parameters that a client of its own leaves out.
    let mut client = daemon.client();
    for params in [None, Some(AssignInterfaceParams::default())] {
        for command in [
            Command::ContainerAssigniface,
            Command::ContainerUnassigniface,
        ] {
            let reply = client.ask(&ControllerToDaemon {
                command: command.into(),
                container_uuids: vec![uuid.clone()],
                assign_iface_params: params.clone(),
                ..Default::default()
            });
            assert_eq!(reply.response(), Response::CmdFailed);
            assert!(reply.error_text().contains("iface"), "{reply:?}");
        }
    }
    assert_eq!(fs::read(&conf).unwrap(), stored);
    same(&daemon, &before);
}

#[test]
fn a_signed_configuration_is_not_edited() {
    let setup = Setup::default();
    let daemon = Daemon::new(Setup {
        device_conf: setup
            .device_conf
            .replace("signed_configs: false", "signed_configs: true"),
        ..setup
    });
    let _world = plug(&daemon);
    let conf = daemon.path("signed.conf");
    let text = "name: \"a\"\nguest_os: \"busybox\"\nguestos_version: 1\ntoken_type: NONE\n";
    fs::write(&conf, text).unwrap();
    kit().sign(&conf, "ssig_cml");
    let part = |suffix| conf.with_extension(suffix).display().to_string();
    daemon
        .control()
        .ok(&["create", &part("conf"), &part("sig"), &part("cert")]);
    daemon.control().ok(&["start", "a"]);
    daemon.wait_for("a", "RUNNING");
    for command in ["assign_iface", "unassign_iface"] {
        let words = [command, "a", "--iface", "nic0", "--persistent"];
        let refused = daemon.control().refused(&words, "CMD_FAILED");
        assert!(refused.err.contains("signed"), "{refused:?}");
        assert!(home(&daemon));
    }
    daemon
        .control()
        .ok(&["assign_iface", "a", "--iface", "nic0"]);
    assert!(inside(&daemon, "a"));
}

#[test]
fn many_containers_that_start_at_once_get_different_subnets() {
    let daemon = Daemon::default();
    let before = daemon.host().picture();
    let names: Vec<_> = (0..cycles(12)).map(|number| format!("c{number}")).collect();
    for name in &names {
        let conf = format!("name: \"{name}\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
        daemon.create(&conf);
    }
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| daemon.control().ok(&["start", name]));
        }
    });
    let addresses: BTreeSet<_> = names
        .iter()
        .map(|name| {
            daemon.wait_for(name, "RUNNING");
            address(&daemon, name)
        })
        .collect();
    assert_eq!(addresses.len(), names.len());
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| stop(&daemon, name));
        }
    });
    same(&daemon, &before);
}

#[test]
fn a_card_survives_many_lives_of_its_container() {
    let (mut daemon, _world) = with_card();
    // The init of busybox takes two seconds to end: it waits for processes that it has asked to.
    daemon.add_guest("small", |guest| {
        guest.init_path = Some("/bin/sleep".into());
        guest.init_param = vec!["1000000".into()];
    });
    let before = daemon.host().picture();
    daemon.create(
        "name: \"a\"\nguest_os: \"small\"\ntoken_type: NONE\nnet_ifaces { netif: \"nic0\" }\n",
    );
    for _ in 0..cycles(10) {
        daemon.control().ok(&["start", "a"]);
        stop(&daemon, "a");
        assert!(home(&daemon));
    }
    same(&daemon, &before);
    // No thread of the daemon has stayed in another network (LIF-07).
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .flatten();
    let networks: BTreeSet<_> = tasks
        .map(|task| fs::read_link(task.path().join("ns/net")).unwrap())
        .collect();
    assert_eq!(networks.len(), 1);
}

#[test]
fn the_name_server_reaches_the_guest() {
    let daemon = Daemon::default();
    daemon.running_with("a", "busybox", "dns_server: \"9.9.9.9\"\n");
    assert_eq!(
        run(&daemon, "a", "cat /etc/resolv.conf"),
        "nameserver 9.9.9.9\n"
    );
}
