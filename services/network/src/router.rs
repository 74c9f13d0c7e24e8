//! core0 as the router of a device (runtime.md 4.2): it has the network cards, and the ways of the other containers end
//! in it.

use cml_bus::id::ContainerId;
use cml_sys::net::link::Link;

use crate::{
    claim::Claim,
    lease::UPLINK,
    names::made_up_mac,
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
    }
}

/// Every network card of the device.
pub fn all_cards(links: &[Link]) -> Vec<Wish> {
    let cards = links
        .iter()
        .filter(|link| link.kind.is_none() && !link.is_loopback() && link.layer == "ether");
    let wishes = cards.filter_map(|link| {
        Some(Wish {
            claim: Claim::Mac(link.permanent_mac.or(link.mac)?),
            filter: None,
        })
    });
    wishes.collect()
}
