//! Making, asking and removing devices.

use std::{
    fs::File,
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{
    Target, node,
    request::{Command, Request, records, u32_at, until_zero},
};
use crate::error::{Context, Error, Result};

/// How often a busy device is tried again.
const POLL: Duration = Duration::from_millis(50);
/// How long the removal of a half-made device may take. Nobody but a prober can have it open.
const UNDO_PATIENCE: Duration = Duration::from_secs(2);
/// What udev is told with every event of our devices: look for no subsystem's data on them, show them
/// to no scanner, make no links to them. Scanners hold devices open that are to be removed (LIF-09).
/// These are flags in the upper half of the cookie; the lower half would be a semaphore to signal.
const KEEP_UDEV_OFF: u32 = (UDEV_NO_SUBSYSTEM | UDEV_NO_DISK | UDEV_NO_OTHER | UDEV_PRIMARY) << 16;
const UDEV_NO_SUBSYSTEM: u32 = 0x02;
const UDEV_NO_DISK: u32 = 0x04;
const UDEV_NO_OTHER: u32 = 0x08;
/// The event is of the device's maker, so its flags count.
const UDEV_PRIMARY: u32 = 0x40;

/// The device mapper.
#[derive(Debug)]
pub struct Control(File);

/// A type of target that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetVersion {
    /// As it stands in tables.
    pub name: String,
    /// Major, minor and patch level.
    pub version: [u32; 3],
}

/// A device in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its node.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
}

impl Control {
    /// Opens the device mapper; its node is made if it is missing.
    ///
    /// # Errors
    /// The kernel has no device mapper, or we may not use it.
    pub fn open() -> Result<Self> {
        node::open_control().map(Self)
    }

    /// The types of targets that are loaded. One that is not may still be in a module:
    /// [`Control::has_target`] tells.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn targets(&self) -> Result<Vec<TargetVersion>> {
        let mut request = Request::about("")?;
        request.expect_answer();
        request.perform(&self.0, Command::ListVersions, "list device-mapper targets")?;
        Ok(target_versions(request.data()))
    }

    /// Whether the kernel has a type of target; its module is loaded if that is needed.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn has_target(&self, name: &str) -> Result<bool> {
        let mut request = Request::about(name)?;
        request.expect_answer();
        match request.send(&self.0, Command::GetTargetVersion) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            // Kernels before 5.4 cannot be asked for one.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                Ok(self.targets()?.iter().any(|target| target.name == name))
            }
            Err(error) => Err(error).context("look for device-mapper target", name),
        }
    }

    /// Makes a device of one target and puts it to use.
    ///
    /// Nothing is left behind by a failure. What exactly the kernel disliked about a table is only in
    /// its log.
    ///
    /// # Errors
    /// A device of this name or UUID exists ([`io::ErrorKind::AlreadyExists`]), the name cannot be one,
    /// or the kernel refused the table.
    pub fn create(
        &self,
        name: &str,
        uuid: Option<&str>,
        read_only: bool,
        sectors: u64,
        target: &Target,
    ) -> Result<Device> {
        let number = self.create_empty(name, uuid, read_only)?;
        self.fill(name, read_only, sectors, target)
            .and_then(|()| node::provide(name, number))
            .map(|path| Device {
                name: name.to_owned(),
                path,
                number,
            })
            .inspect_err(|_| {
                // The first error is the one to tell; a device that stays is found by `list`.
                let _ = self.remove(name, UNDO_PATIENCE);
            })
    }

    fn create_empty(&self, name: &str, uuid: Option<&str>, read_only: bool) -> Result<u64> {
        const ACTION: &str = "create device";
        if name.is_empty() {
            return Err(Error::invalid(ACTION, name, "the name is empty"));
        }
        let mut request = Request::about(name)?;
        if let Some(uuid) = uuid {
            request.uuid(uuid)?;
        }
        request.read_only(read_only);
        request
            .send(&self.0, Command::DevCreate)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a device of this name or UUID exists already",
                ),
                _ => error,
            })
            .context(ACTION, name)?;
        Ok(request.header().device)
    }

    /// Loads the table and resumes the device. A busy answer is not tried again: it means that someone
    /// has claimed a device below for himself, and that does not pass.
    fn fill(&self, name: &str, read_only: bool, sectors: u64, target: &Target) -> Result<()> {
        let mut load = Request::about(name)?;
        load.read_only(read_only);
        load.table(sectors, target)?;
        load.perform(&self.0, Command::TableLoad, "load table of device")?;
        let mut resume = Request::about(name)?;
        resume.cookie(KEEP_UDEV_OFF);
        resume.perform(&self.0, Command::DevSuspend, "start device")
    }

    /// Removes a device, and waits for others to close it. Absent is fine.
    ///
    /// # Errors
    /// It is still busy when the patience ends (`EBUSY`), or the kernel refused.
    pub fn remove(&self, name: &str, patience: Duration) -> Result<()> {
        let Some(number) = self.number(name)? else {
            return Ok(());
        };
        let deadline = Instant::now() + patience;
        loop {
            let mut request = Request::about(name)?;
            request.cookie(KEEP_UDEV_OFF);
            match request.send(&self.0, Command::DevRemove) {
                Ok(()) => return node::withdraw(name, number),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENXIO) => return node::withdraw(name, number),
                    Some(libc::EBUSY) if Instant::now() < deadline => thread::sleep(POLL),
                    _ => return Err(error).context("remove device", name),
                },
            }
        }
    }

    /// Removes a device as soon as nobody uses it, which may be now. Absent is fine. The kernel sees to it
    /// even if we end before that.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove_when_unused(&self, name: &str) -> Result<()> {
        let Some(number) = self.number(name)? else {
            return Ok(());
        };
        let mut request = Request::about(name)?;
        request.deferred();
        request.cookie(KEEP_UDEV_OFF);
        match request.send(&self.0, Command::DevRemove) {
            // Where we have made the node it goes at once; whoever uses the device has it open.
            Ok(()) => node::withdraw(name, number),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => node::withdraw(name, number),
            Err(error) => Err(error).context("remove device", name),
        }
    }

    /// The number of a device, if there is one of this name.
    fn number(&self, name: &str) -> Result<Option<u64>> {
        let mut request = Request::about(name)?;
        match request.send(&self.0, Command::DevStatus) {
            Ok(()) => Ok(Some(request.header().device)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error).context("look for device", name),
        }
    }

    /// What the target of a device says about itself, without keys: `V` of a verity device that has
    /// seen no corruption, `C` of one that has.
    ///
    /// # Errors
    /// There is no such device.
    pub fn status(&self, name: &str) -> Result<String> {
        let mut request = Request::about(name)?;
        request.expect_answer();
        request.perform(&self.0, Command::TableStatus, "ask for status of device")?;
        Ok(request.status())
    }

    /// The names of all devices, whoever made them.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut request = Request::about("")?;
        request.expect_answer();
        request.perform(&self.0, Command::ListDevices, "list devices of the mapper")?;
        Ok(device_names(request.data()))
    }
}

/// Reads records of `struct dm_name_list`: device u64, next u32, name. A device number of zero says that
/// there are none.
fn device_names(data: &[u8]) -> Vec<String> {
    records(data, |record| u32_at(record, 8))
        .filter(|record| record.iter().take(8).any(|byte| *byte != 0))
        .filter_map(|record| record.get(12..))
        .map(until_zero)
        .collect()
}

/// Reads records of `struct dm_target_versions`: next u32, version 3 × u32, name.
fn target_versions(data: &[u8]) -> Vec<TargetVersion> {
    records(data, |record| u32_at(record, 0))
        .filter_map(|record| {
            Some(TargetVersion {
                name: until_zero(record.get(16..)?),
                version: [u32_at(record, 4)?, u32_at(record, 8)?, u32_at(record, 12)?],
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_from_the_kernels_list() {
        let mut data = Vec::new();
        for (next, name) in [(24_u32, b"first\0\0\0\0\0\0\0"), (0, b"second\0\0\0\0\0\0")] {
            data.extend_from_slice(&0xfe00_u64.to_ne_bytes());
            data.extend_from_slice(&next.to_ne_bytes());
            data.extend_from_slice(name);
        }
        assert_eq!(device_names(&data), ["first", "second"]);
        assert!(device_names(&[0; 24]).is_empty());
        assert!(device_names(&[]).is_empty());
        assert!(device_names(&[1; 9]).is_empty());
    }

    #[test]
    fn target_versions_are_read_from_the_kernels_list() {
        let mut data = Vec::new();
        for (next, name) in [(24_u32, b"crypt\0\0\0"), (0, b"linear\0\0")] {
            for number in [next, 1, 24, 0] {
                data.extend_from_slice(&number.to_ne_bytes());
            }
            data.extend_from_slice(name);
        }
        let found = target_versions(&data);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "crypt");
        assert_eq!(found[1].name, "linear");
        assert_eq!(found[1].version, [1, 24, 0]);
        assert!(target_versions(&[0; 15]).is_empty());
    }
}
