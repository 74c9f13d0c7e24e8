//! Words that become part of a path, of a command, or of a name in the kernel (runtime.md 9, number 61).
//!
//! Each function says what is wrong with a word, `None` if nothing is.

use std::{
    net::IpAddr,
    path::{Component, Path},
};

use uuid::Uuid;

/// Longest host name that Linux takes, in bytes.
const HOST_NAME_MAX: usize = 64;
/// Longest interface name, in bytes: IFNAMSIZ without its NUL.
const INTERFACE_MAX: usize = 15;

/// Whether a name can be one component of a path: not empty, no `/`, no NUL, no line end, not `.` or `..`, at most
/// 255 bytes.
#[must_use]
pub fn is_component(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0', '\n'])
}

pub fn component(word: &str) -> Option<String> {
    (!is_component(word)).then(|| format!("{word:?} cannot be part of a file name"))
}

/// The name of a container: also its host name, and a word of the command line.
pub fn container_name(name: &str) -> Option<String> {
    let odd = |letter: char| letter.is_control() || "/+,=;".contains(letter);
    let good = (1..=HOST_NAME_MAX).contains(&name.len())
        && !name.starts_with('-')
        && is_component(name)
        // It would be taken for the identity of another container.
        && Uuid::try_parse(name).is_err()
        && !name.contains(odd);
    (!good).then(|| {
        format!(
            "{name:?} is no name: 1 to {HOST_NAME_MAX} bytes, no control characters and none of `/ + , = ;`, not \
             starting with `-`, not `.` or `..`, no uuid"
        )
    })
}

pub fn interface(name: &str) -> Option<String> {
    // The kernel takes `%` as a place for a number.
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || ":%".contains(letter);
    let good = name.len() <= INTERFACE_MAX && is_component(name) && !name.contains(odd);
    (!good).then(|| {
        format!(
            "{name:?} is no name of a network interface: 1 to {INTERFACE_MAX} bytes, no `/`, `:`, `%` or white space, \
             not `.` or `..`"
        )
    })
}

/// An interface of a container: not the one that every network has.
pub fn own_interface(name: &str) -> Option<String> {
    let taken = || (name == "lo").then(|| "`lo` is the loopback interface".into());
    interface(name).or_else(taken)
}

/// The address of an Ethernet interface.
pub fn mac(text: &str) -> Option<String> {
    let byte = |word: &str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    let good = text.split(':').count() == 6 && text.split(':').all(byte);
    (!good).then(|| format!("{text:?} is no MAC address such as 02:fc:00:00:00:01"))
}

/// An interface of the host, by name or address.
pub fn host_interface(text: &str) -> Option<String> {
    match mac(text) {
        None => None,
        Some(_) => own_interface(text).map(|wrong| format!("{wrong}; nor is it a MAC address")),
    }
}

/// Empty is none.
pub fn address(text: &str) -> Option<String> {
    let bad = !text.is_empty() && text.parse::<IpAddr>().is_err();
    bad.then(|| format!("{text:?} is no IP address such as 10.0.2.15"))
}

pub fn environment(word: &str) -> Option<String> {
    let named = word
        .split_once('=')
        .is_some_and(|(name, _)| !name.is_empty());
    (!named || word.contains('\0'))
        .then(|| format!("{word:?} must be `NAME=value` without NUL bytes"))
}

pub fn no_nul(word: &str) -> Option<String> {
    word.contains('\0').then(|| "it holds a NUL byte".into())
}

pub fn absolute(text: &str) -> Option<String> {
    let path = Path::new(text);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let good = path.is_absolute() && !text.contains('\0') && path.components().all(plain);
    (!good).then(|| format!("{text:?} must be an absolute path without `..`"))
}

/// A base that images are fetched from (protocol.md 6.6); empty is none.
pub fn url(text: &str) -> Option<String> {
    let schemes = ["file://", "http://", "https://"];
    let starts = |scheme: &&str| {
        let start = text.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let rest = schemes
        .iter()
        .find(|scheme| starts(scheme))
        .map(|scheme| &text[scheme.len()..]);
    let odd = |letter: char| letter.is_whitespace() || letter.is_control();
    let good = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(odd));
    (!good && !text.is_empty())
        .then(|| format!("{text:?} is no URL that begins with file://, http:// or https://"))
}

/// Exactly so many hexadecimal digits; empty is none.
pub fn digest(text: &str, digits: usize) -> Option<String> {
    let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (!good && !text.is_empty()).then(|| format!("{text:?} is not {digits} hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_are_no_components() {
        for bad in ["", ".", "..", "a/b", "/", "a\0", "x\n"] {
            assert!(!is_component(bad), "{bad:?}");
        }
        assert!(is_component("root") && is_component("..."));
    }

    #[test]
    fn an_interface_of_the_host_is_a_name_or_an_address() {
        for good in ["eth0", "02:fc:00:00:00:01", "02:FC:00:00:00:01", "cafe"] {
            assert_eq!(host_interface(good), None, "{good}");
        }
        for bad in [
            "",
            "lo",
            "../x",
            "sixteen-bytes-xx",
            "02:fc:00:00:00",
            "02:fc:00:00:00:0g",
            "eth%d",
        ] {
            assert!(host_interface(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn schemes_are_written_in_any_case() {
        assert_eq!(url("HTTPS://host"), None);
        assert!(url("https:/host").is_some() && url("https://").is_some() && url("é").is_some());
    }
}
