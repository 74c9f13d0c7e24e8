//! What the device says about itself: `device.conf` and the provisioned flag (protocol.md 2.6, 7.3).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cml_guestos::Targets;

use cml_wire::{
    proto::{DeviceConfig, device_config::ProvisionedProfile},
    rules::{self, Mistake},
};

/// Exists once the device was put into provisioned mode.
pub const PROVISIONED_FLAG: &str = "_cml_provisioned_";

/// The device as it was when the daemon started.
#[derive(Debug, Clone)]
pub struct Device {
    /// `device.conf`
    pub config: DeviceConfig,
    /// Only the life cycle of containers may be commanded.
    pub provisioned: bool,
}

/// `device.conf` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not there, or not readable.
    #[error("cannot read `{path}`: {source}; an empty file is a valid one")]
    Unreadable {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is no configuration, or a value means nothing.
    #[error("`{path}`: {source}; `control check {path}` shows all mistakes")]
    Invalid {
        /// The file.
        path: String,
        /// Line, column and what is wrong there.
        source: Mistake,
    },
}

impl Device {
    /// Reads the configuration and the flag.
    ///
    /// # Errors
    /// The configuration is missing or wrong.
    pub fn read(conf: &Path, base: &Path) -> Result<Self, DeviceError> {
        let path = conf.join("device.conf");
        let shown = path.display().to_string();
        let bytes = cml_sys::file::read(&path).map_err(|error| DeviceError::Unreadable {
            path: shown.clone(),
            source: error.source,
        })?;
        let config = rules::read(&bytes).map_err(|source| DeviceError::Invalid {
            path: shown,
            source,
        })?;
        Ok(Self {
            config,
            provisioned: is_set(&base.join(PROVISIONED_FLAG)),
        })
    }

    /// Where guest OSes may write images outside the store. A host is not theirs unless it says so.
    pub fn flash_targets(&self) -> Targets {
        let named = &self.config.flash_targets;
        match named.is_empty() && !self.config.hostedmode {
            true => Targets::Anywhere,
            false => Targets::Within(named.iter().map(PathBuf::from).collect()),
        }
    }

    /// The wider set of commands in provisioned mode.
    pub fn extended_profile(&self) -> bool {
        self.config.provisioned_profile() == ProvisionedProfile::Extended
    }
}

/// Only a flag that is certainly not there is not set: a disk that cannot be read must not open a device up.
fn is_set(flag: &Path) -> bool {
    let found = fs::symlink_metadata(flag);
    !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_device() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("device.conf"), "").unwrap();
        let device = Device::read(dir.path(), dir.path()).unwrap();
        assert!(device.config.signed_configs());
        assert!(!device.provisioned);
        fs::write(dir.path().join(PROVISIONED_FLAG), "").unwrap();
        assert!(Device::read(dir.path(), dir.path()).unwrap().provisioned);
    }

    #[test]
    fn a_mistake_is_reported_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Device::read(dir.path(), dir.path()),
            Err(DeviceError::Unreadable { .. })
        ));
        fs::write(
            dir.path().join("device.conf"),
            "hostedmode: true\nhost: 1\n",
        )
        .unwrap();
        let error = Device::read(dir.path(), dir.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 2, column 1"), "{error}");
        fs::write(
            dir.path().join("device.conf"),
            "hostedmode: true\nhost_dns: \"dns\"\n",
        )
        .unwrap();
        let error = Device::read(dir.path(), dir.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2, column 11: `host_dns`: \"dns\" is no IP address"),
            "{error}"
        );
    }
}
