//! Interfaces that look like others, or that a guest has changed so that they are hard to bring home.

use cml_bus::api::network::NetworkError;

use crate::rig::*;

/// As two VLANs of one card do.
#[test]
fn an_interface_comes_home_and_its_sibling_with_the_same_address_stays_what_it_is() {
    let rig = Rig::new();
    for (name, net) in [("eth0.10", 10), ("eth0.20", 20)] {
        rig.plug(name, "02:00:00:00:00:01");
        sh(
            &rig.host,
            &format!("ip addr add 10.9.{net}.1/24 dev {name} && ip link set {name} up"),
        );
        sh(&rig.world, &format!("ip link set {name} up"));
    }
    carries(&rig.host, "eth0.20");
    let before = rig.picture();
    let mut networks = rig.networks();
    for rename in [
        "true",
        "ip link set eth0.10 name x",
        "ip link set eth0.10 name eth0.20",
    ] {
        let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"eth0.10\" }\n");
        sh(&inside, rename);
        networks.detach(id).unwrap();
        carries(&rig.host, "eth0.10");
        same(&before, &rig.picture());
    }
    // Killed after it had gone home, and before it was made what it was.
    let shown = sh(&rig.host, "ip -o link show eth0.10");
    let index = shown.split(':').next().unwrap();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"eth0.10\" }\n");
    drop(networks);
    let home = rig.dir.keep(&rig.host, "home");
    sh(
        &inside,
        &format!(
            "ip link set eth0.10 alias cmlr{index} && ip link set eth0.10 name other netns {home}"
        ),
    );
    let mut networks = rig.networks();
    networks.detach(id).unwrap();
    carries(&rig.host, "eth0.10");
    let after = rig.picture();
    assert!(
        after.contains("10.9.10.1/24 scope global eth0.10"),
        "{after}"
    );
    assert!(
        after.contains("10.9.20.1/24 scope global eth0.20"),
        "{after}"
    );
    assert!(!after.contains("alias"), "{after}");
    rig.check();
}

#[test]
fn names_that_are_no_text_do_not_hide_an_interface() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    let before = rig.picture();
    let mut networks = rig.networks();
    for line in [
        "ip link set dev nic0 alias \"$(printf '\\377')\"",
        "ip link set dev nic0 name \"$(printf 'a\\377')\"",
        "ip link property add dev nic0 altname \"$(printf 'b\\377')\"",
    ] {
        let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
        sh(&inside, line);
        assert_eq!(networks.list(id, false).unwrap().len(), 3);
        networks.look_for_missing();
        networks.unassign(id, "nic0").unwrap();
        assert!(sh(&rig.host, "ip -o link").contains(": nic0@"));
        networks.assign(id, "nic0").unwrap();
        networks.detach(id).unwrap();
        same(&before, &rig.picture());
    }
    rig.check();
}

#[test]
fn further_names_that_are_taken_at_home_do_not_keep_an_interface() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    rig.plug("eth0", "02:00:00:00:00:02");
    sh(
        &rig.host,
        "ip link property add dev eth0 altname corner0 && \
         ip link property add dev nic0 altname shelf0",
    );
    let before = rig.picture();
    let mut networks = rig.networks();
    for names in ["altname eth0", "altname corner0 altname more"] {
        let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
        sh(&inside, &format!("ip link property add dev nic0 {names}"));
        networks.detach(id).unwrap();
        same(&before, &rig.picture());
    }
    // One that was its own, and is somebody else's by now.
    let (id, _inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    sh(&rig.host, "ip link property add dev eth0 altname shelf0");
    networks.detach(id).unwrap();
    assert!(sh(&rig.host, "ip -o link").contains(": nic0@"));
    rig.check();
}

#[test]
fn one_that_cannot_come_home_does_not_keep_the_others() {
    let rig = Rig::new();
    for (name, mac) in [("nic0", "02:00:00:00:00:01"), ("nic1", "02:00:00:00:00:02")] {
        rig.plug(name, mac);
    }
    let before = rig.picture();
    let mut networks = rig.networks();
    let lines = "net_ifaces { netif: \"nic0\" }\nnet_ifaces { netif: \"nic1\" }\n";
    let shown = sh(&rig.host, "ip -o link show nic0");
    let index = shown.split(':').next().unwrap();
    let (id, inside) = attach(&mut networks, lines);
    sh(
        &rig.host,
        &format!("ip link add nic0 type bridge && ip link add cmlr{index} type bridge"),
    );
    let refused = networks.detach(id).unwrap_err().to_string();
    assert!(refused.contains("nic0"), "{refused}");
    assert!(sh(&rig.host, "ip -o link").contains(": nic1@"));
    assert!(sh(&inside, "ip -o link").contains(": nic0@"));
    sh(
        &rig.host,
        &format!("ip link del nic0 && ip link del cmlr{index}"),
    );
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn everything_that_a_guest_can_set_is_what_it_was_at_home() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    rig.plug("nic1", "02:00:00:00:00:02");
    sh(
        &rig.host,
        "ip link set nic1 group 7 arp off allmulticast on promisc on txqueuelen 77 alias mine up",
    );
    let before = rig.picture();
    assert!(before.contains("NOARP,ALLMULTI,PROMISC"), "{before}");
    let mut networks = rig.networks();
    let lines = "net_ifaces { netif: \"nic0\" }\nnet_ifaces { netif: \"nic1\" }\n";
    let (id, inside) = attach(&mut networks, lines);
    let groups = sh(&rig.host, "ip -o link show cmlv1");
    let group = groups.split(" group ").nth(1).unwrap();
    let group = group.split(' ').next().unwrap();
    sh(
        &inside,
        &format!(
            "ip link set nic0 group {group} arp off multicast off promisc on allmulticast on txqueuelen 5 alias x && \
             ip link set nic1 group {group} arp on multicast off promisc off allmulticast off txqueuelen 5 alias y"
        ),
    );
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn what_a_guest_has_made_upon_an_interface_does_not_stay_when_it_goes() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    let before = sh(&rig.host, "ip -d link show nic0");
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    sh(
        &inside,
        "ip link add link nic0 name mv0 type macvlan mode bridge && \
         ip link add link mv0 name mv1 type macvlan mode bridge && \
         ip link add link nic0 name tap0 type macvtap mode bridge && \
         ip link add a0 type veth peer name a1",
    );
    networks.unassign(id, "nic0").unwrap();
    let left = sh(&inside, "ip -o link");
    for gone in ["mv0", "mv1", "tap0"] {
        assert!(!left.contains(gone), "{left}");
    }
    assert!(left.contains("a0@") && left.contains("host0@"), "{left}");
    same(&before, &sh(&rig.host, "ip -d link show nic0"));
    networks.detach(id).unwrap();
    rig.check();
}

#[test]
fn an_interface_that_is_not_of_ethernet_comes_home_as_well() {
    let rig = Rig::new();
    sh(
        &rig.host,
        "ip tuntap add dev wwan0 mode tun && ip link set wwan0 mtu 1300 up && \
         ip addr add 10.9.0.1 peer 10.9.0.2/32 dev wwan0",
    );
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"wwan0\" }\n");
    assert!(try_sh(&rig.host, "ip link show dev wwan0").is_err());
    sh(&inside, "ip link set wwan0 mtu 1280 name x");
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn addresses_and_routes_come_back_in_an_order_that_is_possible() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(
        &rig.host,
        "ip link set nic0 up && ip addr add 10.9.0.1/32 dev nic0 && \
         ip addr add 10.8.0.1 peer 10.8.0.2/32 dev nic0 noprefixroute && \
         ip addr add 10.7.0.1/24 metric 55 dev nic0 label nic0:1 && \
         ip -6 addr add fd09::1/64 dev nic0 nodad noprefixroute && \
         ip route add 10.9.0.254 dev nic0 scope link && ip route add default via 10.9.0.254 && \
         ip route add 10.6.0.0/16 via 10.7.0.9 && ip route add 10.5.0.0/16 via 192.0.2.9 dev nic0 onlink && \
         ip -6 route add fd09::/64 dev nic0 metric 9 && ip -6 route add default via fd09::9",
    );
    sh(&rig.world, "ip link set nic0 up");
    carries(&rig.host, "nic0");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, _inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    networks.detach(id).unwrap();
    carries(&rig.host, "nic0");
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn an_interface_that_is_hidden_from_a_command_is_refused_and_not_forgotten() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(&rig.host, "ip addr add 10.9.0.1/24 dev nic0");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    let nested = rig.dir.network("nested");
    sh(&inside, &format!("ip link set nic0 netns {}", nested.path));
    networks.look_for_missing();
    let refused = networks.unassign(id, "nic0").unwrap_err();
    assert!(matches!(refused, NetworkError::Hidden { .. }), "{refused}");
    // It is still the container's.
    let (other, at_other) = container();
    let held = networks
        .attach(other, at_other, &config("net_ifaces { netif: \"nic0\" }\n"))
        .unwrap_err();
    assert!(matches!(held, NetworkError::Held { .. }), "{held}");
    // The guest brings it out again.
    let back = rig.dir.keep(&inside, "back");
    sh(&nested, &format!("ip link set nic0 netns {back}"));
    networks.look_for_missing();
    networks.unassign(id, "nic0").unwrap();
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn one_that_is_still_hidden_when_its_container_ends_is_restored_as_soon_as_it_is_back() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(&rig.host, "ip addr add 10.9.0.1/24 dev nic0");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    let nested = rig.dir.network("nested");
    sh(&inside, &format!("ip link set nic0 netns {}", nested.path));
    let index = before.split(": nic0@").next().unwrap();
    let index = index.lines().last().unwrap();
    networks.detach(id).unwrap();
    drop(networks);
    let mut networks = rig.networks();
    networks.look_for_missing();
    // The kernel does this with hardware when the namespace dies.
    let home = rig.dir.keep(&rig.host, "home");
    sh(
        &nested,
        &format!("ip link set nic0 netns {home} index {index}"),
    );
    networks.look_for_missing();
    same(&before, &rig.picture());
    rig.check();
}
