//! Values of `device.conf` that are well-formed and still mean nothing (protocol.md 2.6).

use std::net::IpAddr;

use cml_wire::proto::DeviceConfig;

/// A field with a value that cannot be used, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The field.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// The first value that cannot be used. Also those are looked at that the daemon does not use in hosted mode: a
/// mistake is best found before it matters.
pub fn unfit(config: &DeviceConfig) -> Option<Unfit> {
    let mut checks = vec![
        (
            "update_base_url",
            config.update_base_url.as_deref().and_then(url),
        ),
        ("c0os", config.c0os.as_deref().and_then(guest_name)),
        ("host_if", config.host_if.as_deref().and_then(interface)),
        ("host_subnet", prefix(config)),
        ("free_space_reserve", percent(config.free_space_reserve())),
    ];
    let addresses = [
        ("host_addr", config.host_addr()),
        ("host_gateway", config.host_gateway()),
        ("host_dns", config.host_dns()),
    ];
    checks.extend(addresses.map(|(field, text)| (field, address(text))));
    checks.into_iter().find_map(|(field, reason)| {
        let reason = reason?;
        Some(Unfit { field, reason })
    })
}

/// Empty is none.
fn address(text: &str) -> Option<String> {
    let bad = !text.is_empty() && text.parse::<IpAddr>().is_err();
    bad.then(|| format!("`{text}` is no IP address such as 10.0.2.15"))
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

/// Images are copied from files or fetched over HTTP (protocol.md 6.6).
fn url(text: &str) -> Option<String> {
    let schemes = ["file://", "http://", "https://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let odd = |char: char| char.is_whitespace() || char.is_control();
    let good = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(odd));
    (!good && !text.is_empty())
        .then(|| format!("`{text}` is no URL that begins with file://, http:// or https://"))
}

fn guest_name(text: &str) -> Option<String> {
    let good = !text.is_empty() && text != "." && text != ".." && !text.contains('/');
    (!good).then(|| format!("`{text}` is no name of a guest OS"))
}

/// What the kernel takes as a name: 15 bytes at most.
fn interface(text: &str) -> Option<String> {
    let odd = |char: char| char.is_whitespace() || char.is_control() || char == '/' || char == ':';
    let good = text.len() <= 15 && !text.contains(odd) && text != "." && text != "..";
    (!good).then(|| format!("`{text}` is no name of a network interface"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<&'static str> {
        let config = cml_wire::text::parse(text.as_bytes());
        unfit(&config.unwrap_or_default()).map(|unfit| unfit.field)
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
            assert_eq!(refused(good), None, "{good}");
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
            assert_eq!(refused(bad), Some(field), "{bad}");
        }
    }
}
