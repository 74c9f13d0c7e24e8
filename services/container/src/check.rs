//! Whether a container's configuration makes sense, before anything is done with it (SEC-08).

use std::net::IpAddr;

use cml_bus::id::ContainerId;
use cml_sys::path::is_component;
use cml_wire::proto::{ContainerConfig, ContainerType};

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// The name cannot be used as a host name or in a command line.
    #[error(
        "name {0:?}: 1 to 64 bytes, no control characters and none of `/ + , = ;`, not starting \
         with `-`, no uuid"
    )]
    Name(String),
    /// The guest OS could not be found under any name like this.
    #[error("guest_os {0:?} cannot be part of a file name")]
    GuestOs(String),
    /// A feature of the old system that ours does not have.
    #[error("type KVM is not supported; use CONTAINER")]
    Kvm,
    /// Not `NAME=value`.
    #[error("init_env {0:?} must be `NAME=value` without NUL bytes")]
    Env(String),
    /// A word that becomes part of a file name.
    #[error("{field} {value:?} cannot be part of a file name")]
    Component {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// The kernel takes no such interface name.
    #[error("interface name {0:?}: 1 to 15 bytes, no `/`, no white space, not `.` or `..`")]
    Interface(String),
    /// Not an address.
    #[error("dns_server {0:?} is no IP address")]
    Dns(String),
    /// Not a list such as `0-1,3`.
    #[error("assign_cpus {0:?} is no list of processors such as `0-1,3`")]
    Cpus(String),
}

/// Longest host name that Linux takes, in bytes.
const HOST_NAME_MAX: usize = 64;
/// Longest interface name, in bytes: IFNAMSIZ without its NUL.
const INTERFACE_MAX: usize = 15;

/// Checks everything that later becomes part of a path, a name in the kernel, or an argument.
pub fn check(config: &ContainerConfig) -> Result<(), BadConfig> {
    if !is_name(&config.name) {
        return Err(BadConfig::Name(config.name.clone()));
    }
    if !is_component(&config.guest_os) {
        return Err(BadConfig::GuestOs(config.guest_os.clone()));
    }
    if config.r#type() == ContainerType::Kvm {
        return Err(BadConfig::Kvm);
    }
    for word in &config.init_env {
        let named = word
            .split_once('=')
            .is_some_and(|(name, _)| !name.is_empty());
        if !named || word.contains('\0') {
            return Err(BadConfig::Env(word.clone()));
        }
    }
    check_components(config)?;
    for vnet in &config.vnet_configs {
        for name in std::iter::once(&vnet.if_name).chain(&vnet.if_rootns_name) {
            if !is_interface(name) {
                return Err(BadConfig::Interface(name.clone()));
            }
        }
    }
    if let Some(dns) = config.dns_server.as_ref().filter(|dns| !dns.is_empty())
        && dns.parse::<IpAddr>().is_err()
    {
        return Err(BadConfig::Dns(dns.clone()));
    }
    if let Some(cpus) = &config.assign_cpus
        && !cpus
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'))
    {
        return Err(BadConfig::Cpus(cpus.clone()));
    }
    Ok(())
}

fn check_components(config: &ContainerConfig) -> Result<(), BadConfig> {
    let sizes = config.image_sizes.iter().flat_map(|size| {
        std::iter::once(("image_name", &size.image_name))
            .chain(size.image_file.iter().map(|file| ("image_file", file)))
    });
    let fifos = config.fifos.iter().map(|fifo| ("fifos", fifo));
    let module = config
        .pkcs11_module
        .iter()
        .map(|file| ("pkcs11_module", file));
    for (field, value) in sizes.chain(fifos).chain(module) {
        if !is_component(value) {
            return Err(BadConfig::Component {
                field,
                value: value.clone(),
            });
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=HOST_NAME_MAX).contains(&name.len())
        && !name.starts_with('-')
        // It would be taken for the identity of another container.
        && name.parse::<ContainerId>().is_err()
        && !name
            .chars()
            .any(|letter| letter.is_control() || "/+,=;".contains(letter))
}

fn is_interface(name: &str) -> bool {
    (1..=INTERFACE_MAX).contains(&name.len())
        && is_component(name)
        && !name.chars().any(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use cml_wire::proto::{ContainerImageSize, ContainerVnetConfig};
    use proptest::prelude::*;

    use super::*;

    fn config() -> ContainerConfig {
        ContainerConfig {
            name: "web".into(),
            guest_os: "busybox".into(),
            ..Default::default()
        }
    }

    fn changed(change: impl FnOnce(&mut ContainerConfig)) -> Result<(), BadConfig> {
        let mut config = config();
        change(&mut config);
        check(&config)
    }

    #[test]
    fn a_minimal_configuration_and_one_in_another_language_are_accepted() {
        assert_eq!(check(&config()), Ok(()));
        assert_eq!(changed(|c| c.name = "Bücher 2".into()), Ok(()));
        assert_eq!(changed(|c| c.dns_server = Some("fd00::1".into())), Ok(()));
        assert_eq!(changed(|c| c.assign_cpus = Some("0-1,3".into())), Ok(()));
    }

    #[test]
    fn words_that_are_no_plain_names_are_refused() {
        for bad in ["", "..", "a/b", "a\0", "a\nb"] {
            assert!(changed(|c| c.guest_os = bad.into()).is_err(), "{bad:?}");
            assert!(changed(|c| c.fifos = vec![bad.into()]).is_err());
            assert!(changed(|c| c.init_env = vec![bad.into()]).is_err());
            assert!(
                changed(|c| c.image_sizes = vec![ContainerImageSize {
                    image_name: bad.into(),
                    ..Default::default()
                }])
                .is_err()
            );
        }
        for bad in ["", "sixteen-bytes-xx", "a b", "../x", "."] {
            assert!(
                changed(|c| c.vnet_configs = vec![ContainerVnetConfig {
                    if_name: bad.into(),
                    ..Default::default()
                }])
                .is_err()
            );
        }
        assert!(changed(|c| c.dns_server = Some("8.8.8.8; reboot".into())).is_err());
        assert!(changed(|c| c.assign_cpus = Some("all".into())).is_err());
        assert!(changed(|c| c.set_type(ContainerType::Kvm)).is_err());
        let uuid = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";
        assert!(changed(|c| c.name = uuid.into()).is_err());
    }

    proptest! {
        #[test]
        fn a_name_never_carries_what_a_mount_option_or_a_log_line_gives_a_meaning(
            name in ".{0,70}", bad in prop::sample::select(vec!["+", ",", "=", "\0", "\n", "/"]),
        ) {
            let poisoned = format!("{name}{bad}");
            prop_assert!(changed(|c| c.name = poisoned).is_err());
        }
    }
}
