//! Virtual interfaces: who reaches whom, addresses, subnets.

use std::{collections::BTreeSet, fs};

use cml_bus::api::network::NetworkError;
use cml_sys::net::namespace::Namespace;

use crate::rig::*;

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

#[test]
fn subnets_that_the_host_uses_are_left_to_it() {
    let rig = Rig::new();
    rig.plug("nic0", "02:00:00:00:00:01");
    sh(
        &rig.host,
        "ip link set nic0 up && ip addr add 172.23.2.200/25 dev nic0 && \
         ip route add 172.23.4.0/22 dev nic0 && ip route add 172.16.0.0/12 dev nic0",
    );
    let mut networks = rig.networks();
    let all: Vec<_> = (0..3).map(|_| attach(&mut networks, "")).collect();
    let addresses: Vec<_> = all
        .iter()
        .map(|(_, at)| address(at, "host0", "-4"))
        .collect();
    assert_eq!(addresses, ["172.23.1.2", "172.23.3.2", "172.23.8.2"]);
    for (id, _) in &all {
        networks.detach(*id).unwrap();
    }
    // All of them, as another system of containers may have.
    sh(&rig.host, "ip route add 172.23.0.0/16 dev nic0");
    let (id, namespace) = container();
    let refused = networks.attach(id, namespace, &config("")).unwrap_err();
    assert_eq!(refused, NetworkError::NoSubnet);
    rig.check();
}
