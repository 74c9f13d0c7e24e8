//! Filter and address translation rules, in the language of nft(8), and the switches of forwarding.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use super::namespace::Namespace;
use crate::error::{Context, Error, Result};

/// Directories of system programs, which a daemon's own `PATH` need not have.
const PROGRAMS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Applies rules in a namespace: all of them or none.
///
/// # Errors
/// The program is missing, or what it said about the rules.
pub fn apply(namespace: &Namespace, rules: &str) -> Result<()> {
    namespace.run(|| {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .env_clear()
            .env("PATH", PROGRAMS)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run", "nft (is the package nftables installed?)")?;
        if let Some(mut input) = nft.stdin.take() {
            // What is wrong with it stands in its own words below.
            let _ = input.write_all(rules.as_bytes());
        }
        let output = nft.wait_with_output().context("wait for", "nft")?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::failed(
                "set filter rules with nft".into(),
                String::from_utf8_lossy(&output.stderr).trim(),
            )),
        }
    })
}

/// Whether a namespace passes packets on, by protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Of IP version 4.
    V4,
    /// Of IP version 6.
    V6,
}

impl Forwarding {
    fn path(self) -> &'static str {
        match self {
            Self::V4 => "/proc/sys/net/ipv4/ip_forward",
            Self::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
        }
    }

    /// Whether it is on.
    ///
    /// # Errors
    /// The kernel has no such protocol.
    pub fn is_on(self, namespace: &Namespace) -> Result<bool> {
        let path = self.path();
        namespace.run(|| Ok(fs::read_to_string(path).context("read", path)?.trim() != "0"))
    }

    /// Switches it on.
    ///
    /// # Errors
    /// The kernel has no such protocol, or procfs may not be written.
    pub fn switch_on(self, namespace: &Namespace) -> Result<()> {
        let path = self.path();
        namespace.run(|| fs::write(path, "1").context("write", path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_and_switches_are_those_of_the_namespace() {
        // A new namespace takes this switch over from the machine (devconf_inherit_init_net), so
        // both begin with it off.
        let off = || {
            let made = Namespace::create().unwrap();
            made.run(|| fs::write(Forwarding::V4.path(), "0").context("write", "ip_forward"))
                .unwrap();
            made
        };
        let (here, other) = (off(), off());
        assert!(!Forwarding::V4.is_on(&here).unwrap());
        Forwarding::V4.switch_on(&here).unwrap();
        assert!(Forwarding::V4.is_on(&here).unwrap());
        assert!(!Forwarding::V4.is_on(&other).unwrap());
        apply(&here, "table inet x {}\n").unwrap();
        apply(&here, "delete table inet x\n").unwrap();
        apply(&other, "delete table inet x\n").unwrap_err();
        let error = apply(&here, "tabel inet x {}\n").unwrap_err().to_string();
        assert!(error.contains("tabel"), "{error}");
    }
}
