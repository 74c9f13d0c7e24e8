//! From a configuration to the devices that a container wants: pure.

use cml_sys::{
    device::{Access, Rule},
    usb::{UsbDevice, UsbId},
};
use cml_wire::proto::{ContainerConfig, ContainerUsbType};
use serde::Serialize;

/// What a container wants beside the default list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Together with others.
    pub shared: Vec<Rule>,
    /// For itself.
    pub own: Vec<Rule>,
    /// USB devices by what they are.
    #[serde(skip)]
    pub usb: Vec<Usb>,
}

/// A USB device that is given to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usb {
    id: UsbId,
    /// Empty for any.
    serial: String,
    /// Exclusively.
    pub assign: bool,
}

impl Usb {
    /// Whether it is this one. A device without a serial number is not taken for one that was named by its number:
    /// of two equal devices it might be the other one (runtime.md 6.2 has it both ways).
    pub fn matches(&self, device: &UsbDevice) -> bool {
        self.id == device.id
            && (self.serial.is_empty() || device.serial.as_ref() == Some(&self.serial))
    }
}

impl Wanted {
    /// What a configuration wants; what the rules of configurations refuse counts as absent.
    pub fn of(config: &ContainerConfig) -> Self {
        let rules = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            shared: rules(&config.allow_dev),
            own: rules(&config.assign_dev),
            usb: usb(config),
        }
    }

    /// One rule more.
    pub fn grant(&mut self, own: bool, rule: Rule) {
        match own {
            true => self.own.push(rule),
            false => self.shared.push(rule),
        }
    }
}

/// Tokens and keypads are the daemon's, and never given away (runtime.md 6.2).
pub fn usb(config: &ContainerConfig) -> Vec<Usb> {
    let generic = config
        .usb_configs
        .iter()
        .filter(|usb| usb.r#type() == ContainerUsbType::Generic);
    generic
        .filter_map(|usb| {
            Some(Usb {
                id: usb.id.parse().ok()?,
                serial: usb.serial.clone(),
                assign: usb.assign,
            })
        })
        .collect()
}

/// The default list (runtime.md 2.8).
pub fn defaults() -> impl Iterator<Item = Rule> {
    cml_sys::plan::DEVICES
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|rule: &Rule| rule.access == Access::ALL)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::device::{Device, Kind};
    use cml_wire::proto::ContainerUsbConfig;
    use proptest::prelude::*;

    use super::*;

    fn device(serial: Option<&str>) -> UsbDevice {
        UsbDevice {
            id: "0627:0001".parse().unwrap(),
            serial: serial.map(ToOwned::to_owned),
            device: Device {
                kind: Kind::Char,
                major: 189,
                minor: 1,
            },
            node: "bus/usb/001/002".into(),
        }
    }

    fn config(serial: &str, kind: ContainerUsbType) -> ContainerConfig {
        ContainerConfig {
            allow_dev: vec!["c 10:235 r".into()],
            assign_dev: vec!["b 8:*".into()],
            usb_configs: vec![ContainerUsbConfig {
                id: "0627:0001".into(),
                serial: serial.into(),
                assign: true,
                r#type: kind.into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_default_list_is_complete() {
        assert_eq!(defaults().count(), cml_sys::plan::DEVICES.len());
    }

    #[test]
    fn equal_devices_are_told_apart_by_their_serial_number() {
        let named = usb(&config("A", ContainerUsbType::Generic));
        let matches = |usb: &[Usb], serial| usb.iter().any(|usb| usb.matches(&device(serial)));
        assert!(matches(&named, Some("A")));
        assert!(!matches(&named, Some("AB")));
        assert!(!matches(&named, None));
        let any = usb(&config("", ContainerUsbType::Generic));
        assert!(matches(&any, Some("A")) && matches(&any, None));
    }

    #[test]
    fn tokens_and_keypads_are_given_to_nobody() {
        for kind in [ContainerUsbType::Token, ContainerUsbType::PinEntry] {
            assert!(usb(&config("", kind)).is_empty());
        }
        let wanted = Wanted::of(&config("", ContainerUsbType::Generic));
        assert_eq!(wanted.shared[0].to_string(), "c 10:235 r");
        assert_eq!(wanted.own[0].to_string(), "b 8:* rwm");
    }

    proptest! {
        /// The rules of configurations stand in wire, which knows nothing of the kernel.
        #[test]
        fn what_a_configuration_may_say_is_what_is_understood(
            text in "[cbax]? ?[0-9*+]{1,5}:[0-9*x]{1,8} ?[rwmx]{0,3}", id in "(0x)?[0-9a-g]{1,5}:[0-9a-f]{1,5}",
        ) {
            let accepted = cml_wire::rules::device(&text).is_none();
            prop_assert_eq!(accepted, text.parse::<Rule>().is_ok());
            let accepted = cml_wire::rules::usb(&id).is_none();
            prop_assert_eq!(accepted, id.parse::<UsbId>().is_ok());
        }
    }
}
