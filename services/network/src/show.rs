//! The interfaces of a container, for people and for programs.

use std::fmt::Write;

use cml_bus::api::network::Interface;
use cml_sys::{
    Result,
    net::{address::Address, link::Link, namespace::Namespace},
};
use cml_wire::proto::{ContainerIface, container_iface::Kind};

use crate::{names::Identity, record::Record};

/// Everything that a container sees.
pub fn interfaces(
    inside: &Namespace,
    record: &Record,
    identity: Identity,
) -> Result<Vec<Interface>> {
    shown(inside, |link| origin(link, record, identity))
}

/// Everything that is in a namespace, with what each is and what it is called on the host.
pub fn shown(
    namespace: &Namespace,
    origin: impl Fn(&Link) -> (Kind, Option<String>),
) -> Result<Vec<Interface>> {
    let mut netlink = namespace.netlink()?;
    let links = netlink.links()?;
    let addresses = netlink.addresses()?;
    let show = |link: &Link| {
        let (kind, host_name) = origin(link);
        let of = addresses.iter().filter(|(of, _)| *of == link.index);
        Interface {
            text: text(link, &links),
            detail: ContainerIface {
                name: link.name.clone(),
                kind: kind.into(),
                state: link.state.into(),
                mac: link.mac.map(|mac| mac.to_string()),
                mtu: link.mtu,
                addresses: of.map(|(_, address)| cidr(address)).collect(),
                host_name,
            },
        }
    };
    Ok(links.iter().map(show).collect())
}

fn cidr(address: &Address) -> String {
    format!("{}/{}", address.ip, address.prefix)
}

fn origin(link: &Link, record: &Record, identity: Identity) -> (Kind, Option<String>) {
    if link.is_loopback() {
        return (Kind::Loopback, None);
    }
    for nic in &record.nics {
        let name = Some(nic.home.name.clone());
        match nic.filter {
            Some(_) if nic.filtered_name() == link.name => return (Kind::Filtered, name),
            None if nic.inside == link.index => return (Kind::Physical, name),
            _ => {}
        }
    }
    let veth = record.veths.iter().find(|veth| veth.name == link.name);
    match veth {
        Some(veth) => (Kind::Virtual, Some(veth.near_name(identity))),
        None => (Kind::Other, None),
    }
}

/// As `ip link` prints it (protocol.md 3.7).
fn text(link: &Link, links: &[Link]) -> String {
    let name_of = |index: u32| {
        let found = links.iter().find(|link| link.index == index);
        found.map_or_else(|| format!("if{index}"), |link| link.name.clone())
    };
    let mut text = format!("{}: {}", link.index, link.name);
    if let Some(peer) = link.peer {
        let peer = match link.peer_namespace {
            Some(_) => format!("if{peer}"),
            None => name_of(peer),
        };
        add(&mut text, format_args!("@{peer}"));
    }
    let mut flags = link.flag_names.clone();
    // Its peer is here and down.
    if link.peer_namespace.is_none()
        && links
            .iter()
            .any(|other| Some(other.index) == link.peer && !other.is_up())
    {
        flags.push("M-DOWN");
    }
    let flags = flags.join(",");
    add(&mut text, format_args!(": <{flags}> mtu {}", link.mtu));
    if let Some(qdisc) = &link.qdisc {
        add(&mut text, format_args!(" qdisc {qdisc}"));
    }
    if let Some(bridge) = link.controller {
        add(&mut text, format_args!(" master {}", name_of(bridge)));
    }
    let group = match link.group {
        0 => "default".to_owned(),
        group => group.to_string(),
    };
    let (state, mode) = (link.state, link.mode);
    add(
        &mut text,
        format_args!(" state {state} mode {mode} group {group}"),
    );
    if let Some(queue) = link.queue {
        add(&mut text, format_args!(" qlen {queue}"));
    }
    add(&mut text, format_args!("\n    link/{}", link.layer));
    if let (Some(mac), Some(broadcast)) = (link.mac, link.broadcast) {
        add(&mut text, format_args!(" {mac} brd {broadcast}"));
    }
    if let Some(id) = link.peer_namespace {
        add(&mut text, format_args!(" link-netnsid {id}"));
    }
    for name in &link.alt_names {
        add(&mut text, format_args!("\n    altname {}", name.display()));
    }
    text.push('\n');
    text
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a `String` does not fail.
    let _ = text.write_fmt(more);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use cml_sys::net::link::End;

    use super::*;

    #[test]
    fn the_text_is_what_ip_link_prints() {
        let (here, there) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        let mut netlink = here.netlink().unwrap();
        let end = |name| End {
            name,
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            group: 5,
        };
        netlink.add_veth(&end("a"), &end("b"), &there).unwrap();
        netlink.add_veth(&end("c"), &end("d"), &here).unwrap();
        netlink.add_bridge(&end("br")).unwrap();
        let index = |netlink: &mut cml_sys::net::netlink::Netlink, name| {
            netlink.link(name).unwrap().unwrap().index
        };
        let (a, c, br) = (
            index(&mut netlink, "a"),
            index(&mut netlink, "c"),
            index(&mut netlink, "br"),
        );
        netlink.set_up(a, true).unwrap();
        netlink.set_controller(c, Some(br)).unwrap();
        netlink.add_alt_name(c, "another-name").unwrap();
        let output = here
            .run(|| Ok(Command::new("ip").arg("link").output()))
            .unwrap();
        let printed = String::from_utf8(output.unwrap().stdout).unwrap();
        let shown = shown(&here, |_| (Kind::Other, None)).unwrap();
        let ours: String = shown.into_iter().map(|one| one.text).collect();
        // It pads the ends of lines.
        let trimmed = |text: &str| {
            text.lines()
                .map(str::trim_end)
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(trimmed(&ours), trimmed(&printed));
    }
}
