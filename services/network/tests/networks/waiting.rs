//! Containers that wait for interfaces: who gets one that comes, and who waits no longer.

use cml_bus::api::network::NetworkError;
use cml_sys::net::namespace::Namespace;

use crate::rig::*;

#[test]
fn a_filtered_interface_that_is_unplugged_leaves_nothing_and_works_when_it_is_back() {
    let rig = Rig::new();
    let before = rig.picture();
    let plug = || {
        rig.plug("nic0", "02:00:00:00:00:01");
        sh(
            &rig.world,
            "ip link set nic0 address 02:00:00:00:00:aa up && ip addr add 10.9.0.2/24 dev nic0",
        );
    };
    plug();
    let mut networks = rig.networks();
    let (id, inside) = attach(
        &mut networks,
        "net_ifaces { netif: \"nic0\" mac_filter: \"02:00:00:00:00:aa\" }\n",
    );
    for _ in 0..2 {
        sh(
            &inside,
            "ip link set c_nic0 up && ip addr add 10.9.0.3/24 dev c_nic0",
        );
        assert!(pings_soon(&inside, "10.9.0.2"));
        sh(&rig.world, "ip link del nic0");
        networks.look_for_missing();
        assert!(!sh(&rig.host, "ip -o link").contains("cmlb"));
        plug();
        networks.look_for_missing();
    }
    sh(&rig.world, "ip link del nic0");
    networks.detach(id).unwrap();
    same(&before, &rig.picture());
    rig.check();
}

#[test]
fn what_was_taken_away_does_not_come_back_by_itself() {
    let rig = Rig::new();
    let mut networks = rig.networks();
    let by_both = "net_ifaces { netif: \"nic0\" }\nnet_ifaces { netif: \"02:00:00:00:00:01\" }\n";
    // Before it is there, by each of its words.
    let (id, _inside) = attach(&mut networks, by_both);
    networks.unassign(id, "nic0").unwrap();
    let again = networks.unassign(id, "nic0").unwrap_err();
    assert!(matches!(again, NetworkError::NotAssigned { .. }), "{again}");
    networks.unassign(id, "02:00:00:00:00:01").unwrap();
    rig.plug("nic0", "02:00:00:00:00:01");
    networks.look_for_missing();
    assert!(sh(&rig.host, "ip -o link").contains(": nic0@"));
    networks.detach(id).unwrap();
    // While it is there, by one of them.
    let (id, inside) = attach(&mut networks, by_both);
    assert!(sh(&inside, "ip -o link").contains(": nic0@"));
    networks.unassign(id, "nic0").unwrap();
    networks.look_for_missing();
    assert!(sh(&rig.host, "ip -o link").contains(": nic0@"));
    networks.detach(id).unwrap();
    rig.check();
}

#[test]
fn one_of_two_who_wait_for_an_interface_by_different_words_gets_it_and_then_the_other() {
    let rig = Rig::new();
    let mut networks = rig.networks();
    let one = attach(&mut networks, "net_ifaces { netif: \"nic0\" }\n");
    let two = attach(
        &mut networks,
        "net_ifaces { netif: \"02:00:00:00:00:01\" }\n",
    );
    rig.plug("nic0", "02:00:00:00:00:01");
    networks.look_for_missing();
    let has = |of: &Namespace| sh(of, "ip -o link").contains(": nic0@");
    assert_eq!(
        [&one.1, &two.1].map(has).iter().filter(|has| **has).count(),
        1
    );
    let (first, second) = match has(&one.1) {
        true => (one, two),
        false => (two, one),
    };
    networks.look_for_missing();
    assert!(has(&first.1));
    networks.detach(first.0).unwrap();
    networks.look_for_missing();
    assert!(has(&second.1));
    networks.detach(second.0).unwrap();
    rig.check();
}
