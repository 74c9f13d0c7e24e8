//! Physical interfaces: away, and home again as they left (LIF-06).

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use cml_sys::{
    Error, Result,
    net::{
        link::{Arrival, Link},
        namespace::Namespace,
        netlink::Netlink,
    },
};

use crate::{
    names::Identity,
    record::{Home, Nic},
};

/// How long the kernel may take to bring an interface home whose namespace has died: it does so some time after
/// the last process.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// Numbers in a container from here on, where its own number is taken there.
const INSIDE: u32 = 1000;

/// Why an interface is not given away.
pub fn unsuitable(link: &Link, identity: Identity, links: &[Link]) -> Option<String> {
    if link.is_loopback() {
        return Some("it is the loopback interface".into());
    }
    if identity.owns(link.group) {
        return Some("it belongs to a virtual interface of a container".into());
    }
    if let Some(bridge) = link.controller {
        let bridge = links.iter().find(|link| link.index == bridge);
        let bridge = bridge.map_or("another interface", |link| &link.name);
        return Some(format!(
            "it is a part of `{bridge}`; take it out of there first"
        ));
    }
    if Path::new("/sys/class/net")
        .join(&link.name)
        .join("phy80211")
        .exists()
    {
        return Some("wireless interfaces cannot be assigned in this version".into());
    }
    None
}

/// Describes an interface that is about to leave.
pub fn describe(netlink: &mut Netlink, link: &Link) -> Result<Home> {
    let addresses = netlink.addresses()?.into_iter();
    let routes = netlink.routes_over(link.index)?.into_iter();
    Ok(Home {
        index: link.index,
        name: link.name.clone(),
        alt_names: link.alt_names.clone(),
        kind: link.kind.clone(),
        mac: link.mac,
        permanent_mac: link.permanent_mac,
        mtu: link.mtu,
        up: link.is_up(),
        addresses: addresses
            .filter(|(of, address)| *of == link.index && address.is_set)
            .map(|(_, address)| address)
            .collect(),
        routes: routes.filter(|route| route.is_set()).collect(),
    })
}

/// A number that nobody has in the container: its own, if that is free.
pub fn free_index(index: u32, inside: &[Link]) -> u32 {
    let taken = |index: &u32| inside.iter().any(|link| link.index == *index);
    let others = INSIDE..u32::MAX;
    let mut candidates = std::iter::once(index).chain(others);
    candidates.find(|index| !taken(index)).unwrap_or(index)
}

/// A name that nobody has in the container: its own, if that is free.
fn free_name(name: &str, inside: &[Link]) -> String {
    let taken = |name: &str| inside.iter().any(|link| link.is_called(name));
    if !taken(name) {
        return name.to_owned();
    }
    let mut others = (0_u32..).map(|number| format!("eth{number}"));
    others.find(|name| !taken(name)).unwrap_or_default()
}

impl Nic {
    /// Moves it into the container.
    pub fn send(&self, home: &Namespace, inside: &Namespace) -> Result<()> {
        let links = inside.netlink()?.links()?;
        let name = free_name(&self.home.name, &links);
        let arrival = Arrival {
            name: &name,
            index: Some(self.inside),
        };
        home.netlink()?.move_link(self.home.index, inside, arrival)
    }

    /// Where it is in the container, if it is there. A guest may rename it and give it another address.
    pub fn find_inside(&self, inside: &mut Netlink) -> Result<Option<Link>> {
        let found = inside.link_at(self.inside)?;
        Ok(found.filter(|link| self.home.is_of_kind(link)))
    }

    /// Brings it home, wherever it is, and makes it what it was. One that is nowhere was unplugged.
    pub fn bring_home(&self, home: &Namespace, inside: Option<&Namespace>) -> Result<()> {
        let mut here = home.netlink()?;
        if let Some(link) = self.home.find(&mut here, false)? {
            return self.home.restore(&mut here, link);
        }
        let mut fetched = false;
        if let Some(inside) = inside {
            let mut there = inside.netlink()?;
            if let Some(link) = self.find_inside(&mut there)? {
                self.fetch(&mut there, link.index, home)?;
                fetched = true;
            }
        }
        let end = Instant::now() + RETURN_PATIENCE;
        loop {
            if let Some(link) = self.home.find(&mut here, fetched)? {
                return self.home.restore(&mut here, link);
            }
            if Instant::now() > end {
                tracing::warn!(
                    interface = self.home.name,
                    "it is nowhere; was it unplugged?"
                );
                return Ok(());
            }
            sleep(POLL);
        }
    }

    /// Moves it home under its name, and if that is taken under one that says what it is (runtime.md 9, number 23);
    /// with its number, if that is free.
    fn fetch(&self, there: &mut Netlink, index: u32, home: &Namespace) -> Result<()> {
        let name = &self.home.name;
        let number = Some(self.home.index);
        let other = stray_name(self.home.index);
        let tries = [
            (name, number),
            (name, None),
            (&other, number),
            (&other, None),
        ];
        let mut failure = None;
        for (name, index_at_home) in tries {
            let arrival = Arrival {
                name,
                index: index_at_home,
            };
            match there.move_link(index, home, arrival) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // It may have moved before something failed.
                    if there.link_at(index)?.is_none() {
                        return Ok(());
                    }
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::invalid("move interface", name, "no name for it")))
    }
}

fn stray_name(index: u32) -> String {
    format!("cmlr{index}")
}

impl Home {
    /// Made by the same hardware or software: nothing that a guest can make takes the place of a network card.
    fn is_of_kind(&self, link: &Link) -> bool {
        self.kind == link.kind && self.permanent_mac == link.permanent_mac
    }

    /// It, at home: by its hardware's address; else by its own address, or by name and number together. One that we have
    /// just fetched may have come with another address, and without one of these.
    fn find(&self, here: &mut Netlink, fetched: bool) -> Result<Option<Link>> {
        let stray = stray_name(self.index);
        let same = |link: &Link| {
            let (name, number) = (link.name == self.name, link.index == self.index);
            self.permanent_mac.is_some()
                || link.mac == self.mac
                || (name && number)
                || (fetched && (name || number || link.name == stray))
        };
        let mut links = here.links()?;
        links.retain(|link| self.is_of_kind(link) && link.layer == "ether" && same(link));
        links.sort_by_key(|link| (link.index != self.index, link.name != self.name));
        Ok(links.into_iter().next())
    }

    /// Gives it back what it had. What cannot be given back is said, and the rest is.
    fn restore(&self, here: &mut Netlink, link: Link) -> Result<()> {
        let index = link.index;
        let said = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                tracing::warn!(interface = self.name, what, %error, "not as it left");
            }
        };
        let renamed = link.name != self.name;
        let changed_mac = link.mac != self.mac;
        if link.is_up() && (renamed || changed_mac || !self.up) {
            said("state", here.set_up(index, false));
        }
        if renamed && here.rename(index, &self.name).is_err() {
            let name = stray_name(index);
            tracing::error!(
                interface = self.name,
                now = name,
                "another one has its name by now"
            );
            here.rename(index, &name)?;
        }
        if let Some(mac) = self.mac.filter(|_| changed_mac) {
            said("MAC address", here.set_mac(index, mac));
        }
        if link.mtu != self.mtu {
            said("MTU", here.set_mtu(index, self.mtu));
        }
        for name in link
            .alt_names
            .iter()
            .filter(|name| !self.alt_names.contains(name))
        {
            said("names", here.remove_alt_name(index, name));
        }
        for name in self
            .alt_names
            .iter()
            .filter(|name| !link.alt_names.contains(name))
        {
            said("names", here.add_alt_name(index, name));
        }
        let has = here.addresses()?;
        for address in &self.addresses {
            let there = |(of, one): &(u32, _)| *of == index && one == address;
            if !has.iter().any(there) {
                said("addresses", here.add_address(index, *address));
            }
        }
        if self.up {
            said("state", here.set_up(index, true));
            let has = here.routes_over(index)?;
            for route in self.routes.iter().filter(|route| !has.contains(route)) {
                said("routes", here.add_route(index, *route));
            }
        }
        Ok(())
    }
}
