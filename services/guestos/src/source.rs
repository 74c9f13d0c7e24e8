//! Where images come from (protocol.md 6.6).

use std::{fmt, fs::File, io, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use cml_bus::api::guestos::GuestOsError;
use cml_sys::file;

/// A file to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// By HTTP or HTTPS.
    Url(String),
    /// From a directory that the daemon sees.
    File(PathBuf),
    /// From a directory below the root of whoever asked.
    CallersFile(PathBuf),
}

/// The root directory of the process that asked; `None` if it asked for nothing relative.
pub type CallersRoot = Option<Arc<OwnedFd>>;

/// What this machine is called in the paths of images; `None` when there are no images for it.
pub fn hardware() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("x86"),
        "aarch64" => Some("arm"),
        "riscv64" => Some("riscv"),
        _ => None,
    }
}

/// How configurations call the machines that there are images for; the first of each is what paths have.
const MACHINES: [&[&str]; 3] = [
    &["x86", "x86_64", "x86-64", "amd64"],
    &["arm", "arm64", "aarch64"],
    &["riscv", "riscv64"],
];

/// Refuses a guest OS for a machine of another kind, which would be noticed at its first start only
/// (protocol.md 8.3, F13). A word that names no machine we know says nothing.
///
/// # Errors
/// `BadConfig`
pub fn for_this_machine(wanted: &str) -> Result<(), GuestOsError> {
    let of = |name: &str| {
        let known = MACHINES.iter().find(|names| names.contains(&name));
        known.map(|names| names[0])
    };
    match (of(&wanted.to_ascii_lowercase()), hardware()) {
        (Some(wanted), Some(here)) if wanted != here => Err(GuestOsError::BadConfig(format!(
            "it is for {wanted}, and this machine is {here} (`hardware`)"
        ))),
        _ => Ok(()),
    }
}

impl Source {
    /// Whether it lies below the root of whoever asked.
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::CallersFile(_))
    }

    /// The file of the guest OS `stem` below a base URL.
    pub fn of(base: &str, hardware: &str, stem: &str, file: &str) -> Result<Self, String> {
        let bad = |reason: &str| format!("update_base_url {:?} {reason}", without_user(base));
        let (scheme, rest) = base
            .split_once("://")
            .ok_or_else(|| bad("must begin with https://, http:// or file://"))?;
        let parts = ["operatingsystems", hardware, stem, file];
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                if rest.contains(['?', '#']) || rest.starts_with('/') || rest.is_empty() {
                    return Err(bad("must be a host and a path, nothing else"));
                }
                let path = parts.map(encoded).join("/");
                Ok(Self::Url(format!("{}/{path}", base.trim_end_matches('/'))))
            }
            "file" if rest.starts_with('/') => {
                let mut path = PathBuf::from(rest);
                path.extend(parts);
                Ok(Self::File(path))
            }
            "file" if !rest.is_empty() => {
                let mut path = PathBuf::from("/");
                path.push(rest);
                path.extend(parts);
                Ok(Self::CallersFile(path))
            }
            _ => Err(bad("must begin with https://, http:// or file://")),
        }
    }
}

impl Source {
    /// Opens the file, if it is one that can be opened here; `None` for those of servers.
    pub fn open(&self, root: &CallersRoot) -> Option<io::Result<File>> {
        let gone = || io::Error::other("whoever asked for it is gone");
        let opened = match self {
            Self::Url(_) => return None,
            // Symbolic links on the way are the operator's.
            Self::File(path) => path
                .canonicalize()
                .and_then(|path| file::open(&path).map_err(|error| error.source)),
            // A link of a container leads nowhere else (protocol.md 8.1, S18).
            Self::CallersFile(path) => root
                .as_ref()
                .ok_or_else(gone)
                .and_then(|root| file::open_in_root(root, path).map_err(|error| error.source)),
        };
        Some(opened)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&without_user(url)),
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::CallersFile(path) => {
                let relative = path.strip_prefix("/").unwrap_or(path);
                write!(f, "file://{}", relative.display())
            }
        }
    }
}

/// A URL as it may be shown: there may be a password in front of the host.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// A path segment as RFC 3986 wants it.
fn encoded(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(base: &str) -> Result<String, String> {
        Source::of(base, "x86", "os-7", "root.img").map(|source| source.to_string())
    }

    #[test]
    fn images_lie_below_hardware_name_and_version() {
        let path = "operatingsystems/x86/os-7/root.img";
        for (base, expected) in [
            ("https://host", "https://host/"),
            ("https://host/", "https://host/"),
            ("http://host:8080/a/b/", "http://host:8080/a/b/"),
            ("HTTP://host", "HTTP://host/"),
            ("file:///srv/images", "file:///srv/images/"),
            ("file://var/volatile/tmp", "file://var/volatile/tmp/"),
        ] {
            assert_eq!(of(base).unwrap(), format!("{expected}{path}"));
        }
        let odd = Source::of("http://h", "x86", "my os-1", "a?b#c.img").unwrap();
        assert_eq!(
            odd,
            Source::Url("http://h/operatingsystems/x86/my%20os-1/a%3Fb%23c.img".into())
        );
    }

    #[test]
    fn what_is_no_base_is_refused() {
        for base in [
            "",
            "host",
            "/srv/images",
            "ftp://host",
            "file://",
            "http://",
            "http:///path",
            "http://host/?x",
            "http://host/#x",
        ] {
            assert!(of(base).unwrap_err().contains("update_base_url"), "{base}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_guest_for_another_machine_is_refused_and_an_unknown_word_is_not() {
        for fine in ["x86", "X86_64", "amd64", "trustx", ""] {
            assert!(for_this_machine(fine).is_ok(), "{fine}");
        }
        for other in ["arm", "aarch64", "riscv"] {
            assert!(
                for_this_machine(other)
                    .unwrap_err()
                    .to_string()
                    .contains("x86")
            );
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = of("https://me:geheim@host/x").unwrap();
        assert!(shown.starts_with("https://host/x/"), "{shown}");
        assert!(!of("ftp://me:geheim@host").unwrap_err().contains("geheim"));
    }
}
