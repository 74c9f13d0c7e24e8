//! Network cards of the host: given, taken, and always home in the end.

use cml_bus::{
    api::network::{Names, NetworkError},
    id::ContainerId,
};

use crate::rig::*;

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
