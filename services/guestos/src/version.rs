//! Which pushed version is taken (protocol.md 6.4).

use cml_bus::api::guestos::{GuestOsError, Installed};
use cml_wire::proto::{ContainerTrust, GuestOsConfig};

/// Whether this configuration may come beside, or in the place of, what is installed.
///
/// # Errors
/// `Downgrade`, or `BadConfig` where it would weaken the trust in a version that containers use already.
pub fn admit(
    installed: &[Installed],
    config: &GuestOsConfig,
    trust: ContainerTrust,
) -> Result<(), GuestOsError> {
    let named = installed
        .iter()
        .filter(|one| one.config.name == config.name);
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
    if config.version == newest.config.version
        && newest.trust == ContainerTrust::Signed
        && trust != ContainerTrust::Signed
    {
        return Err(GuestOsError::BadConfig(
            "this version is installed with the vendor's signature, which a local one cannot replace"
                .into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        assert!(admit(&signed, &config("a", 7), local).is_err());
        assert_eq!(admit(&signed, &config("a", 8), local), Ok(()));
        assert_eq!(admit(&store(local), &config("a", 7), local), Ok(()));
        assert_eq!(
            admit(&store(local), &config("a", 7), ContainerTrust::Signed),
            Ok(())
        );
    }
}
