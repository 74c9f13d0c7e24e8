//! Our rules on a host that has others, and what it passes on because of us.

use cml_bus::id::ContainerId;
use cml_sys::net::namespace::Namespace;

use crate::rig::*;

#[test]
fn rules_that_somebody_removes_are_set_again() {
    let rig = Rig {
        isolate: true,
        ..Rig::new()
    };
    rig.plug("nic0", "02:00:00:00:00:01");
    let mut networks = rig.networks();
    let filtered = "net_ifaces { netif: \"nic0\" mac_filter: \"02:00:00:00:00:aa\" }\n";
    let (a, at_a) = attach(&mut networks, filtered);
    let (b, at_b) = attach(&mut networks, "");
    let rules = || sh(&rig.host, "nft list ruleset");
    let (before, other) = (rules(), address(&at_b, "host0", "-4"));
    assert!(before.contains("table inet cml_") && before.contains("table bridge cml_"));
    assert!(!pings(&at_a, &other));
    // As `systemctl reload nftables` does.
    sh(&rig.host, "nft flush ruleset");
    networks.mend_rules();
    same(&before, &rules());
    assert!(!pings(&at_a, &other));
    // Nobody has heard of it, and another container starts.
    sh(&rig.host, "nft flush ruleset");
    let (c, _at_c) = attach(&mut networks, "");
    assert!(rules().contains("table inet cml_"));
    for id in [a, b, c] {
        networks.detach(id).unwrap();
    }
    networks.mend_rules();
    assert_eq!(rules(), "");
    rig.check();
}

/// A host between two networks, of the kind that uplinks have: what is called `up0` and `up1` there. `br0` leads to a
/// third, as for another system of containers.
fn between_networks(rig: &Rig) -> [Namespace; 3] {
    let worlds = [(); 3].map(|()| Namespace::create().unwrap());
    let mut host = rig.host.netlink().unwrap();
    for (at, world) in worlds.iter().enumerate() {
        let (near, far) = (format!("nic{at}"), "nic0");
        let end = |name| cml_sys::net::link::End {
            name,
            mac: None,
            group: 0,
        };
        host.add_veth(&end(&near), &end(far), world).unwrap();
        let made = match at {
            2 => "ip link add name br0 type bridge && ip link set nic2 master br0".to_owned(),
            _ => format!("ip link add link {near} name up{at} type macvlan mode passthru"),
        };
        let name = if at == 2 {
            "br0".to_owned()
        } else {
            format!("up{at}")
        };
        sh(
            &rig.host,
            &format!(
                "{made} && ip link set {near} up && ip addr add 10.{at}.0.1/24 dev {name} && \
                 ip link set {name} up"
            ),
        );
        sh(
            world,
            &format!(
                "ip addr add 10.{at}.0.2/24 dev nic0 && ip link set nic0 up && \
                 ip route add default via 10.{at}.0.1"
            ),
        );
    }
    worlds
}

#[test]
fn a_host_that_passed_nothing_on_passes_on_what_is_ours_and_not_between_its_networks() {
    let rig = Rig::new();
    let [one, two, other] = between_networks(&rig);
    assert!(!pings(&one, "10.1.0.2"));
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "");
    assert!(pings_soon(&inside, "10.0.0.2"));
    assert!(!pings(&one, "10.1.0.2") && !pings(&two, "10.0.0.2"));
    // Somebody else who counts on it is not disturbed.
    assert!(pings_soon(&other, "10.0.0.2"));
    // The next daemon knows who has switched it on.
    drop(networks);
    let mut networks = rig.networks();
    assert!(!pings(&one, "10.1.0.2"));
    networks.detach(id).unwrap();
}

#[test]
fn a_host_that_is_a_router_stays_one() {
    let rig = Rig::new();
    let [one, _two, _other] = between_networks(&rig);
    sh(&rig.host, "sysctl -qw net.ipv4.ip_forward=1");
    let mut networks = rig.networks();
    let (id, _inside) = attach(&mut networks, "");
    assert!(pings_soon(&one, "10.1.0.2"));
    networks.detach(id).unwrap();
}

#[test]
fn names_of_ours_and_of_interfaces_that_are_away_are_not_given_to_others() {
    let rig = Rig {
        isolate: true,
        ..Rig::new()
    };
    rig.plug("nic0", "02:00:00:00:00:01");
    let before = rig.picture();
    let mut networks = rig.networks();
    let (holder, _at_holder) = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    let mut others = Vec::new();
    for name in ["cml", "cmlv9", "nic0"] {
        let lines = format!(
            "vnet_configs {{ if_name: \"host0\" configure: true if_rootns_name: \"{name}\" }}\n"
        );
        others.push(attach(&mut networks, &lines));
        assert!(try_sh(&rig.host, &format!("ip link show dev {name}")).is_err());
    }
    assert!(!pings(&others[0].1, &address(&others[1].1, "host0", "-4")));
    // One whose end somebody has renamed is removed all the same, and one of that name is not.
    sh(
        &rig.host,
        "ip link set cmlv2 name mine && ip link add cmlv2 type veth peer name x",
    );
    networks.detach(others[0].0).unwrap();
    assert!(try_sh(&rig.host, "ip link show dev mine").is_err());
    sh(&rig.host, "ip link del cmlv2");
    for id in [others[1].0, others[2].0, holder] {
        networks.detach(id).unwrap();
    }
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn an_end_that_somebody_else_configures_is_not_meant_by_our_rules() {
    let rig = Rig {
        isolate: true,
        ..Rig::new()
    };
    let mut networks = rig.networks();
    let lines = "vnet_configs { if_name: \"raw\" configure: false if_rootns_name: \"r_raw\" }\n";
    let (a, at_a) = attach(&mut networks, lines);
    let (b, at_b) = attach(&mut networks, lines);
    for (number, inside) in [(0, &at_a), (1, &at_b)] {
        let near = ["r_raw", "cmlv2"][number];
        sh(
            &rig.host,
            &format!("ip addr add 10.{number}.0.1/24 dev {near} && ip link set {near} up"),
        );
        sh(
            inside,
            &format!(
                "ip addr add 10.{number}.0.2/24 dev raw && ip link set raw up && \
                 ip route add default via 10.{number}.0.1"
            ),
        );
    }
    // Another one has the rules set.
    let (c, _at_c) = attach(&mut networks, "");
    assert!(pings(&at_a, "10.1.0.2"));
    // An address of its own choice.
    sh(&at_a, "ip addr add 10.7.0.1/32 dev lo");
    sh(&rig.host, "ip route add 10.7.0.1 via 10.0.0.2");
    assert!(pings(&at_a, "-I 10.7.0.1 10.1.0.2"));
    for id in [a, b, c] {
        networks.detach(id).unwrap();
    }
    rig.check();
}

#[test]
fn ends_that_a_daemon_was_about_to_make_are_made_by_the_next_one() {
    let rig = Rig {
        hosted: false,
        ..Rig::new()
    };
    let mut networks = rig.networks();
    let (id, inside) = attach(&mut networks, "");
    let at_core0 = attach_core0(&mut networks);
    // Killed between the end of one way and the beginning of the other.
    drop(networks);
    sh(&at_core0, "ip link del cmlv1");
    assert!(!pings(&inside, "172.23.0.1"));
    let mut networks = rig.networks();
    assert!(pings(&inside, "172.23.0.1"));
    for id in [id, ContainerId::CORE0] {
        networks.detach(id).unwrap();
    }
    rig.check();
}
