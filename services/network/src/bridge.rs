//! Filtered interfaces: the interface stays at home as a port of a bridge, and the container gets a way to that
//! bridge on which only known addresses are heard (runtime.md 4.3).

use cml_sys::{
    Result,
    net::{
        link::{End, NAME_MAX},
        namespace::Namespace,
        netlink::Netlink,
    },
};

use crate::{
    names::{FilterNames, Identity, filter_names},
    record::{Home, Nic},
};

impl Nic {
    /// What stands between it and the container.
    pub fn filter_names(&self) -> FilterNames {
        filter_names(self.home.index)
    }

    /// What the container calls its way to it: `c_` and its name (runtime.md 4.3), or its number where that is too
    /// long.
    pub fn filtered_name(&self) -> String {
        let name = format!("c_{}", self.home.name);
        match name.len() <= NAME_MAX {
            true => name,
            false => format!("c_{}", self.home.index),
        }
    }

    /// Builds the way. The rules are there already.
    pub fn build(&self, identity: Identity, home: &Namespace, inside: &Namespace) -> Result<()> {
        let names = self.filter_names();
        let mut netlink = home.netlink()?;
        self.clear(&mut netlink, identity)?;
        let group = identity.bridged_group();
        let end = |name| End {
            name,
            mac: None,
            group,
        };
        netlink.add_bridge(&end(&names.bridge))?;
        let within = self.filtered_name();
        let far = End {
            group: 0,
            ..end(&within)
        };
        netlink.add_veth(&end(&names.port), &far, inside)?;
        let bridge = netlink.link(&names.bridge)?;
        let port = netlink.link(&names.port)?;
        for link in bridge.iter().chain(&port) {
            netlink.set_up(link.index, true)?;
        }
        let bridge = bridge.map(|link| link.index);
        for port in port
            .map(|link| link.index)
            .into_iter()
            .chain([self.home.index])
        {
            netlink.set_controller(port, bridge)?;
        }
        netlink.set_up(self.home.index, true)
    }

    /// Takes the way apart; the interface is what it was.
    pub fn dismantle(&self, identity: Identity, home: &Namespace) -> Result<()> {
        let mut netlink = home.netlink()?;
        self.clear(&mut netlink, identity)?;
        let Home { index, up, .. } = self.home;
        match netlink.link_at(index)? {
            Some(link) if link.is_up() != up => netlink.set_up(index, up),
            _ => Ok(()),
        }
    }

    /// Removes the bridge, which lets its ports go, and the way to it.
    fn clear(&self, netlink: &mut Netlink, identity: Identity) -> Result<()> {
        let names = self.filter_names();
        for name in [&names.port, &names.bridge] {
            if let Some(link) = netlink.link(name)?
                && link.group == identity.bridged_group()
            {
                netlink.remove_link(link.index)?;
            }
        }
        Ok(())
    }
}
