//! What is allowed in a configuration, and yet not what an operator would expect. Pure.

use cml_wire::{
    proto::{ContainerConfig, GuestOsConfig},
    rules::Ruled,
};

/// About a configuration with the guest OS that it gets.
pub fn of(config: &ContainerConfig, guestos: &GuestOsConfig) -> Vec<String> {
    let mut remarks = config.remarks();
    let images = guestos.mounts.iter().chain(&guestos.mounts_setup);
    for size in &config.image_sizes {
        let name = &size.image_name;
        if !images.clone().any(|mount| mount.image_file == *name) {
            let os = &guestos.name;
            remarks.push(format!(
                "`image_sizes` names `{name}`, which guest OS `{os}` does not have; it does nothing"
            ));
        }
    }
    remarks
}

/// About a configuration that takes the place of another one.
pub fn of_change(from: &ContainerConfig, to: &ContainerConfig, wipes: bool) -> Vec<String> {
    if wipes {
        return vec![
            "the container has another token now: it was ended if it ran, and what it had stored is deleted"
                .into(),
        ];
    }
    let changed = to.image_sizes.iter().filter(|size| {
        let mut before = from.image_sizes.iter();
        let before = before.find(|before| before.image_name == size.image_name);
        before.is_some_and(|before| before.image_size != size.image_size)
    });
    changed
        .map(|size| {
            let name = &size.image_name;
            format!("a volume `{name}` that exists keeps its size until the container is wiped")
        })
        .collect()
}

/// About a name that others have as well, so many.
pub fn of_name(name: &str, others: usize) -> Option<String> {
    (others > 0).then(|| {
        format!(
            "{others} more are called `{name}`: commands need its UUID to be sure which is meant"
        )
    })
}

#[cfg(test)]
mod tests {
    use cml_wire::proto::{ContainerImageSize, ContainerTokenType, GuestOsMount};

    use super::*;

    fn with_size(name: &str, size: u64) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        config.set_token_type(ContainerTokenType::None);
        config.image_sizes = vec![ContainerImageSize {
            image_name: name.into(),
            image_size: size,
            ..Default::default()
        }];
        config
    }

    fn guestos() -> GuestOsConfig {
        GuestOsConfig {
            name: "os".into(),
            mounts: vec![GuestOsMount {
                image_file: "data".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn sizes_of_what_is_not_there_are_remarked() {
        assert_eq!(of(&with_size("data", 1), &guestos()), [""; 0]);
        assert!(of(&with_size("dta", 1), &guestos())[0].contains("`dta`"));
    }

    #[test]
    fn an_autostart_that_waits_for_a_pin_is_remarked() {
        let mut config = with_size("data", 1);
        config.allow_autostart = Some(true);
        assert_eq!(of(&config, &guestos()), [""; 0]);
        config.set_token_type(ContainerTokenType::Soft);
        assert!(of(&config, &guestos())[0].contains("token_type: NONE"));
    }

    #[test]
    fn a_change_that_deletes_or_does_nothing_is_remarked() {
        let (small, large) = (with_size("data", 1), with_size("data", 2));
        assert_eq!(of_change(&small, &small, false), [""; 0]);
        assert!(of_change(&small, &large, false)[0].contains("keeps its size"));
        assert!(of_change(&small, &small, true)[0].contains("deleted"));
    }
}
