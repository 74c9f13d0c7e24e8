//! What an interface was like at home, and how it becomes that again.

use std::{ffi::OsStr, fs, path::Path};

use cml_sys::{
    Result,
    net::{address::Route, link::Link, netlink::Netlink},
};

use crate::record::Home;

/// Describes an interface that is about to leave.
pub fn describe(netlink: &mut Netlink, link: &Link, links: &[Link]) -> Result<Home> {
    let addresses = netlink.addresses()?.into_iter();
    let routes = netlink.routes_over(link.index)?.into_iter();
    let alt_names = link.alt_names.iter().filter_map(|name| name.to_str());
    let device = Path::new("/sys/class/net").join(&link.name).join("device");
    let alias = link.alias.as_deref().and_then(OsStr::to_str);
    let mut home = Home {
        index: link.index,
        name: link.name.clone(),
        alt_names: alt_names.map(str::to_owned).collect(),
        kind: link.kind.clone(),
        mac: link.mac,
        permanent_mac: link.permanent_mac,
        mtu: link.mtu,
        up: link.is_up(),
        addresses: addresses
            .filter(|(of, address)| *of == link.index && address.is_set)
            .map(|(_, address)| address)
            .collect(),
        routes: routes.filter(Route::is_set).collect(),
        settings: Some(link.settings()),
        group: link.group,
        queue: link.queue,
        alias: alias.map(str::to_owned),
        alike: Vec::new(),
        device: fs::canonicalize(device)
            .ok()
            .filter(|_| link.kind.is_none()),
    };
    if home.permanent_mac.is_some() {
        let others = links.iter().filter(|other| other.index != link.index);
        let alike = others.filter(|other| home.is_of_kind(other));
        home.alike = alike.map(|other| other.index).collect();
    }
    Ok(home)
}

impl Home {
    /// What it is called where its own name is taken (runtime.md 9, number 23), and the description that it travels
    /// under: whoever was killed on the way, the next one knows it by that.
    pub fn mark(&self) -> String {
        format!("cmlr{}", self.index)
    }

    /// Made by the same hardware or software: nothing that a guest can make takes the place of a network card.
    pub fn is_of_kind(&self, link: &Link) -> bool {
        self.kind == link.kind && self.permanent_mac == link.permanent_mac
    }

    /// Whether both are made by the same hardware or software.
    pub fn is_kin(&self, other: &Self) -> bool {
        self.kind == other.kind && self.permanent_mac == other.permanent_mac
    }

    /// Whether this is it, at home: by our mark, its hardware's address, or name and number together. An address that
    /// software has given says nothing, as all VLANs of a card have the same.
    pub fn is(&self, link: &Link) -> bool {
        let by_hardware = self.permanent_mac.is_some() && !self.alike.contains(&link.index);
        self.is_of_kind(link)
            && (self.is_marked(link)
                || by_hardware
                || (link.name == self.name && link.index == self.index))
    }

    fn is_marked(&self, link: &Link) -> bool {
        link.alias.as_deref() == Some(OsStr::new(&self.mark()))
    }

    /// Another one that is the same to everybody: it was unplugged and plugged in again.
    pub fn is_replaced_by(&self, link: &Link) -> bool {
        self.is(link) || (self.is_of_kind(link) && self.name == link.name && self.mac == link.mac)
    }

    /// It was hardware, and that is gone.
    pub fn is_unplugged(&self) -> bool {
        self.device.as_ref().is_some_and(|device| !device.exists())
    }

    /// It, at home.
    pub fn find(&self, here: &mut Netlink) -> Result<Option<Link>> {
        let mut links = here.links()?;
        links.retain(|link| self.is(link));
        links.sort_by_key(|link| {
            let number = link.index != self.index;
            (!self.is_marked(link), number, link.name != self.name)
        });
        Ok(links.into_iter().next())
    }

    /// Gives it back what it had. What cannot be given back is said, and the rest is.
    pub fn restore(&self, here: &mut Netlink, link: Link) -> Result<()> {
        let index = link.index;
        let said = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                tracing::warn!(interface = self.name, what, %error, "not as it left");
            }
        };
        // First of all: our rules speak of groups.
        if link.group != self.group {
            said("group", here.set_group(index, self.group));
        }
        let renamed = link.name != self.name;
        let changed_mac = link.mac != self.mac;
        if link.is_up() && (renamed || changed_mac || !self.up) {
            said("state", here.set_up(index, false));
        }
        if renamed && here.rename(index, &self.name).is_err() {
            let name = self.mark();
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
        if let Some(settings) = self.settings.filter(|was| *was != link.settings()) {
            said("flags", here.set_settings(index, settings));
        }
        if let Some(queue) = self.queue.filter(|was| Some(*was) != link.queue) {
            said("queue", here.set_queue(index, queue));
        }
        for name in link.alt_names.iter().filter(|name| !self.had(name)) {
            said("names", here.remove_alt_name(index, name));
        }
        let missing = |name: &&String| !link.alt_names.iter().any(|has| has == name.as_str());
        for name in self.alt_names.iter().filter(missing) {
            said("names", here.add_alt_name(index, name));
        }
        let has = here.addresses()?;
        for address in &self.addresses {
            let there = |(of, one): &(u32, _)| *of == index && one == address;
            if !has.iter().any(there) {
                said("addresses", here.add_address(index, address));
            }
        }
        if self.up {
            said("state", here.set_up(index, true));
            self.restore_routes(here, index, &said)?;
        }
        let alias = self.alias.as_deref().unwrap_or_default();
        if link.alias.as_deref().unwrap_or_default() != alias {
            said("alias", here.set_alias(index, alias));
        }
        Ok(())
    }

    /// Whether a further name that it has is its own.
    pub fn had(&self, alt_name: &OsStr) -> bool {
        self.alt_names.iter().any(|had| alt_name == had.as_str())
    }

    /// A next hop has to be reachable before a route leads over it: first the routes that need none, then the others, for
    /// as long as one more is possible.
    fn restore_routes(
        &self,
        here: &mut Netlink,
        index: u32,
        said: &impl Fn(&str, Result<()>),
    ) -> Result<()> {
        let has = here.routes_over(index)?;
        let missing = self.routes.iter().filter(|route| !has.contains(route));
        let mut missing: Vec<_> = missing.copied().collect();
        missing.sort_by_key(|route| route.via.is_some());
        loop {
            let (mut failed, mut errors) = (Vec::new(), Vec::new());
            for route in &missing {
                if let Err(error) = here.add_route(index, *route) {
                    failed.push(*route);
                    errors.push(error);
                }
            }
            if failed.len() == missing.len() || failed.is_empty() {
                errors
                    .into_iter()
                    .for_each(|error| said("routes", Err(error)));
                return Ok(());
            }
            missing = failed;
        }
    }
}
