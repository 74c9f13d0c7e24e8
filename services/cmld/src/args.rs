//! The command line of the daemon.

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::Parser;

/// Where `cml-init` is below the prefix that the daemon is installed in, unless it lies beside it.
const INSTALLED_INIT: &str = "libexec/cml/cml-init";

const MORE_HELP: &str = "\
Signals:
  TERM, INT  stop all containers and end; a second one ends at once and leaves them running,
             and the next cmld takes them over

Environment:
  CML_LOG    what is logged, as in `info` (default), `debug`, `cml_container=trace`

Exit status:
  0   stopped as asked
  1   cannot start; the reason is on standard error
  70  a service died again and again; running containers are left alone";

/// The container management layer's daemon.
#[derive(Debug, Parser)]
#[command(name = "cmld", version, after_help = MORE_HELP)]
pub struct Args {
    /// Directory of everything durable: guest OSes, containers, tokens, keys
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cml")]
    pub base: PathBuf,

    /// Directory of `device.conf`
    #[arg(long, value_name = "DIR", default_value = "/etc/cml")]
    pub conf: PathBuf,

    /// Directory of the log files
    #[arg(long, value_name = "DIR", default_value = "/var/log/cml")]
    pub logs: PathBuf,

    /// Directory of the audit log [default: `audit` in the storage base]
    #[arg(long, value_name = "DIR")]
    pub audit: Option<PathBuf>,

    /// Directory of the control socket and of all that means nothing after a reboot
    #[arg(long, value_name = "DIR", default_value = "/run/socket")]
    pub run: PathBuf,

    /// This machine is the daemon's own: `reboot` restarts it, and the end of core0 switches it off. Means nothing
    /// unless process 1 has started the daemon, nor with `hostedmode`
    #[arg(long)]
    pub device: bool,

    /// The static program that becomes every container [default: beside cmld, else
    /// ../libexec/cml/cml-init from there]
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,

    /// The storage base, as the existing daemon takes it; the same as --base
    #[arg(value_name = "BASE", conflicts_with = "base")]
    positional_base: Option<PathBuf>,
}

impl Args {
    /// The storage base, however it was given.
    pub fn base(&self) -> PathBuf {
        self.positional_base
            .clone()
            .unwrap_or_else(|| self.base.clone())
    }

    /// The directory of the audit log.
    pub fn audit(&self) -> PathBuf {
        let inside = || self.base().join("audit");
        self.audit.clone().unwrap_or_else(inside)
    }

    /// The program that becomes every container.
    pub fn init(&self) -> PathBuf {
        let found = || Some(init_of(env::current_exe().ok()?.parent()?));
        self.init
            .clone()
            .or_else(found)
            .unwrap_or_else(|| Path::new("/usr").join(INSTALLED_INIT))
    }
}

/// The `cml-init` of a daemon in this directory.
fn init_of(dir: &Path) -> PathBuf {
    let beside = dir.join("cml-init");
    match dir.parent() {
        Some(prefix) if !beside.exists() => prefix.join(INSTALLED_INIT),
        _ => beside,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_program_that_becomes_containers_is_found_wherever_both_were_installed() {
        let dir = tempfile::tempdir().unwrap();
        let sbin = dir.path().join("sbin");
        let installed = dir.path().join("libexec/cml/cml-init");
        assert_eq!(init_of(&sbin), installed);
        std::fs::create_dir(&sbin).unwrap();
        std::fs::write(sbin.join("cml-init"), "").unwrap();
        assert_eq!(init_of(&sbin), sbin.join("cml-init"));
    }

    #[test]
    fn the_base_can_be_given_as_the_existing_daemon_takes_it() {
        let base = |words: &[&str]| Args::try_parse_from(words).unwrap().base();
        assert_eq!(base(&["cmld"]), PathBuf::from("/var/lib/cml"));
        assert_eq!(base(&["cmld", "/srv"]), PathBuf::from("/srv"));
        assert_eq!(base(&["cmld", "--base", "/srv"]), PathBuf::from("/srv"));
    }
}
