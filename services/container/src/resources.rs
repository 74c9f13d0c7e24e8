//! What a container may use of processors, memory and process numbers: from its configuration to limits, and
//! from what this machine makes of them to errors and warnings (docs/adr/0050-resources.md).

use std::collections::BTreeSet;

use cml_sys::cgroup::{
    Group,
    limits::{Controller, Limit},
};
use cml_wire::{proto::ContainerConfig, rules::processors};
use serde::Serialize;

/// Limits of the device for containers that name none; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults {
    /// Processes and threads.
    pub pids: u32,
    /// Memory, in MiB.
    pub ram: u32,
}

/// A limit, and who wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// What is to be set.
    pub limit: Limit,
    /// The field of the container's configuration that asks for it; `None` for a default.
    pub asked: Option<&'static str>,
}

const MIB: u64 = 1 << 20;

/// The limits of a container.
pub fn plan(config: &ContainerConfig, defaults: Defaults) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut add = |limit, asked| all.push(Setting { limit, asked });
    let (ram, asked) = match config.ram_limit() {
        0 => (defaults.ram, None),
        asked => (asked, Some("ram_limit")),
    };
    if ram > 0 {
        let memory = u64::from(ram) * MIB;
        let swap = u64::from(config.swap_limit()) * MIB;
        add(Limit::Memory(memory), asked);
        let asked_swap = config.swap_limit.map(|_| "swap_limit");
        add(Limit::Swap { memory, swap }, asked_swap);
        add(Limit::EndTogether, None);
    }
    let (pids, asked) = match config.pids_limit {
        None => (defaults.pids, None),
        Some(pids) => (pids, Some("pids_limit")),
    };
    if pids > 0 {
        add(Limit::Pids(pids.into()), asked);
    }
    if let Some(weight) = config.cpu_weight {
        add(Limit::CpuWeight(weight), Some("cpu_weight"));
    }
    if let Some(cpus) = config.assign_cpus.as_ref().filter(|cpus| !cpus.is_empty()) {
        add(Limit::Cpus(cpus.clone()), Some("assign_cpus"));
    }
    all
}

/// Sets the limits of a group. What was asked for and cannot be had is an error; what nobody asked for, and
/// what is not counted, is a warning.
pub fn apply(group: &Group, settings: &[Setting]) -> Result<Vec<String>, String> {
    let mut unlimited = BTreeSet::new();
    for Setting { limit, asked } in settings {
        if let Limit::Cpus(cpus) = limit {
            exist(cpus)?;
        }
        let set = group.limit(limit).map_err(|error| match asked {
            Some(field) => format!("{field}: {error}"),
            None => format!("default limit: {error}"),
        })?;
        match (set, asked, limit) {
            (true, ..) => {}
            (false, Some(field), _) => return Err(impossible(field, limit.controller())),
            // Without a limit for swap there is none to speak of, if there is no swap.
            (false, None, Limit::EndTogether | Limit::Swap { .. }) => {}
            (false, None, limit) => {
                unlimited.insert(limit.controller());
            }
        }
    }
    for controller in [Controller::Memory, Controller::Pids] {
        if !group.has(controller) {
            unlimited.insert(controller);
        }
    }
    let names: Vec<_> = unlimited
        .iter()
        .map(|controller| controller.name())
        .collect();
    Ok(match names.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "this machine has no control group controller for {}: what the container uses of it is neither \
             limited nor counted",
            names.join(" and ")
        )],
    })
}

fn impossible(field: &str, controller: Controller) -> String {
    format!(
        "`{field}` cannot be kept: the kernel offers no `{}` controller for control groups here; take it out \
         of the configuration, or enable the controller (kernel command line, or mount it)",
        controller.name()
    )
}

/// Processors that are not there would be no limit at all in version 2.
fn exist(cpus: &str) -> Result<(), String> {
    let path = "/sys/devices/system/cpu/online";
    let online = std::fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"))?;
    let online = online.trim();
    let (wanted, there) = (processors(cpus), processors(online));
    match (wanted, there) {
        (Some(wanted), Some(there)) if !wanted.is_subset(&there) => Err(format!(
            "assign_cpus `{cpus}`: this machine has the processors {online}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::cgroup::Hierarchies;

    use super::*;

    const DEFAULTS: Defaults = Defaults { pids: 4096, ram: 0 };

    fn full() -> ContainerConfig {
        ContainerConfig {
            ram_limit: Some(6144),
            swap_limit: Some(512),
            pids_limit: Some(100),
            cpu_weight: Some(50),
            assign_cpus: Some("0".into()),
            ..Default::default()
        }
    }

    #[test]
    fn every_field_becomes_a_limit() {
        insta::assert_json_snapshot!("limits", plan(&full(), DEFAULTS));
    }

    #[test]
    fn a_container_that_asks_for_nothing_gets_the_defaults_of_the_device() {
        let config = ContainerConfig::default();
        let pids = |limit| Setting {
            limit: Limit::Pids(limit),
            asked: None,
        };
        assert_eq!(plan(&config, DEFAULTS), [pids(4096)]);
        assert_eq!(plan(&config, Defaults::default()), []);
        let without = ContainerConfig {
            pids_limit: Some(0),
            ..Default::default()
        };
        assert_eq!(plan(&without, DEFAULTS), []);
        let memory = plan(&config, Defaults { pids: 0, ram: 64 });
        assert_eq!(memory[0].limit, Limit::Memory(64 << 20));
        assert!(memory.iter().all(|setting| setting.asked.is_none()));
    }

    #[test]
    fn what_was_asked_for_must_be_kept_and_the_rest_is_told() {
        let nothing = Hierarchies::default().group("x");
        let error = apply(&nothing, &plan(&full(), DEFAULTS)).unwrap_err();
        assert!(
            error.contains("`ram_limit`") && error.contains("`memory`"),
            "{error}"
        );
        let defaults = plan(&ContainerConfig::default(), DEFAULTS);
        let warnings = apply(&nothing, &defaults).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("memory and pids"), "{warnings:?}");
    }

    #[test]
    fn processors_that_do_not_exist_are_refused_by_their_numbers() {
        let error = exist("0-8191").unwrap_err();
        assert!(
            error.contains("this machine has the processors 0"),
            "{error}"
        );
        assert_eq!(exist("0"), Ok(()));
    }
}
