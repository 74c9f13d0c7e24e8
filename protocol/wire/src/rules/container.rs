//! A container's configuration (protocol.md 2.3; SEC-08).

use std::collections::BTreeSet;

use super::{Breach, Breaches, machine, words};
use crate::proto::{ContainerConfig, ContainerTokenType, ContainerType};

/// What is allowed, and yet not what one would expect.
pub fn remarks(config: &ContainerConfig) -> Vec<String> {
    let waits = config.allow_autostart() && config.token_type() != ContainerTokenType::None;
    let remark = "`allow_autostart` does nothing: a container with a token waits for its PIN; only one of \
                  `token_type: NONE` starts by itself";
    waits.then(|| remark.to_owned()).into_iter().collect()
}

/// Everything that would become part of a path, a name in the kernel, or an argument, and must not.
pub fn breaches(config: &ContainerConfig) -> Vec<Breach> {
    let mut found = Breaches::default();
    found.note("name", words::container_name(&config.name));
    found.note("guest_os", words::component(&config.guest_os));
    let kvm = config.r#type() == ContainerType::Kvm;
    found.note(
        "type",
        kvm.then(|| "KVM is not supported; use CONTAINER".into()),
    );
    found.each("init_env", &config.init_env, |word| {
        words::environment(word)
    });
    for (index, size) in config.image_sizes.iter().enumerate() {
        let at = |field| format!("image_sizes[{index}].{field}");
        found.note(at("image_name"), words::component(&size.image_name));
        let file = size.image_file.as_deref();
        found.note(at("image_file"), file.and_then(words::component));
    }
    let mut names = BTreeSet::new();
    for (index, name) in config.fifos.iter().enumerate() {
        let twice = (!names.insert(name)).then(|| format!("{name:?} is there twice"));
        found.note(format!("fifos[{index}]"), words::component(name).or(twice));
    }
    let mut names = BTreeSet::new();
    for (index, vnet) in config.vnet_configs.iter().enumerate() {
        let at = |field| format!("vnet_configs[{index}].{field}");
        let twice = !names.insert(&vnet.if_name);
        let twice = twice.then(|| format!("{:?} is the name of two interfaces", vnet.if_name));
        found.note(at("if_name"), words::own_interface(&vnet.if_name).or(twice));
        found.note(at("if_mac"), vnet.if_mac.as_deref().and_then(words::mac));
        let outside = vnet.if_rootns_name.as_deref();
        found.note(at("if_rootns_name"), outside.and_then(words::interface));
    }
    for (index, nic) in config.net_ifaces.iter().enumerate() {
        let field = format!("net_ifaces[{index}].netif");
        found.note(field, words::host_interface(&nic.netif));
    }
    let dns = config.dns_server.as_deref();
    found.note("dns_server", dns.and_then(words::address));
    resources(config, &mut found);
    found.each("allow_dev", &config.allow_dev, |rule| machine::device(rule));
    found.each("assign_dev", &config.assign_dev, |rule| {
        machine::device(rule)
    });
    for (index, usb) in config.usb_configs.iter().enumerate() {
        found.note(format!("usb_configs[{index}].id"), machine::usb(&usb.id));
    }
    let module = config.pkcs11_module.as_deref();
    found.note("pkcs11_module", module.and_then(words::component));
    found.0
}

fn resources(config: &ContainerConfig, found: &mut Breaches) {
    let cpus = config
        .assign_cpus
        .as_deref()
        .filter(|list| !list.is_empty());
    let bad = cpus.filter(|list| machine::processors(list).is_none());
    found.note(
        "assign_cpus",
        bad.map(|list| format!("{list:?} is no list of processors such as `0-1,3`")),
    );
    let weight = config
        .cpu_weight
        .filter(|weight| !(1..=10_000).contains(weight));
    found.note(
        "cpu_weight",
        weight.map(|weight| format!("{weight} is not between 1 and 10000; 100 is everybody's")),
    );
    let alone = config.swap_limit.filter(|_| config.ram_limit() == 0);
    found.note(
        "swap_limit",
        alone.map(|_| "it needs a `ram_limit` beside it".into()),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::{ContainerImageSize, ContainerPnetConfig, ContainerVnetConfig};

    fn changed(change: impl FnOnce(&mut ContainerConfig)) -> Vec<String> {
        let mut config = ContainerConfig {
            name: "web".into(),
            guest_os: "busybox".into(),
            ..Default::default()
        };
        change(&mut config);
        let found = breaches(&config).into_iter();
        found.map(|breach| breach.field).collect()
    }

    #[test]
    fn a_minimal_configuration_and_one_in_another_language_are_accepted() {
        assert!(changed(|_| {}).is_empty());
        assert!(changed(|c| c.name = "Bücher 2".into()).is_empty());
        assert!(changed(|c| c.dns_server = Some("fd00::1".into())).is_empty());
        assert!(changed(|c| c.assign_cpus = Some("0-1,3".into())).is_empty());
    }

    #[test]
    fn words_that_are_no_plain_names_are_refused() {
        for bad in ["", "..", "a/b", "a\0", "a\nb"] {
            assert_eq!(
                changed(|c| c.guest_os = bad.into()),
                ["guest_os"],
                "{bad:?}"
            );
            assert_eq!(
                changed(|c| c.fifos = vec!["a".into(), bad.into()]),
                ["fifos[1]"]
            );
            assert_eq!(changed(|c| c.init_env = vec![bad.into()]), ["init_env[0]"]);
            let size = ContainerImageSize {
                image_name: bad.into(),
                image_file: Some(bad.into()),
                ..Default::default()
            };
            assert_eq!(
                changed(|c| c.image_sizes = vec![size]),
                ["image_sizes[0].image_name", "image_sizes[0].image_file"]
            );
        }
        for bad in ["", "sixteen-bytes-xx", "a b", "../x", "."] {
            let vnet = ContainerVnetConfig {
                if_name: bad.into(),
                ..Default::default()
            };
            assert_eq!(
                changed(|c| c.vnet_configs = vec![vnet]),
                ["vnet_configs[0].if_name"]
            );
        }
        let vnet = |name: &str, mac: &str| ContainerVnetConfig {
            if_name: name.into(),
            if_mac: Some(mac.into()),
            ..Default::default()
        };
        let mac = "02:00:00:00:00:01";
        assert!(changed(|c| c.vnet_configs = vec![vnet("a", mac), vnet("b", mac)]).is_empty());
        assert_eq!(
            changed(|c| c.vnet_configs = vec![vnet("a", mac), vnet("a", "02:00")]),
            ["vnet_configs[1].if_name", "vnet_configs[1].if_mac"]
        );
        let nic = ContainerPnetConfig {
            netif: "../x".into(),
            // What is wrong here is said when the container starts, and left out.
            mac_filter: vec!["nonsense".into()],
        };
        assert_eq!(
            changed(|c| c.net_ifaces = vec![nic]),
            ["net_ifaces[0].netif"]
        );
        let dns = Some("8.8.8.8; reboot".into());
        assert_eq!(changed(|c| c.dns_server = dns), ["dns_server"]);
        assert_eq!(
            changed(|c| c.assign_cpus = Some("all".into())),
            ["assign_cpus"]
        );
        assert_eq!(changed(|c| c.set_type(ContainerType::Kvm)), ["type"]);
        let twice = vec!["a".into(), "a".into()];
        assert_eq!(changed(|c| c.fifos = twice), ["fifos[1]"]);
        for bad in [0, 10_001] {
            assert_eq!(changed(|c| c.cpu_weight = Some(bad)), ["cpu_weight"]);
        }
        assert_eq!(changed(|c| c.swap_limit = Some(1)), ["swap_limit"]);
        let rules = vec!["c 1:3".into(), "all".into()];
        assert_eq!(changed(|c| c.allow_dev = rules), ["allow_dev[1]"]);
        let uuid = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";
        assert_eq!(changed(|c| c.name = uuid.into()), ["name"]);
    }

    proptest! {
        #[test]
        fn a_name_never_carries_what_a_mount_option_or_a_log_line_gives_a_meaning(
            name in ".{0,70}", bad in prop::sample::select(vec!["+", ",", "=", "\0", "\n", "/"]),
        ) {
            let poisoned = format!("{name}{bad}");
            prop_assert_eq!(changed(|c| c.name = poisoned), ["name"]);
        }
    }
}
