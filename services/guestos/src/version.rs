//! Which pushed version is taken, and which one is of no use any more (protocol.md 6.4, 6.10).

use std::sync::Arc;

use cml_bus::api::guestos::{GuestOsError, Installed};
use cml_wire::proto::{ContainerTrust, GuestOsConfig, GuestOsMount, guest_os_mount::Type};

/// Whether this configuration may come beside, or in the place of, what is installed.
///
/// # Errors
/// `Downgrade`, or `BadConfig` where it would weaken the trust in a version that containers use already.
pub fn admit(
    installed: &[Installed],
    config: &GuestOsConfig,
    trust: ContainerTrust,
) -> Result<(), GuestOsError> {
    let local = trust != ContainerTrust::Signed;
    if local && let Some(image) = beside_the_store(config) {
        return Err(GuestOsError::BadConfig(format!(
            "image `{image}` is no container's, and what concerns the device itself needs the vendor's signature"
        )));
    }
    let named = installed
        .iter()
        .filter(|one| one.config.name == config.name);
    // Whoever may sign locally would otherwise put his own into every container of the vendor's, core0 among them.
    if local && named.clone().any(|one| one.trust == ContainerTrust::Signed) {
        return Err(GuestOsError::BadConfig(format!(
            "`{}` is installed with the vendor's signature, which a local one cannot replace; give it another name",
            config.name
        )));
    }
    let Some(newest) = named.max_by_key(|one| one.config.version) else {
        return Ok(());
    };
    if config.version < newest.config.version {
        return Err(GuestOsError::Downgrade {
            name: config.name.clone(),
            version: config.version,
            newest: newest.config.version,
        });
    }
    Ok(())
}

/// The first image, if any, that is for the device: written over something of it, or stored for it.
fn beside_the_store(config: &GuestOsConfig) -> Option<&str> {
    let mut all = config.mounts.iter().chain(&config.mounts_setup);
    let of_device =
        |mount: &&GuestOsMount| matches!(mount.mount_type(), Type::Flash | Type::StoreOnly);
    all.find(of_device).map(|mount| mount.image_file.as_str())
}

/// How the names of guest OSes begin that are no containers but what the device boots (protocol.md 6.8).
const KERNEL: &str = "kernel";

/// Versions that are older than the newest one of their name and that no container needs. Of a kernel the one
/// before the newest stays as well: it may be the one that runs, and the way back (protocol.md 6.10).
pub fn obsolete(list: &[Installed], needed: &[(String, u64)]) -> Vec<Arc<GuestOsConfig>> {
    let is_obsolete = |one: &&Installed| {
        let config = &one.config;
        let newer = list.iter().filter(|other| {
            other.config.name == config.name && other.config.version > config.version
        });
        let kept = match config.name.starts_with(KERNEL) {
            true => 2,
            false => 1,
        };
        let pinned =
            |(name, version): &(String, u64)| *name == config.name && *version == config.version;
        newer.count() >= kept && !needed.iter().any(pinned)
    };
    let found = list.iter().filter(is_obsolete);
    found.map(|one| one.config.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, version: u64) -> GuestOsConfig {
        GuestOsConfig {
            name: name.into(),
            version,
            ..Default::default()
        }
    }

    fn store(trust: ContainerTrust) -> Vec<Installed> {
        [("a", 3), ("a", 7), ("b", 9)]
            .map(|(name, version)| Installed {
                config: Arc::new(config(name, version)),
                trust,
            })
            .into()
    }

    #[test]
    fn new_names_higher_and_equal_versions_are_taken_and_lower_ones_are_not() {
        let store = store(ContainerTrust::Signed);
        let verdict = |name, version| admit(&store, &config(name, version), ContainerTrust::Signed);
        for (name, version) in [("new", 1), ("a", 7), ("a", 8), ("a", u64::MAX), ("b", 9)] {
            assert_eq!(verdict(name, version), Ok(()), "{name} {version}");
        }
        for version in [1, 3, 6] {
            assert_eq!(
                verdict("a", version),
                Err(GuestOsError::Downgrade {
                    name: "a".into(),
                    version,
                    newest: 7
                })
            );
        }
    }

    #[test]
    fn a_local_signature_does_not_replace_the_vendors() {
        let local = ContainerTrust::LocallySigned;
        let signed = store(ContainerTrust::Signed);
        for version in [7, 8] {
            assert!(admit(&signed, &config("a", version), local).is_err());
        }
        assert_eq!(admit(&signed, &config("mine", 1), local), Ok(()));
        assert_eq!(admit(&store(local), &config("a", 7), local), Ok(()));
        assert_eq!(
            admit(&store(local), &config("a", 7), ContainerTrust::Signed),
            Ok(())
        );
    }

    #[test]
    fn a_local_signature_says_nothing_about_the_device() {
        for (kind, fine) in [
            (Type::Flash, false),
            (Type::StoreOnly, false),
            (Type::Shared, true),
        ] {
            let mut config = config("kernel", 1);
            config.mounts.push(GuestOsMount {
                mount_type: kind.into(),
                ..Default::default()
            });
            let admitted = admit(&[], &config, ContainerTrust::LocallySigned);
            assert_eq!(admitted.is_ok(), fine, "{kind:?}");
            assert_eq!(admit(&[], &config, ContainerTrust::Signed), Ok(()));
        }
    }

    #[test]
    fn the_newest_version_and_those_that_are_needed_stay() {
        let kernels = [("kernel", 1), ("kernel", 2), ("kernel", 5)];
        let others = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 7)];
        let all = others.into_iter().chain(kernels);
        let list: Vec<_> = all
            .map(|(name, version)| Installed {
                config: Arc::new(GuestOsConfig {
                    name: name.into(),
                    version,
                    ..Default::default()
                }),
                trust: ContainerTrust::Signed,
            })
            .collect();
        let found = |needed: &[(String, u64)]| {
            let found = obsolete(&list, needed);
            found
                .iter()
                .map(|one| crate::store::stem(one))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&[]), ["a-1", "a-2", "kernel-1"]);
        let needed = [("a".into(), 1), ("b".into(), 2), ("kernel".into(), 1)];
        assert_eq!(found(&needed), ["a-2"]);
    }
}
