//! The walls of design.md section 2: who may depend on whom.

use std::{collections::BTreeSet, fs, path::Path};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

fn metadata() -> Metadata {
    // Packages for other systems are in the lock file and need not be on this machine.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut options = ["--locked", "--offline", "--filter-platform"]
        .map(str::to_owned)
        .to_vec();
    options.push(platform);
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .other_options(options)
        .exec()
        .unwrap()
}

/// Names of what a package depends on; what it only needs for its own tests counts for workspace crates.
fn dependencies(package: &Package, with_tests: bool) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| with_tests || dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .collect()
}

const SERVICES: [&str; 7] = [
    "cml-audit",
    "cml-token",
    "cml-guestos",
    "cml-network",
    "cml-container",
    "cml-provisioning",
    "cml-gateway",
];

/// The workspace crates that a workspace crate may name.
fn allowed(package: &str) -> &'static [&'static str] {
    match package {
        "cml-wire" | "cml-sys" => &[],
        // Decided: one definition of the plain configuration types (docs/adr/0001-bus-uses-wire-types.md).
        "cml-bus" => &["cml-wire"],
        "cml-init" => &["cml-sys"],
        // It translates; it touches no system.
        "cml-gateway" => &["cml-bus", "cml-wire"],
        "cml-audit" | "cml-token" | "cml-guestos" | "cml-network" | "cml-container"
        | "cml-provisioning" => &["cml-bus", "cml-sys", "cml-wire"],
        "control-cli" | "cml-integration" | "cml-probe" | "cml-bench" => {
            &["cml-wire", "cml-integration"]
        }
        "cmld" => &[
            "cml-audit",
            "cml-bus",
            "cml-container",
            "cml-gateway",
            "cml-guestos",
            "cml-network",
            "cml-provisioning",
            "cml-sys",
            "cml-token",
            "cml-wire",
        ],
        other => panic!("`{other}` has no place in the house: decide what it may depend on"),
    }
}

#[test]
fn a_crate_names_only_the_crates_it_may() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let ours: BTreeSet<_> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in &packages {
        for dependency in dependencies(package, true) {
            // A crate may name itself, with another feature, for its own tests.
            if ours.contains(dependency) && dependency != package.name.as_str() {
                assert!(
                    allowed(&package.name).contains(&dependency),
                    "`{}` must not depend on `{dependency}`",
                    package.name
                );
            }
        }
    }
    for service in SERVICES {
        assert!(ours.contains(service));
    }
}

#[test]
fn dangerous_crates_stay_in_their_rooms() {
    let rooms: [(&str, &[&str]); 9] = [
        ("libc", &["cml-sys", "cml-init"]),
        ("nix", &["cml-sys", "cml-init"]),
        ("caps", &["cml-sys", "cml-init"]),
        ("cgroups-rs", &["cml-sys", "cml-init"]),
        ("actix", &["cml-bus", "cmld"]),
        ("openssl", &["cml-token"]),
        ("netlink-packet-route", &["cml-sys"]),
        ("rustls", &["cml-guestos"]),
        ("ureq", &["cml-guestos"]),
    ];
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let dependencies = dependencies(package, false);
        for (dangerous, rooms) in rooms {
            assert!(
                !dependencies.contains(dangerous) || rooms.contains(&package.name.as_str()),
                "`{}` must not depend on `{dangerous}`",
                package.name
            );
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_outside_sys_and_init() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        if ["cml-sys", "cml-init"].contains(&package.name.as_str()) {
            continue;
        }
        let roots = package
            .targets
            .iter()
            .filter(|target| target.is_lib() || target.is_bin());
        for root in roots {
            let text = fs::read_to_string(&root.src_path).unwrap();
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{} does not forbid unsafe code",
                root.src_path
            );
        }
    }
}

#[test]
fn every_crate_takes_the_common_lints_and_versions() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{}",
            package.name
        );
        // One version per dependency, in the workspace's own table.
        let table = manifest.split("ependencies]").skip(1);
        for line in table
            .flat_map(str::lines)
            .take_while(|line| !line.starts_with("[lints"))
        {
            let pinned_here = line.contains('=') && line.contains('"') && line.contains("version");
            assert!(!pinned_here, "{}: {line}", package.name);
        }
    }
}

#[test]
fn no_promise_is_left_open_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Put together here, so that this file does not find itself.
    let stubs = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    let mut dirs = vec![
        root.join("protocol"),
        root.join("services"),
        root.join("control-cli"),
    ];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let open = stubs.iter().find(|stub| text.contains(*stub));
                assert!(open.is_none(), "{}: {open:?}", path.display());
            }
        }
    }
}
