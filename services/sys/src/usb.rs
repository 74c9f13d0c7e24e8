//! USB devices as sysfs shows them.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::device::{Device, Kind};

/// Vendor and product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsbId {
    /// Who made it.
    pub vendor: u16,
    /// What it is.
    pub product: u16,
}

/// A text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not `vendor:product` in hexadecimal")]
pub struct BadUsbId(String);

/// `1d6b:0002`, with or without `0x` before the numbers (runtime.md 6.2).
impl FromStr for UsbId {
    type Err = BadUsbId;

    fn from_str(text: &str) -> Result<Self, BadUsbId> {
        let number = |text: &str| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|_| plain)
        };
        text.split_once(':')
            .and_then(|(vendor, product)| {
                Some(Self {
                    vendor: number(vendor)?,
                    product: number(product)?,
                })
            })
            .ok_or_else(|| BadUsbId(text.to_owned()))
    }
}

/// A device that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbDevice {
    /// What it is.
    pub id: UsbId,
    /// Its serial number; many have none.
    pub serial: Option<String>,
    /// Its node.
    pub device: Device,
    /// The name of its node below `/dev`, such as `bus/usb/001/002`.
    pub node: PathBuf,
}

/// All devices that are plugged in, in the order of their ports. A machine without USB has none.
pub fn all(sys: &Path) -> Vec<UsbDevice> {
    let entries = fs::read_dir(sys.join("bus/usb/devices"));
    let mut paths: Vec<_> = entries.into_iter().flatten().flatten().collect();
    paths.sort_by_key(fs::DirEntry::file_name);
    paths.iter().filter_map(|entry| at(&entry.path())).collect()
}

/// The device behind a directory of sysfs; `None` for anything else, such as an interface of a device.
pub fn at(dir: &Path) -> Option<UsbDevice> {
    let attribute = |name: &str| {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    let hexadecimal = |name| u16::from_str_radix(&attribute(name)?, 16).ok();
    let event = fs::read_to_string(dir.join("uevent")).ok()?;
    let field = |name: &str| {
        event
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    Some(UsbDevice {
        id: UsbId {
            vendor: hexadecimal("idVendor")?,
            product: hexadecimal("idProduct")?,
        },
        serial: attribute("serial").filter(|serial| !serial.is_empty()),
        device: Device {
            kind: Kind::Char,
            major: field("MAJOR")?.parse().ok()?,
            minor: field("MINOR")?.parse().ok()?,
        },
        node: field("DEVNAME")?.into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plug(sys: &Path, port: &str, id: (&str, &str), serial: Option<&str>, minor: u32) {
        let dir = sys.join("bus/usb/devices").join(port);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("idVendor"), format!("{}\n", id.0)).unwrap();
        fs::write(dir.join("idProduct"), format!("{}\n", id.1)).unwrap();
        if let Some(serial) = serial {
            fs::write(dir.join("serial"), format!("{serial}\n")).unwrap();
        }
        let event = format!(
            "MAJOR=189\nMINOR={minor}\nDEVNAME=bus/usb/001/{:03}\nDEVTYPE=usb_device\n",
            minor + 1
        );
        fs::write(dir.join("uevent"), event).unwrap();
    }

    #[test]
    fn devices_are_found_with_their_nodes_and_equal_ones_are_told_apart() {
        let sys = tempfile::tempdir().unwrap();
        assert!(all(sys.path()).is_empty());
        plug(sys.path(), "1-1", ("0627", "0001"), Some("A"), 1);
        plug(sys.path(), "1-2", ("0627", "0001"), None, 2);
        // An interface has no identity of its own.
        let interface = sys.path().join("bus/usb/devices/1-1:1.0");
        fs::create_dir_all(&interface).unwrap();
        fs::write(interface.join("uevent"), "DEVTYPE=usb_interface\n").unwrap();
        let found = all(sys.path());
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].id, "0x0627:0x1".parse().unwrap());
        assert_eq!(found[0].serial.as_deref(), Some("A"));
        assert_eq!(found[1].serial, None);
        assert_eq!(found[1].device.to_string(), "c 189:2");
        assert_eq!(found[1].node, Path::new("bus/usb/001/003"));
    }

    #[test]
    fn identities_are_two_hexadecimal_numbers() {
        for bad in [
            "", ":", "1d6b", "1d6b:", "1d6b:2:3", "+1:2", "10000:1", "g:1",
        ] {
            assert!(bad.parse::<UsbId>().is_err(), "{bad}");
        }
    }
}
