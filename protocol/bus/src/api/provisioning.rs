//! The provisioning service: the device as a whole. Its identity, its mode, its figures, its logs, its reboot.

use cml_wire::proto::DeviceStats;
use tokio::sync::mpsc;

use crate::{
    api::{container::ContainerError, token::TokenError},
    error::BusError,
};

/// The certificate request of the device, PEM (protocol.md 7.2). Only while the device is not provisioned.
#[derive(Debug)]
pub struct PullCsr;

/// Takes the certificate that a CA made for the request. Only while the device is not provisioned.
#[derive(Debug)]
pub struct PushCert {
    /// PEM: that of the device first, then intermediates.
    pub certificate: Vec<u8>,
}

/// Puts the device into provisioned mode, for good. The mode holds everywhere when the answer comes.
#[derive(Debug)]
pub struct SetProvisioned;

/// Stops all containers, then reboots the machine if it is the daemon's own.
#[derive(Debug)]
pub struct Reboot;

/// The answer to [`Reboot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebooted {
    /// So many containers ran and have stopped.
    pub stopped: usize,
    /// What has gone wrong with the others, which does not keep a machine from going down.
    pub trouble: Option<String>,
    /// What becomes of the machine.
    pub machine: Outlook,
}

/// What becomes of the machine after a [`Reboot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It is about to go down.
    GoesDown,
    /// It is a host: somebody else's.
    Hosted,
    /// It should be the daemon's own, but the daemon was not started as its master.
    NoMaster,
}

/// Room on disks and in memory.
#[derive(Debug)]
pub struct Stats;

/// The log files of the daemon, one after the other.
#[derive(Debug)]
pub struct Logs;

/// A piece of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The name of the file, without its directory.
    pub name: String,
    /// The bytes.
    pub data: Vec<u8>,
    /// The file ends here.
    pub last: bool,
}

/// The answer to [`Logs`]. Dropping it ends the reading.
#[derive(Debug)]
pub struct LogStream {
    /// The identity of the device, if it has one yet.
    pub device: Option<String>,
    /// Bounded: a client that reads slowly holds the reader back.
    pub parts: mpsc::Receiver<LogItem>,
}

/// What comes out of a [`LogStream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A piece of a file that is not empty.
    Part(LogPart),
    /// A file was read to its end, or was empty.
    Done(String),
}

/// Deletes log files that a client has received. The one that is being written is left alone, silently.
#[derive(Debug)]
pub struct RemoveLogs {
    /// Names as in [`LogPart`].
    pub names: Vec<String>,
}

/// Makes everything on the device unreadable by clearing its TPM (protocol.md 3.4).
#[derive(Debug)]
pub struct Destroy;

/// Why the provisioning service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvisioningError {
    /// The time for it is over.
    #[error("the device is provisioned: its identity cannot be changed any more")]
    Provisioned,
    /// There is nothing to destroy the keys of the device in.
    #[error("{0}; `control wipe_device` destroys what all containers have stored")]
    NoTpm(&'static str),
    /// Containers did not stop in time.
    #[error("{0} did not stop; stop or remove them and try again")]
    StillRunning(String),
    /// A file cannot be read or written.
    #[error("`{path}`: {reason}")]
    Store {
        /// The file or directory.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// There is no log file with this name.
    #[error("there is no log file `{0}`")]
    NoSuchLog(String),
    /// The token service.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The container service.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The bus could not deliver.
    #[error(transparent)]
    Bus(#[from] BusError),
}

// The device may have to make its key first, which takes seconds for RSA.
crate::request!(PullCsr => Vec<u8>, ProvisioningError, "provisioning.pull_csr", 130 s);
crate::request!(PushCert => (), ProvisioningError, "provisioning.push_cert", 130 s);
crate::request!(SetProvisioned => (), ProvisioningError, "provisioning.set_provisioned", 20 s);
crate::request!(Reboot => Rebooted, ProvisioningError, "provisioning.reboot", 70 s);
crate::request!(Stats => DeviceStats, ProvisioningError, "provisioning.stats", 10 s);
crate::request!(Logs => LogStream, ProvisioningError, "provisioning.logs", 20 s);
crate::request!(RemoveLogs => (), ProvisioningError, "provisioning.remove_logs", 20 s);
crate::request!(Destroy => (), ProvisioningError, "provisioning.destroy", 20 s);

crate::service_port! {
    /// What the holder may ask of the provisioning service.
    ProvisioningPort {
        /// The certificate request.
        pull_csr: PullCsr,
        /// The signed certificate.
        push_cert: PushCert,
        /// Provisioned mode.
        set_provisioned: SetProvisioned,
        /// Stop everything, and reboot.
        reboot: Reboot,
        /// Figures.
        stats: Stats,
        /// Log files.
        logs: Logs,
        /// Delete log files.
        remove_logs: RemoveLogs,
        /// Clear the TPM.
        destroy: Destroy,
    }
}
