//! `device.conf` (protocol.md 2.6).

use std::net::IpAddr;

use super::{Breach, Breaches, words};
use crate::proto::DeviceConfig;

/// Values that mean nothing. Also those are looked at that are not used in hosted mode: a mistake is best found
/// before it matters.
pub fn breaches(config: &DeviceConfig) -> Vec<Breach> {
    let mut found = Breaches::default();
    found.note("update_base_url", words::url(config.update_base_url()));
    found.note("c0os", words::component(config.c0os()));
    found.note("host_addr", words::address(config.host_addr()));
    found.note("host_subnet", prefix(config));
    found.note("host_if", words::interface(config.host_if()));
    found.note("host_gateway", words::address(config.host_gateway()));
    found.note("host_dns", words::address(config.host_dns()));
    found.each("flash_targets", &config.flash_targets, |path| {
        words::absolute(path)
    });
    found.note("free_space_reserve", percent(config.free_space_reserve()));
    found.0
}

fn prefix(config: &DeviceConfig) -> Option<String> {
    let most = match config.host_addr().parse() {
        Ok(IpAddr::V6(_)) => 128,
        _ => 32,
    };
    let length = config.host_subnet();
    (length > most).then(|| format!("{length} is no prefix length from 0 to {most}"))
}

fn percent(value: u32) -> Option<String> {
    (value > 100).then(|| format!("{value} is no percentage from 0 to 100"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::text;

    fn refused(text: &str) -> Vec<String> {
        let found = breaches(&text::parse(text.as_bytes()).unwrap()).into_iter();
        found.map(|breach| breach.field).collect()
    }

    #[test]
    fn what_the_existing_system_ships_is_fine() {
        let shipped = "update_base_url: \"file://var/cml-updates\"\nhost_addr: \"10.0.2.15\"\n\
                       host_subnet: 24\nhost_if: \"eth0\"\nhost_gateway: \"10.0.2.2\"\n\
                       host_dns: \"10.0.2.3\"\naudit_size: 50\n";
        for good in [
            shipped,
            "",
            "host_addr: \"\"",
            "host_addr: \"fd00::1\" host_subnet: 64",
            "update_base_url: \"\"",
            "free_space_reserve: 0",
        ] {
            assert!(refused(good).is_empty(), "{good}");
        }
    }

    #[test]
    fn values_that_mean_nothing_are_found() {
        for (bad, field) in [
            ("host_addr: \"10.0.2\"", "host_addr"),
            ("host_addr: \"10.0.2.15/24\"", "host_addr"),
            ("host_gateway: \"gateway\"", "host_gateway"),
            ("host_dns: \"8.8.8.8 \"", "host_dns"),
            ("host_subnet: 33", "host_subnet"),
            ("host_addr: \"fd00::1\" host_subnet: 129", "host_subnet"),
            ("host_if: \"a/b\"", "host_if"),
            ("host_if: \"0123456789abcdef\"", "host_if"),
            ("c0os: \"../x\"", "c0os"),
            ("free_space_reserve: 101", "free_space_reserve"),
            ("update_base_url: \"ftp://x\"", "update_base_url"),
            ("update_base_url: \"https://\"", "update_base_url"),
            ("update_base_url: \"/var/cml\"", "update_base_url"),
        ] {
            assert_eq!(refused(bad), [field], "{bad}");
        }
    }
}
