//! Which installed version a container gets (protocol.md 6.4).

use cml_bus::api::guestos::{Installed, Version};

/// The version that fits, if one does.
pub fn select<'a>(
    installed: &'a [Installed],
    name: &str,
    version: Version,
) -> Option<&'a Installed> {
    let named = installed.iter().filter(|one| one.config.name == name);
    match version {
        Version::Exactly(exact) => named.into_iter().find(|one| one.config.version == exact),
        Version::AtLeast(least) => named
            .filter(|one| one.config.version >= least)
            .max_by_key(|one| one.config.version),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cml_wire::proto::{ContainerTrust, GuestOsConfig};

    use super::*;

    fn store() -> Vec<Installed> {
        [("a", 1), ("a", 3), ("b", 9), ("a", 2)]
            .map(|(name, version)| Installed {
                config: Arc::new(GuestOsConfig {
                    name: name.into(),
                    version,
                    ..Default::default()
                }),
                trust: ContainerTrust::Signed,
            })
            .into()
    }

    fn version_of(name: &str, version: Version) -> Option<u64> {
        select(&store(), name, version).map(|one| one.config.version)
    }

    #[test]
    fn the_newest_is_taken_unless_one_is_pinned() {
        assert_eq!(version_of("a", Version::AtLeast(0)), Some(3));
        assert_eq!(version_of("a", Version::AtLeast(3)), Some(3));
        assert_eq!(version_of("a", Version::Exactly(2)), Some(2));
    }

    #[test]
    fn nothing_older_and_nothing_else_will_do() {
        assert_eq!(version_of("a", Version::AtLeast(4)), None);
        assert_eq!(version_of("a", Version::Exactly(9)), None);
        assert_eq!(version_of("c", Version::AtLeast(0)), None);
    }
}
