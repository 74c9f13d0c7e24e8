//! The networks of containers in real namespaces: one plays the host, others play containers and the world outside.
//!
//! `CML_CYCLES` makes the tests that repeat something repeat it so often; the default keeps them short.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, env, fs, process::Command, sync::Arc};

use cml_bus::{
    api::network::{Names, NetworkError},
    id::ContainerId,
};
use cml_network::{Networks, Settings};
use cml_sys::net::{
    link::{Arrival, End},
    namespace::Namespace,
    pin::Place,
};
use cml_wire::{proto::ContainerConfig, text};
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
    host: Arc<Namespace>,
    /// At the other ends of the host's network cards.
    world: Namespace,
    hosted: bool,
    isolate: bool,
}

impl Rig {
    fn new() -> Self {
        let rig = Self {
            dir: tempfile::tempdir().unwrap(),
            host: Namespace::create().unwrap().into(),
            world: Namespace::create().unwrap(),
            hosted: true,
            isolate: false,
        };
        sh(&rig.host, "ip link set lo up");
        sh(&rig.world, "ip link set lo up");
        rig
    }

    /// A daemon that starts, perhaps after another one.
    fn networks(&self) -> Networks {
        let settings = Settings {
            store: self.dir.path().join("store"),
            run: self.dir.path().join("run"),
            pins: self.dir.path().join("netns"),
            hosted: self.hosted,
            isolate: self.isolate,
            host: self.host.clone(),
            place: Place::current().unwrap().into(),
        };
        Networks::open(settings).unwrap()
    }

    /// Plugs a network card into the host; its other end is in the world.
    fn plug(&self, name: &str, mac: &str) {
        let end = |name, mac: Option<&str>| End {
            name,
            mac: mac.map(|mac| mac.parse().unwrap()),
            group: 0,
        };
        let mut netlink = self.host.netlink().unwrap();
        netlink
            .add_veth(&end(name, Some(mac)), &end(name, None), &self.world)
            .unwrap();
    }

    /// Everything about the host's network that should be as it was.
    fn picture(&self) -> String {
        // What the kernel makes by itself comes and goes in its own time.
        sh(
            &self.host,
            "(ip -d addr | sed -E 's/ qdisc [a-z]+//; s/ link-netnsid [0-9]+//; s/(valid|preferred)_lft [0-9]+sec//g'; \
             ip route show table all; ip -6 route show table all; nft list ruleset) | \
             grep -v 'fe80:\\|multicast\\|_lft forever'",
        )
    }

    /// Nothing of any container is left.
    fn check(&self) {
        let left = fs::read_dir(self.dir.path().join("netns"))
            .into_iter()
            .flatten()
            .count();
        assert_eq!(left, 0, "names of networks are left");
        let left = fs::read_dir(self.dir.path().join("run")).unwrap().count();
        assert_eq!(left, 0, "records are left");
    }
}

/// Runs a command line in a namespace; what it printed, which is an error if it failed.
fn try_sh(namespace: &Namespace, line: &str) -> Result<String, String> {
    let output = namespace
        .run(|| Ok(Command::new("sh").args(["-c", line]).output()))
        .unwrap();
    let output = output.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    if output.status.success() {
        Ok(printed)
    } else {
        Err(printed)
    }
}

#[track_caller]
fn sh(namespace: &Namespace, line: &str) -> String {
    try_sh(namespace, line).unwrap_or_else(|said| panic!("{line}: {said}"))
}

#[track_caller]
fn same(before: &str, after: &str) {
    let less: Vec<_> = before
        .lines()
        .filter(|line| !after.contains(line))
        .collect();
    let more: Vec<_> = after
        .lines()
        .filter(|line| !before.contains(line))
        .collect();
    assert!(
        before == after,
        "gone: {less:#?}, new: {more:#?}, of {before}"
    );
}

/// Waits until an interface that was set up carries.
fn carries(namespace: &Namespace, name: &str) {
    let state = || sh(namespace, &format!("ip -o link show dev {name}; ip route"));
    let soon = (0..500).any(|_| {
        let state = state();
        std::thread::sleep(std::time::Duration::from_millis(10));
        state.contains("state UP") && !state.contains("linkdown")
    });
    assert!(soon, "{}", state());
}

fn pings(from: &Namespace, to: &str) -> bool {
    let version = if to.contains(':') { "-6" } else { "-4" };
    try_sh(from, &format!("busybox ping {version} -c 1 -W 2 {to}")).is_ok()
}

/// A port of a bridge passes nothing on in its first second.
fn pings_soon(from: &Namespace, to: &str) -> bool {
    (0..5).any(|_| pings(from, to))
}

fn config(lines: &str) -> ContainerConfig {
    text::parse(format!("name: \"x\"\nguest_os: \"x\"\n{lines}").as_bytes()).unwrap()
}

/// A container: its namespace, as its processes would hold it.
fn container() -> (ContainerId, Namespace) {
    let namespace = Namespace::create().unwrap();
    sh(&namespace, "ip link set lo up");
    (ContainerId::random(), namespace)
}

fn attach(networks: &mut Networks, lines: &str) -> (ContainerId, Namespace) {
    let (id, namespace) = container();
    networks
        .attach(id, namespace.try_clone().unwrap(), &config(lines))
        .unwrap();
    (id, namespace)
}

fn address(namespace: &Namespace, interface: &str, family: &str) -> String {
    let all = sh(
        namespace,
        &format!("ip {family} -o addr show dev {interface} scope global"),
    );
    let cidr = all.split_whitespace().nth(3).unwrap();
    cidr.split('/').next().unwrap().to_owned()
}

fn cycles(few: usize) -> usize {
    env::var("CML_CYCLES").map_or(few, |text| text.parse().unwrap())
}

#[test]
fn containers_reach_the_host_the_world_behind_it_and_each_other() {
    let rig = Rig::new();
    rig.plug("wan0", "02:00:00:00:00:01");
    sh(
        &rig.host,
        "ip addr add 10.9.0.1/24 dev wan0 && ip link set wan0 up",
    );
    // It knows no way back to 172.23.0.0/16: whoever comes from there has the host's address.
    sh(
        &rig.world,
        "ip addr add 10.9.0.2/24 dev wan0 && ip link set wan0 up",
    );
    carries(&rig.host, "wan0");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (a, at_a) = attach(&mut networks, "");
    let (b, at_b) = attach(&mut networks, "");
    let v4 = [&at_a, &at_b].map(|at| address(at, "host0", "-4"));
    let v6 = [&at_a, &at_b].map(|at| address(at, "host0", "-6"));
    assert!(
        v4[0].starts_with("172.23.") && v4[0].ends_with(".2"),
        "{v4:?}"
    );
    assert_ne!(v4[0], v4[1]);
    assert!(pings(&at_a, "10.9.0.1"));
    assert!(pings(&at_a, "10.9.0.2"), "{}", rig.picture());
    assert!(pings(&at_b, "10.9.0.2"));
    assert!(pings(&at_a, &v4[1]));
    assert!(pings(&at_a, &v6[0].replace("::2", "::1")));
    // From outside nobody gets in, even who knows the way.
    sh(&rig.world, "ip route add 172.23.0.0/16 via 10.9.0.1");
    assert!(!pings(&rig.world, &v4[0]));
    networks.detach(a).unwrap();
    networks.detach(b).unwrap();
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn isolated_containers_reach_the_world_but_not_each_other() {
    let rig = Rig {
        isolate: true,
        ..Rig::new()
    };
    let mut networks = rig.networks();
    let (a, at_a) = attach(&mut networks, "");
    let (b, at_b) = attach(&mut networks, "");
    assert!(pings(&at_a, "172.23.1.1"));
    assert!(!pings(&at_a, &address(&at_b, "host0", "-4")));
    sh(&rig.host, "sysctl -qw net.ipv6.conf.all.forwarding=1");
    assert!(!pings(&at_a, &address(&at_b, "host0", "-6")));
    networks.detach(a).unwrap();
    networks.detach(b).unwrap();
}

#[test]
fn a_container_cannot_speak_with_the_address_of_another_or_lead_the_host_astray() {
    let rig = Rig::new();
    let mut networks = rig.networks();
    let (a, at_a) = attach(&mut networks, "");
    let (b, at_b) = attach(&mut networks, "");
    let stolen = address(&at_b, "host0", "-4");
    sh(&at_a, &format!("ip addr add {stolen}/32 dev lo"));
    assert!(!pings(&at_a, &format!("-I {stolen} 172.23.1.1")));
    assert!(pings(&at_a, "172.23.1.1"));
    for id in [a, b] {
        networks.detach(id).unwrap();
    }
}

#[test]
fn interfaces_are_what_the_configuration_says() {
    let rig = Rig::new();
    let mut networks = rig.networks();
    let lines = "vnet_configs { if_name: \"one\" configure: true if_rootns_name: \"r_1\" if_mac: \"01:00:00:00:00:07\" }\n\
                 vnet_configs { if_name: \"two\" configure: false }\n\
                 vnet_configs { if_name: \"three\" configure: true }\n";
    let (a, at_a) = attach(&mut networks, lines);
    let links = sh(&at_a, "ip -o link");
    // The multicast bit is cleared, the local one set (runtime.md 4.1).
    assert!(
        links.contains("one@") && links.contains("02:00:00:00:00:07"),
        "{links}"
    );
    assert!(sh(&at_a, "ip -o addr show dev two").is_empty());
    assert!(sh(&at_a, "ip -o link show dev two").contains("state DOWN"));
    assert!(sh(&at_a, "ip route").contains("default via 172.23.1.1 dev one"));
    assert!(sh(&rig.host, "ip -o link show dev r_1").contains("UP"));
    assert!(sh(&rig.host, "ip -o link show dev cmlv2").contains("state DOWN"));
    // A second one of the same template does without the name.
    let (b, _at_b) = attach(&mut networks, lines);
    assert!(sh(&rig.host, "ip -o link").contains("cmlv4@"));
    networks.detach(b).unwrap();
    assert!(sh(&rig.host, "ip -o link show dev r_1").contains("UP"));
    networks.detach(a).unwrap();
    let shown = networks.virtual_interfaces(a, &[]);
    assert_eq!(
        (&*shown[0].config.if_name, &shown[0].host_name),
        ("host0", &None)
    );
    assert!(shown[0].config.if_mac.is_some());
}

#[test]
fn a_container_keeps_its_subnet_and_a_hundred_have_a_hundred() {
    let rig = Rig::new();
    let mut networks = rig.networks();
    let all: Vec<_> = (0..100).map(|_| attach(&mut networks, "")).collect();
    let of = |at: &Namespace| address(at, "host0", "-4");
    let addresses: Vec<_> = all.iter().map(|(_, at)| of(at)).collect();
    assert_eq!(BTreeSet::from_iter(&addresses).len(), 100);
    for (id, _) in all.iter().rev() {
        networks.detach(*id).unwrap();
    }
    for ((id, _), had) in all.iter().zip(&addresses).skip(90).rev() {
        let (_, namespace) = container();
        networks
            .attach(*id, namespace.try_clone().unwrap(), &config(""))
            .unwrap();
        assert_eq!(of(&namespace), *had);
        networks.detach(*id).unwrap();
    }
    rig.check();
}

#[test]
fn nothing_leaks_however_often_containers_come_and_go() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(
        &rig.host,
        "ip addr add 10.9.0.1/24 dev nic0 && ip link set nic0 up",
    );
    let before = rig.picture();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut networks = rig.networks();
    let (id, _) = container();
    let mut files = 0;
    for cycle in 0..cycles(40) {
        let namespace = Namespace::create().unwrap();
        let wishes = "net_ifaces { netif: \"nic0\" }\n";
        networks
            .attach(id, namespace.try_clone().unwrap(), &config(wishes))
            .unwrap();
        assert!(sh(&namespace, "ip -o link").contains("nic0@"), "{cycle}");
        networks.detach(id).unwrap();
        if cycle == 0 {
            files = open();
        }
    }
    // Other tests of this process open some as well.
    assert!(open() < files + 100, "{} of {files}", open());
    same(&before, &rig.picture());
    let other = attach(&mut networks, "");
    assert_eq!(address(&other.1, "host0", "-4"), "172.23.2.2");
    networks.detach(other.0).unwrap();
    rig.check();
}

/// A network card with everything that can be set, and what a guest may do to it.
fn elaborate(rig: &Rig) {
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(
        &rig.host,
        "ip link set nic0 mtu 1400 && ip link property add dev nic0 altname corner0 && \
         ip addr add 10.9.0.1/24 dev nic0 && ip addr add 10.9.1.1/16 dev nic0 && \
         ip addr add fd09::1/64 dev nic0 nodad && ip link set nic0 up && \
         ip route add 10.77.0.0/16 via 10.9.0.2 metric 5 && ip -6 route add fd77::/64 via fd09::2",
    );
    sh(&rig.world, "ip link set nic0 up");
    carries(&rig.host, "nic0");
}

fn settled(rig: &Rig) -> String {
    carries(&rig.host, "nic0");
    rig.picture()
}

#[test]
fn a_network_card_comes_home_as_it_left_whatever_the_guest_did() {
    let rig = Rig::new();
    elaborate(&rig);
    let before = rig.picture();
    let mut networks = rig.networks();
    for netif in ["nic0", "02:00:00:00:00:01", "corner0"] {
        let (id, inside) = attach(
            &mut networks,
            &format!("net_ifaces {{ netif: \"{netif}\" }}\n"),
        );
        assert!(try_sh(&rig.host, "ip link show dev nic0").is_err());
        sh(
            &inside,
            "ip link property del dev nic0 altname corner0 && \
             ip link property add dev nic0 altname mine && \
             ip link set nic0 down && ip link set nic0 name lo0 address 02:00:00:00:00:99 mtu 1280 && \
             ip link set lo0 up && ip addr add 10.9.0.1/24 dev lo0",
        );
        networks.detach(id).unwrap();
        same(&before, &settled(&rig));
    }
    rig.check();
}

#[test]
fn the_hosts_interface_of_the_same_name_is_never_touched() {
    let rig = Rig::new();
    rig.plug("eth0", "02:00:00:00:00:01");
    rig.plug("eth1", "02:00:00:00:00:02");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"eth1\" }\n");
    sh(&inside, "ip link set eth1 name eth0");
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
    // One whose own name was taken meanwhile comes home under another.
    let (id, _inside) = attach(&mut networks, "net_ifaces { netif: \"eth1\" }\n");
    sh(&rig.host, "ip link set eth0 name eth1");
    networks.detach(id).unwrap();
    let links = sh(&rig.host, "ip -o link");
    assert!(
        links.contains("02:00:00:00:00:02") && links.contains(": cmlr"),
        "{links}"
    );
}

#[test]
fn what_a_daemon_that_died_has_given_comes_home_by_the_next_one() {
    let rig = Rig::new();
    elaborate(&rig);
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    sh(&inside, "ip link set nic0 name mine");
    // Guest and daemon end at the same time: nobody holds the namespace but its name.
    drop((networks, inside));
    let mut networks = rig.networks();
    networks.detach(id).unwrap();
    same(&before, &settled(&rig));
    rig.check();
}

#[test]
fn a_missing_interface_is_given_when_it_comes_and_again_when_it_comes_back() {
    let rig = Rig::new();
    let mut networks = rig.networks();
    let lines = "net_ifaces { netif: \"nic0\" }\nnet_ifaces { netif: \"02:00:00:00:00:09\" }\n";
    let (id, inside) = attach(&mut networks, lines);
    networks.look_for_missing();
    assert_eq!(sh(&inside, "ip -o link | wc -l").trim(), "2");
    rig.plug("nic0", "02:00:00:00:00:01");
    rig.plug("usb0", "02:00:00:00:00:09");
    networks.look_for_missing();
    assert!(sh(&inside, "ip -o link").contains("nic0@"));
    assert!(sh(&inside, "ip -o link").contains("usb0@"));
    // Pulled out, and put in again.
    sh(&rig.world, "ip link del usb0");
    networks.look_for_missing();
    rig.plug("usb0", "02:00:00:00:00:09");
    networks.look_for_missing();
    assert!(sh(&inside, "ip -o link").contains("usb0@"));
    networks.detach(id).unwrap();
    assert!(sh(&rig.host, "ip -o link").contains("usb0@"));
    // Nobody waits for it any more.
    networks.look_for_missing();
    assert!(sh(&rig.host, "ip -o link").contains("nic0@"));
}

#[test]
fn two_containers_cannot_have_one_interface() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    let mut networks = rig.networks();
    let (first, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    for netif in ["nic0", "02:00:00:00:00:01"] {
        let (second, namespace) = container();
        let lines = format!("net_ifaces {{ netif: \"{netif}\" }}\n");
        let refused = networks
            .attach(second, namespace, &config(&lines))
            .unwrap_err();
        let holder = matches!(refused, NetworkError::Held { holder, .. } if holder == first);
        assert!(holder, "{refused}");
        assert!(networks.list(second, false).is_err());
    }
    assert!(sh(&inside, "ip -o link").contains("nic0@"));
    networks.detach(first).unwrap();
    rig.check();
}

#[test]
fn interfaces_are_assigned_and_taken_away_by_any_of_their_names() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "");
    let (other, _at_other) = attach(&mut networks, "");
    for (given, taken) in [
        ("nic0", "nic0"),
        ("02:00:00:00:00:01", "inside"),
        ("nic0", "02:00:00:00:00:01"),
    ] {
        let Names(names) = networks.assign(id, given).unwrap();
        assert!(names.contains(&"nic0".to_owned()) && names.contains(&"02:00:00:00:00:01".into()));
        // Twice is fine.
        networks.assign(id, given).unwrap();
        let held = networks.assign(other, given).unwrap_err();
        assert!(matches!(held, NetworkError::Held { .. }), "{held}");
        let shown = networks.list(id, false).unwrap();
        let nic = shown.iter().find(|one| one.detail.name == "nic0").unwrap();
        assert_eq!(nic.detail.host_name.as_deref(), Some("nic0"));
        sh(&inside, "ip link set nic0 name inside");
        networks.unassign(id, taken).unwrap();
        assert!(sh(&rig.host, "ip -o link").contains("nic0@"));
    }
    for id in [id, other] {
        networks.detach(id).unwrap();
    }
    same(&before, &rig.picture());
}

#[test]
fn what_cannot_be_assigned_is_refused_with_a_reason() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(
        &rig.host,
        "ip link add br0 type bridge && ip link set nic0 master br0",
    );
    let mut networks = rig.networks();
    let (id, _inside) = attach(&mut networks, "");
    let before = rig.picture();
    for (interface, reason) in [
        ("", "neither the name"),
        ("../x", "neither the name"),
        ("sixteen-bytes-xx", "neither the name"),
        ("02:00:00:00:00:0g", "neither the name"),
        ("nothing", "no interface `nothing`"),
        ("02:00:00:00:00:77", "no interface"),
        ("lo", "loopback"),
        ("cmlv1", "virtual interface of a container"),
        ("nic0", "part of `br0`"),
    ] {
        let refused = networks.assign(id, interface).unwrap_err().to_string();
        assert!(refused.contains(reason), "{interface}: {refused}");
        let refused = networks.identify(id, interface).unwrap_err().to_string();
        assert!(refused.contains(reason), "{interface}: {refused}");
    }
    for interface in ["host0", "lo", "nothing", "nic0"] {
        let refused = networks.unassign(id, interface).unwrap_err();
        assert!(
            matches!(refused, NetworkError::NotAssigned { .. }),
            "{refused}"
        );
    }
    let stopped = ContainerId::random();
    let refused = networks.assign(stopped, "nic0").unwrap_err();
    assert_eq!(refused, NetworkError::NotConnected(stopped));
    same(&before, &rig.picture());
    networks.detach(id).unwrap();
}

#[test]
fn only_known_addresses_are_heard_over_a_filtered_interface() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(
        &rig.world,
        "ip link set nic0 address 02:00:00:00:00:aa up && ip addr add 10.9.0.2/24 dev nic0",
    );
    let before = rig.picture();
    let mut networks = rig.networks();
    let filter = |macs: &str| format!("net_ifaces {{ netif: \"nic0\" {macs} }}\n");
    let known = filter("mac_filter: \"nonsense\" mac_filter: \"02:00:00:00:00:AA\"");
    let unknown = filter("mac_filter: \"02:00:00:00:00:bb\"");
    for (lines, heard) in [
        (&known, true),
        (&unknown, false),
        (&filter("mac_filter: \"x\""), false),
    ] {
        let (id, inside) = attach(&mut networks, lines);
        sh(
            &inside,
            "ip link set c_nic0 up && ip addr add 10.9.0.3/24 dev c_nic0",
        );
        assert_eq!(pings_soon(&inside, "10.9.0.2"), heard, "{lines}");
        // IPv6 is filtered as well.
        sh(&inside, "ip addr add fd09::3/64 dev c_nic0 nodad");
        try_sh(&rig.world, "ip addr add fd09::2/64 dev nic0 nodad").ok();
        assert_eq!(pings_soon(&inside, "fd09::2"), heard, "{lines}");
        let shown = networks.list(id, false).unwrap();
        assert!(
            shown
                .iter()
                .any(|one| one.detail.host_name.as_deref() == Some("nic0"))
        );
        let held = networks
            .identify(ContainerId::random(), "nic0")
            .unwrap_err();
        assert!(matches!(held, NetworkError::Held { .. }), "{held}");
        networks.detach(id).unwrap();
        same(&before, &rig.picture());
    }
    let (id, inside) = attach(&mut networks, &known);
    networks.unassign(id, "c_nic0").unwrap();
    assert!(try_sh(&inside, "ip link show dev c_nic0").is_err());
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
}

#[test]
fn core0_routes_for_the_others_and_has_the_network_cards() {
    let rig = Rig {
        hosted: false,
        ..Rig::new()
    };
    let mut networks = rig.networks();
    let (early, at_early) = attach(&mut networks, "");
    let (_, at_core0) = container();
    networks
        .attach(
            ContainerId::CORE0,
            at_core0.try_clone().unwrap(),
            &config(""),
        )
        .unwrap();
    // Whoever was there before is connected to it as well.
    let (late, at_late) = attach(&mut networks, "");
    assert!(sh(&rig.host, "ip route").contains("default via 172.23.0.2 dev uplink"));
    assert!(sh(&at_core0, "ip -o link").contains("cmlv2@"));
    assert!(!sh(&rig.host, "ip -o link").contains("cmlv"));
    // What plays its network card is software, and therefore none; it is put there by hand.
    rig.plug("wan0", "02:00:00:00:00:01");
    let arrival = Arrival {
        name: "wan0",
        index: None,
    };
    let mut netlink = rig.host.netlink().unwrap();
    let wan = netlink.link("wan0").unwrap().unwrap();
    netlink.move_link(wan.index, &at_core0, arrival).unwrap();
    sh(
        &at_core0,
        "ip addr add 10.9.0.1/24 dev wan0 && ip link set wan0 up",
    );
    sh(
        &rig.world,
        "ip addr add 10.9.0.2/24 dev wan0 && ip link set wan0 up",
    );
    for from in [&at_early, &at_late, &*rig.host] {
        assert!(
            pings(from, "10.9.0.2"),
            "{}",
            sh(&at_core0, "ip addr; ip route; nft list ruleset")
        );
    }
    // It lends what it has.
    networks.assign(late, "wan0").unwrap();
    assert!(sh(&at_late, "ip -o link").contains("wan0@"));
    networks.unassign(late, "wan0").unwrap();
    assert!(sh(&at_core0, "ip -o link").contains("wan0@"));
    for id in [early, late, ContainerId::CORE0] {
        networks.detach(id).unwrap();
    }
    assert!(!sh(&rig.host, "ip -o link").contains("uplink"));
    rig.check();
}
