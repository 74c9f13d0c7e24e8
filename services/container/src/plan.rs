//! From two configurations to a [`LaunchPlan`]: pure, so that a change of what a container gets shows up
//! as a changed snapshot.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cml_bus::api::guestos::{ImageLease, Resolved, ResolvedMount};
use cml_sys::{
    cgroup::Group,
    device::Rules,
    emulator::EmulatorPlan,
    idmap::IdRange,
    plan::{
        BootReport, Confinement, EnterPlan, Fifo, InitMode, InitPlan, LaunchPlan, MASKED, Mount,
        READ_ONLY, Source,
    },
    seccomp::policy::Allowances,
    signal,
};
use cml_wire::proto::{
    ContainerConfig, GuestOsConfig,
    guest_os_config::{BootReport as WireBoot, InitMode as WireMode},
    guest_os_mount::Type,
};

use crate::volumes::spec::{self, BadVolume};

/// Where the in-guest service is reached (protocol.md 1.1).
pub const SERVICE_SOCKET: &str = "/run/socket/cml-service";

/// What a command in a container finds when nobody says otherwise.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Trees that one launch can carry: the channel's limit less the plan itself and `/dev`.
const TREES_MAX: usize = cml_sys::channel::MAX_FDS - 2;

/// A launch with everything that has to be opened for it.
#[derive(Debug)]
pub struct Planned {
    /// For `cml-init`.
    pub launch: LaunchPlan,
    /// What its tree numbers mean.
    pub trees: Vec<TreeSource>,
}

/// Where a tree comes from.
#[derive(Debug, Clone)]
pub enum TreeSource {
    /// A mounted image of the guest OS.
    Image(Arc<ImageLease>),
    /// A volume of the container, by its name.
    Volume(String),
    /// The host's busybox.
    Toolbox,
    /// A pipe from the host, by its name.
    Fifo(String),
    /// A file of the store for shared files.
    File {
        /// Its name there.
        name: String,
        /// The guest may only read it.
        read_only: bool,
    },
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A volume that cannot be.
    #[error(transparent)]
    Volume(#[from] BadVolume),
    /// The guest OS service has not resolved the image.
    #[error("mount `{target}`: there is no image for type {kind}")]
    NoImage {
        /// Where it would be.
        target: String,
        /// Its type.
        kind: &'static str,
    },
    /// Nothing is mounted on `/`.
    #[error("the guest OS mounts nothing on `/`")]
    NoRoot,
    /// More images and files than a launch can carry.
    #[error("the guest OS has more than {TREES_MAX} images and files")]
    TooMany,
    /// Modules for a guest whose root is the host's: whether it may load them would be its own decision.
    #[error("`allow_module` needs a user namespace: remove `userns: false`")]
    ModulesOfRoot,
    /// A signal that does not exist.
    #[error("stop_signal {0:?} of the guest OS is no signal")]
    StopSignal(String),
}

/// What setup mode shows the container's own mounts under (runtime.md 3.6).
const SETUP: &str = "/setup";

/// Where the tools are in a root that setup mode makes itself.
const TOOLBOX: &str = "/bin/busybox";

/// What the machine has for a container.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Ids for it, `None` without a user namespace.
    pub ids: Option<IdRange>,
    /// A part of the unified hierarchy of control groups.
    pub own_groups: bool,
}

/// Plans the launch of a container, in setup mode if wanted.
pub fn launch(
    config: &ContainerConfig,
    resolved: &Resolved,
    setup: bool,
    machine: Machine,
) -> Result<Planned, PlanError> {
    let Machine { ids, own_groups } = machine;
    let guestos = &resolved.installed.config;
    let mut mounts = Mounts::new(config);
    let mut toolbox = None;
    if !setup {
        mounts.add("", &resolved.mounts)?;
    } else if resolved.setup_mounts.is_empty() {
        toolbox = Some(mounts.add_toolbox());
        mounts.add(SETUP, &resolved.mounts)?;
    } else {
        mounts.add("", &resolved.setup_mounts)?;
        mounts.add(SETUP, &resolved.mounts)?;
    }
    let fifos = mounts.add_fifos();
    let Mounts { planned, trees, .. } = mounts;
    if !planned.iter().any(|mount| mount.target == Path::new("/")) {
        return Err(PlanError::NoRoot);
    }
    if trees.len() > TREES_MAX {
        return Err(PlanError::TooMany);
    }
    let launch = LaunchPlan {
        hostname: config.name.clone(),
        ids,
        own_network: config.netns(),
        mounts: planned,
        fifos,
        masked: owned(MASKED),
        read_only: owned(READ_ONLY),
        own_groups,
        confinement: confinement(config, guestos, ids.is_some())?,
        service_socket: Some(SERVICE_SOCKET.into()),
        name_server: None,
        control_socket: None,
        toolbox,
        init: init(config, guestos, setup)?,
    };
    Ok(Planned { launch, trees })
}

/// What the two configurations make of its rights.
fn confinement(
    config: &ContainerConfig,
    guestos: &GuestOsConfig,
    user_namespace: bool,
) -> Result<Confinement, PlanError> {
    let calls = Allowances {
        user_namespace,
        modules: !config.allow_module.is_empty(),
        set_time: config.allow_system_time(),
    };
    if calls.modules && !calls.user_namespace {
        return Err(PlanError::ModulesOfRoot);
    }
    let no_new_privs = guestos.no_new_privs();
    Ok(Confinement::new(calls, config.netns(), no_new_privs))
}

/// What may be done for a container whose processes are in this group.
pub fn emulator(config: &ContainerConfig, devices: &Rules, group: &Group) -> EmulatorPlan {
    EmulatorPlan {
        devices: devices.clone(),
        modules: config.allow_module.clone(),
        set_time: config.allow_system_time(),
        news: config.userns() && config.netns(),
        groups: group.paths().cloned().collect(),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// The mounts of a launch as they come together.
struct Mounts<'a> {
    config: &'a ContainerConfig,
    planned: Vec<Mount>,
    trees: Vec<TreeSource>,
}

impl<'a> Mounts<'a> {
    fn new(config: &'a ContainerConfig) -> Self {
        Self {
            config,
            planned: Vec::new(),
            trees: Vec::new(),
        }
    }

    fn carry(&mut self, tree: TreeSource) -> usize {
        self.trees.push(tree);
        self.trees.len() - 1
    }

    /// An empty root with the host's tools; returns where they are.
    fn add_toolbox(&mut self) -> PathBuf {
        let tree = self.carry(TreeSource::Toolbox);
        let data = String::new();
        self.planned.extend([
            Mount {
                target: "/".into(),
                source: Source::Tmpfs { data },
            },
            Mount {
                target: TOOLBOX.into(),
                source: Source::File { tree },
            },
        ]);
        TOOLBOX.into()
    }

    /// The pipes from the host.
    fn add_fifos(&mut self) -> Vec<Fifo> {
        let names = &self.config.fifos;
        let fifo = |name: &String| Fifo {
            tree: self.carry(TreeSource::Fifo(name.clone())),
            name: name.clone(),
        };
        names.iter().map(fifo).collect()
    }

    /// These mounts, with their mount points below `under`.
    fn add(&mut self, under: &str, mounts: &[ResolvedMount]) -> Result<(), PlanError> {
        for mount in mounts {
            if let Some(source) = self.source(mount)? {
                let target = match (under, mount.mount.mount_point.as_str()) {
                    ("", point) => PathBuf::from(point),
                    (under, "/") => PathBuf::from(under),
                    (under, point) => PathBuf::from(format!("{under}{point}")),
                };
                self.planned.push(Mount { target, source });
            }
        }
        Ok(())
    }

    /// What a mount shows (runtime.md 3.2); `None` for images that are stored but not mounted.
    fn source(&mut self, mount: &ResolvedMount) -> Result<Option<Source>, PlanError> {
        let kind = mount.mount.mount_type();
        let data = mount.mount.mount_data().to_owned();
        let mut tree = || -> Result<usize, PlanError> {
            let volume = spec::volume(&mount.mount, self.config)?;
            let source = match (volume, &mount.image) {
                (Some(volume), _) => TreeSource::Volume(volume.name),
                (None, Some(image)) => TreeSource::Image(image.clone()),
                (None, None) => {
                    return Err(PlanError::NoImage {
                        target: mount.mount.mount_point.clone(),
                        kind: kind.as_str_name(),
                    });
                }
            };
            Ok(self.carry(source))
        };
        Ok(Some(match kind {
            Type::Empty if mount.mount.fs_type.starts_with("tmpfs") => Source::Tmpfs { data },
            Type::Shared | Type::Empty | Type::Copy | Type::Device | Type::DeviceRw => {
                Source::Tree { tree: tree()? }
            }
            Type::SharedRw => Source::Overlay {
                tree: tree()?,
                data,
            },
            Type::OverlayRw => Source::Changes { tree: tree()? },
            Type::OverlayRo => Source::Cover { tree: tree()? },
            Type::BindFile | Type::BindFileRw => Source::File {
                tree: self.carry(TreeSource::File {
                    name: mount.mount.image_file.clone(),
                    read_only: kind == Type::BindFile,
                }),
            },
            Type::Flash | Type::StoreOnly => return Ok(None),
        }))
    }
}

/// The environment is the configured one and nothing else (runtime.md 2.9).
fn init(
    config: &ContainerConfig,
    guestos: &GuestOsConfig,
    setup: bool,
) -> Result<InitPlan, PlanError> {
    let stop_signal = match guestos.stop_signal.as_deref() {
        None | Some("") => None,
        Some(name) => {
            Some(signal::by_name(name).ok_or_else(|| PlanError::StopSignal(name.to_owned()))?)
        }
    };
    Ok(InitPlan {
        path: guestos.init_path().into(),
        args: guestos.init_param.clone(),
        env: [guestos.init_env.clone(), config.init_env.clone()].concat(),
        mode: match guestos.init_mode() {
            WireMode::InitAuto => InitMode::Auto,
            WireMode::InitExec => InitMode::Exec,
            WireMode::InitSupervise => InitMode::Supervise,
        },
        boot: match guestos.boot_report() {
            WireBoot::BootAuto => BootReport::Auto,
            WireBoot::BootService => BootReport::Service,
            WireBoot::BootExec => BootReport::Exec,
        },
        stop_signal,
        // A root that is there to set another one up need not have an init (runtime.md 3.6).
        optional: setup,
    })
}

/// A command to be run in a container.
#[derive(Debug, Clone)]
pub struct Command {
    /// Complete argument vector.
    pub argv: Vec<String>,
    /// Additional `KEY=value` words.
    pub env: Vec<String>,
    /// Working directory, `/` if absent.
    pub workdir: Option<String>,
    /// Who runs it, the container's root if absent.
    pub user: Option<String>,
    /// Columns and rows of a terminal, `None` for pipes.
    pub terminal: Option<(u16, u16)>,
}

/// What a running container has, as far as commands in it are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Inside<'a> {
    /// The environment of its init.
    pub init_env: &'a [String],
    /// It has a user namespace of its own.
    pub user_namespace: bool,
    /// What was taken from its init, and is taken from every command.
    pub confinement: &'a Confinement,
}

/// Plans a command in a container. Later words of the environment win over earlier ones of the same name.
pub fn enter(inside: Inside<'_>, command: Command) -> EnterPlan {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    // Another user's home is only known inside.
    if command.user.is_none() {
        env.push("HOME=/root".to_owned());
    }
    if command.terminal.is_some() {
        env.push("TERM=xterm".to_owned());
    }
    for word in inside.init_env.iter().chain(&command.env) {
        let name = |word: &str| word.split('=').next().unwrap_or_default().to_owned();
        env.retain(|earlier| name(earlier) != name(word));
        env.push(word.clone());
    }
    EnterPlan {
        argv: command.argv,
        env,
        workdir: command.workdir.map_or_else(|| "/".into(), PathBuf::from),
        user: command.user,
        terminal: command.terminal,
        user_namespace: inside.user_namespace,
        confinement: inside.confinement.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;

    use cml_bus::api::guestos::Installed;
    use cml_wire::proto::{ContainerTrust, GuestOsMount};

    use super::*;

    fn config() -> ContainerConfig {
        ContainerConfig {
            name: "web".into(),
            guest_os: "busybox".into(),
            init_env: vec!["B=container".into()],
            fifos: vec!["log".into()],
            ..Default::default()
        }
    }

    fn guestos() -> GuestOsConfig {
        GuestOsConfig {
            name: "busybox".into(),
            version: 1,
            init_path: Some("/sbin/init".into()),
            init_env: vec!["A=guest".into(), "B=guest".into()],
            ..Default::default()
        }
    }

    fn mount(kind: Type, target: &str, fs_type: &str) -> ResolvedMount {
        let from_store = matches!(kind, Type::Shared | Type::SharedRw | Type::OverlayRo);
        let image = from_store.then(|| {
            let root = File::open("/").unwrap().into();
            Arc::new(ImageLease::new(root, Box::new(())))
        });
        ResolvedMount {
            mount: GuestOsMount {
                image_file: "x".into(),
                mount_point: target.into(),
                fs_type: fs_type.into(),
                mount_type: kind.into(),
                mount_data: Some("size=8m".into()),
                ..Default::default()
            },
            image,
        }
    }

    fn named(kind: Type, image: &str, target: &str) -> ResolvedMount {
        let mut mount = mount(kind, target, "ext4");
        mount.mount.image_file = image.into();
        mount
    }

    fn resolved(mounts: &[ResolvedMount], guestos: GuestOsConfig) -> Resolved {
        Resolved {
            installed: Installed {
                config: Arc::new(guestos),
                trust: ContainerTrust::Signed,
            },
            mounts: mounts.to_vec(),
            setup_mounts: Vec::new(),
        }
    }

    fn machine(ids: Option<IdRange>) -> Machine {
        Machine {
            ids,
            own_groups: true,
        }
    }

    fn plan(mounts: &[ResolvedMount], ids: Option<IdRange>) -> Result<Planned, PlanError> {
        launch(&config(), &resolved(mounts, guestos()), false, machine(ids))
    }

    #[test]
    fn every_mount_type_is_planned() {
        let mounts = [
            mount(Type::SharedRw, "/", "squashfs"),
            mount(Type::OverlayRo, "/", "squashfs"),
            mount(Type::OverlayRw, "/", "ext4"),
            mount(Type::Shared, "/usr", "squashfs"),
            mount(Type::Empty, "/tmp", "tmpfs"),
            mount(Type::Empty, "/data", "ext4"),
            named(Type::Copy, "copy", "/copy"),
            named(Type::Device, "/dev/a", "/a"),
            named(Type::DeviceRw, "/dev/b", "/b"),
            mount(Type::BindFile, "/etc/resolv.conf", "none"),
            mount(Type::BindFileRw, "/etc/notes", "none"),
            mount(Type::StoreOnly, "/boot", "squashfs"),
            mount(Type::Flash, "/dev/sda", "none"),
        ];
        let planned = plan(&mounts, IdRange::of_slot(0)).unwrap();
        insta::assert_json_snapshot!("launch", planned.launch);
        assert_eq!(planned.trees.len(), 11);
    }

    #[test]
    fn setup_mode_shows_the_containers_mounts_below_a_root_of_its_own() {
        let mounts = [
            mount(Type::Shared, "/", "squashfs"),
            mount(Type::Empty, "/data", "ext4"),
        ];
        let mut resolved = resolved(&mounts, guestos());
        let planned = launch(&config(), &resolved, true, machine(None)).unwrap();
        insta::assert_json_snapshot!("setup", planned.launch.mounts);
        assert_eq!(planned.launch.toolbox, Some("/bin/busybox".into()));
        assert!(planned.launch.init.optional);
        resolved.setup_mounts = vec![mount(Type::Shared, "/", "squashfs")];
        let planned = launch(&config(), &resolved, true, machine(None)).unwrap();
        let targets = planned.launch.mounts.iter().map(|mount| &mount.target);
        assert!(targets.eq(["/", "/setup", "/setup/data"].map(Path::new)));
        assert_eq!(planned.launch.toolbox, None);
    }

    #[test]
    fn without_a_user_namespace_more_is_taken_away() {
        let mounts = [mount(Type::Shared, "/", "squashfs")];
        let confined = plan(&mounts, IdRange::of_slot(0)).unwrap().launch;
        let open = plan(&mounts, None).unwrap().launch;
        let dropped = |plan: &LaunchPlan| plan.confinement.dropped_capabilities.len();
        assert!(dropped(&open) > dropped(&confined));
        assert!(open.ids.is_none());
    }

    #[test]
    fn a_guest_without_a_root_and_unknown_signals_are_refused() {
        assert_eq!(plan(&[], None).unwrap_err(), PlanError::NoRoot);
        let guestos = GuestOsConfig {
            stop_signal: Some("SIGNOTHING".into()),
            ..guestos()
        };
        let mounts = [mount(Type::Shared, "/", "squashfs")];
        let refused = launch(&config(), &resolved(&mounts, guestos), false, machine(None));
        assert!(matches!(refused, Err(PlanError::StopSignal(_))));
    }

    #[test]
    fn the_commands_own_environment_wins() {
        let command = Command {
            argv: vec!["env".into()],
            env: vec!["PATH=/bin".into(), "B=command".into()],
            workdir: None,
            user: None,
            terminal: None,
        };
        let init_env = ["A=guest".to_owned(), "B=guest".to_owned()];
        let inside = Inside {
            init_env: &init_env,
            user_namespace: true,
            confinement: &Confinement::default(),
        };
        let plan = enter(inside, command);
        assert_eq!(
            plan.env,
            ["HOME=/root", "A=guest", "PATH=/bin", "B=command"]
        );
        assert_eq!(plan.workdir, PathBuf::from("/"));
    }
}
