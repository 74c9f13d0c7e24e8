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

use crate::{names::Identity, record::Nic};

/// How long the kernel may take to bring an interface home whose namespace has died: it does so some time after
/// the last process.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// Numbers in a container from here on, where its own number is taken there.
const INSIDE: u32 = 1000;
/// How often interfaces are looked for that a guest has made upon one that leaves.
const PARTINGS: usize = 10;

/// What became of an interface that was to come home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// It is what it was.
    Home,
    /// It is home, but an interface that the guest has made upon it could not be removed.
    Shared,
    /// It is neither inside nor at home.
    Nowhere,
}

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

    /// Where it is in the container, if it is there: under the number that it got, or hardware under any. A guest may
    /// change everything else, and that as well by moving it to and fro.
    pub fn find_inside(&self, inside: &mut Netlink) -> Result<Option<Link>> {
        let mut links = inside.links()?;
        let by_hardware = self.home.permanent_mac.is_some() && self.home.alike.is_empty();
        links.retain(|link| {
            self.home.is_of_kind(link) && (link.index == self.inside || by_hardware)
        });
        links.sort_by_key(|link| link.index != self.inside);
        Ok(links.into_iter().next())
    }

    /// Brings it home, wherever it is, and makes it what it was. The container comes first: only one interface there can
    /// be it, and at home there may be one that looks like it.
    pub fn bring_home(&self, home: &Namespace, inside: Option<&Namespace>) -> Result<Return> {
        let mut here = home.netlink()?;
        if let Some(inside) = inside {
            let mut there = inside.netlink()?;
            if let Some(link) = self.find_inside(&mut there)? {
                self.fetch(&mut there, &link, home)?;
                // Unless it was unplugged at that moment.
                if let Some(link) = self.home.find(&mut here)? {
                    let parted = part(&mut there, link.index);
                    self.home.restore(&mut here, link)?;
                    return parted.map(|parted| match parted {
                        true => Return::Home,
                        false => Return::Shared,
                    });
                }
            }
        }
        let end = Instant::now() + RETURN_PATIENCE;
        loop {
            if let Some(link) = self.home.find(&mut here)? {
                self.home.restore(&mut here, link)?;
                return Ok(Return::Home);
            }
            // What software has made dies with its namespace.
            let may_come = self.home.permanent_mac.is_some() && !self.home.is_unplugged();
            if !may_come || Instant::now() > end {
                return Ok(Return::Nowhere);
            }
            sleep(POLL);
        }
    }

    /// Moves it home under its name, and if that is taken under one that says what it is (runtime.md 9, number 23);
    /// with its number, if that is free.
    fn fetch(&self, there: &mut Netlink, link: &Link, home: &Namespace) -> Result<()> {
        let index = link.index;
        // Our rules at home speak of groups, and a guest might know ours.
        there.set_group(index, self.home.group)?;
        there.set_alias(index, &self.home.mark())?;
        let (foreign, own): (Vec<_>, Vec<_>) =
            link.alt_names.iter().partition(|name| !self.home.had(name));
        let name = &self.home.name;
        let number = Some(self.home.index);
        let other = self.home.mark();
        let tries = [
            (name, number),
            (name, None),
            (&other, number),
            (&other, None),
        ];
        let mut failure = None;
        // It cannot go where one of its further names is taken. What is its own is given back at home.
        for names in [foreign, own] {
            for name in names {
                there.remove_alt_name(index, name)?;
            }
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
        }
        Err(failure.unwrap_or_else(|| Error::invalid("move interface", name, "no name for it")))
    }
}

/// Removes what a guest has made upon an interface that has just left it, such as a VLAN, through which it would go on
/// using it; tells whether nothing is left. `index` is its number at home.
///
/// Before the move a guest could make another one at any moment; afterwards only upon what is there still.
fn part(there: &mut Netlink, index: u32) -> Result<bool> {
    for _ in 0..PARTINGS {
        let mut uppers = there.links()?;
        // The other end of a pair does not stand on it.
        uppers.retain(|link| {
            link.peer == Some(index)
                && link.peer_namespace.is_some()
                && link.kind.as_deref() != Some("veth")
        });
        if uppers.is_empty() {
            return Ok(true);
        }
        for link in uppers {
            if let Err(error) = there.remove_link(link.index) {
                tracing::error!(interface = link.name, %error, "still stands on one that has gone home");
            }
        }
    }
    Ok(false)
}
