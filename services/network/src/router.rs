//! core0 as the router of a device (runtime.md 4.2): it has the network cards, and the ways of the other containers end
//! in it.

use cml_bus::id::ContainerId;
use cml_sys::net::link::Link;

use crate::{
    claim::Claim,
    lease::UPLINK,
    names::{Identity, made_up_mac},
    nic::unsuitable,
    record::{Veth, Wish},
    rules::CORE0_UPLINK,
};

/// The host's end of the way to core0.
const HOST_UPLINK: &str = "uplink";

/// The only virtual interface that core0 gets, whatever its configuration says.
pub fn uplink() -> Veth {
    Veth {
        index: 0,
        name: CORE0_UPLINK.into(),
        mac: made_up_mac(ContainerId::CORE0.as_bytes(), 0),
        configure: true,
        wanted_name: Some(HOST_UPLINK.into()),
        renamed: false,
        subnet: UPLINK,
        in_core0: false,
        near: None,
    }
}

/// Every network card of the device that can be given away.
pub fn all_cards(links: &[Link], identity: Identity) -> Vec<Wish> {
    let cards = links.iter().filter(|link| {
        link.kind.is_none() && link.layer == "ether" && unsuitable(link, identity, links).is_none()
    });
    let wishes = cards.filter_map(|link| {
        Some(Wish {
            claim: Claim::Mac(link.permanent_mac.or(link.mac)?),
            filter: None,
            automatic: true,
        })
    });
    wishes.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::net::{link::End, namespace::Namespace};

    use super::*;

    #[test]
    fn core0_is_given_no_card_that_is_a_part_of_something() {
        let here = Namespace::create().unwrap();
        let mut netlink = here.netlink().unwrap();
        let end = |name| End {
            name,
            mac: None,
            group: 0,
        };
        netlink.add_veth(&end("a"), &end("b"), &here).unwrap();
        netlink.add_bridge(&end("bridge")).unwrap();
        let bridge = netlink.link("bridge").unwrap().unwrap().index;
        let port = netlink.link("b").unwrap().unwrap().index;
        netlink.set_controller(port, Some(bridge)).unwrap();
        let mut links = netlink.links().unwrap();
        // As if it were hardware.
        for link in &mut links {
            link.kind = link.kind.take().filter(|kind| kind != "veth");
        }
        let mac = links.iter().find(|link| link.name == "a").unwrap().mac;
        let identity = Identity {
            range: [0; 5],
            mark: [1; 3],
        };
        let cards = all_cards(&links, identity);
        let claims: Vec<_> = cards.into_iter().map(|wish| wish.claim).collect();
        assert_eq!(claims, [Claim::Mac(mac.unwrap())]);
    }
}
