//! `core0` as the router of a device.

use cml_bus::id::ContainerId;
use cml_sys::net::link::Arrival;

use crate::rig::*;

#[test]
fn core0_routes_for_the_others_and_has_the_network_cards() {
    let rig = Rig {
        hosted: false,
        ..Rig::new()
    };
    let mut networks = rig.networks();
    let (early, at_early) = attach(&mut networks, "");
    let at_core0 = attach_core0(&mut networks);
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

#[test]
fn what_core0_has_lent_when_it_ends_comes_home_as_it_left() {
    let rig = Rig {
        hosted: false,
        ..Rig::new()
    };
    for (name, mac) in [("nic0", "02:00:00:00:00:01"), ("nic1", "02:00:00:00:00:02")] {
        rig.plug(name, mac);
        sh(&rig.world, &format!("ip link set {name} up"));
    }
    sh(
        &rig.host,
        "ip link set nic0 mtu 1400 alias mine && ip addr add 10.9.0.1/24 dev nic0 && \
         ip link set nic0 up && ip addr add 10.8.0.1/24 dev nic1 && ip link set nic1 up",
    );
    carries(&rig.host, "nic1");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (_, at_core0) = container();
    let lines = "net_ifaces { netif: \"nic0\" }\nnet_ifaces { netif: \"nic1\" }\n";
    networks
        .attach(
            ContainerId::CORE0,
            at_core0.try_clone().unwrap(),
            &config(lines),
        )
        .unwrap();
    sh(&at_core0, "ip link set nic0 mtu 1300 up");
    let (id, inside) = attach(&mut networks, "");
    networks.assign(id, "nic0").unwrap();
    let filtered = "net_ifaces { netif: \"nic1\" mac_filter: \"02:00:00:00:00:aa\" }\n";
    let (other, _at_other) = attach(&mut networks, filtered);
    assert!(sh(&at_core0, "ip -o link show dev nic1").contains("master cmlb"));
    networks.look_for_missing();
    networks.detach(ContainerId::CORE0).unwrap();
    drop(at_core0);
    assert!(sh(&inside, "ip -o link").contains(": nic0@"));
    networks.unassign(id, "nic0").unwrap();
    for id in [id, other] {
        networks.detach(id).unwrap();
    }
    carries(&rig.host, "nic0");
    carries(&rig.host, "nic1");
    same(&before, &rig.picture());
    rig.check();
}
