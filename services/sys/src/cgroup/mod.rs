//! Control groups on v2, v1 and hybrid machines: grouping, freezing, killing.
//!
//! On a hybrid machine the unified hierarchy is used for what its core files offer (`cgroup.kill`,
//! `cgroup.freeze`, device filters), even if it has no controllers. Without one, v1 controllers do these jobs.
//! What a container may use ([`limits`]) and uses ([`usage`]) is up to whichever hierarchy has the controller.

pub mod limits;
pub mod usage;

mod delegation;
mod files;
mod v1;
mod v2;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    device::{Rules, bpf},
    error::{Context, Error, Result},
};
use files::Files;
use limits::{Controller, Limit};
use usage::Usage;

/// All containers of all daemons live below this group.
const PARENT: &str = "cml";
/// How long the kernel may take to freeze, and how often it is asked (runtime.md 0.5: 50 x 100 ms).
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);
/// How long killed processes may take to leave: one that gives gigabytes back needs seconds.
const EMPTY_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// The group hierarchies of this machine that containers are put into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    unified: Option<PathBuf>,
    freezer: Option<PathBuf>,
    pids: Option<PathBuf>,
    /// Further controllers of version 1.
    v1: BTreeMap<Controller, PathBuf>,
}

/// The groups of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    unified: Option<PathBuf>,
    freezer: Option<PathBuf>,
    pids: Option<PathBuf>,
    /// Further controllers of version 1.
    #[serde(default)]
    v1: BTreeMap<Controller, PathBuf>,
}

impl Hierarchies {
    /// Finds what this machine has mounted.
    ///
    /// # Errors
    /// procfs is not mounted.
    pub fn detect() -> Result<Self> {
        let path = "/proc/self/mounts";
        let mounts = fs::read_to_string(path).context("read", path)?;
        Ok(Self::parse(&mounts, bpf::is_available()))
    }

    /// `filters`: whether groups of version 2 can have device filters.
    fn parse(mounts: &str, filters: bool) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(target), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let has = |name| options.split(',').any(|option| option == name);
            let target = PathBuf::from(target);
            match kind {
                "cgroup2" => {
                    found.unified.get_or_insert(target);
                }
                "cgroup" => {
                    if has("freezer") {
                        found.freezer.get_or_insert_with(|| target.clone());
                    }
                    if has("pids") {
                        found.pids.get_or_insert_with(|| target.clone());
                    }
                    // Several may share a mount, as `cpu,cpuacct` do.
                    let here = v1::CONTROLLERS.iter().filter(|one| has(v1::name(**one)));
                    for controller in here {
                        found
                            .v1
                            .entry(*controller)
                            .or_insert_with(|| target.clone());
                    }
                }
                _ => {}
            }
        }
        // A filter is replaced at once, a list of version 1 entry by entry (docs/adr/0051-devices.md).
        if found.unified.is_some() && filters {
            found.v1.remove(&Controller::Devices);
        }
        found
    }

    /// Makes the groups of a container. Groups that exist already are taken over.
    ///
    /// # Errors
    /// No usable hierarchy, or the kernel refused.
    pub fn create(&self, name: &str) -> Result<Group> {
        if self.unified.is_none() && self.freezer.is_none() {
            return Err(Error::invalid(
                "find",
                "control groups",
                "mount cgroup2 at /sys/fs/cgroup, or the v1 freezer",
            ));
        }
        let group = self.group(name);
        for path in group.paths() {
            make(path)?;
        }
        // Only now, when nobody else can take the common parent away any more (`remove_parent`).
        if let Some(root) = &self.unified {
            // The container divides among its services what it gets (`delegation`).
            v2::enable(&[root.clone(), root.join(PARENT), below(root, name)]);
            v2::bound(&below(root, name))?;
        }
        if let Some(root) = self.v1.get(&Controller::Cpuset) {
            v1::fill_cpuset(root, &[PARENT, name])?;
        }
        Ok(group)
    }

    /// The groups that [`Hierarchies::create`] makes for a container of this name.
    pub fn group(&self, name: &str) -> Group {
        Group {
            unified: self.unified.as_deref().map(|root| below(root, name)),
            freezer: self.freezer.as_deref().map(|root| below(root, name)),
            pids: self.pids.as_deref().map(|root| below(root, name)),
            v1: self
                .v1
                .iter()
                .map(|(controller, root)| (*controller, below(root, name)))
                .collect(),
        }
    }

    /// Removes the common parent when no daemon has a container left in it.
    pub fn remove_parent(&self) {
        let roots = [&self.unified, &self.freezer, &self.pids];
        for root in roots.into_iter().flatten().chain(self.v1.values()) {
            // Refused while another container lives there, which is what is wanted.
            let _ = fs::remove_dir(root.join(PARENT));
        }
    }
}

/// Makes a group and its parent. Another daemon on this machine may take the empty parent away in between.
fn make(path: &Path) -> Result<()> {
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    for _ in 0..PARENT_TRIES {
        match fs::create_dir_all(path) {
            Err(error) if absent(&error) => {}
            made => return made.context("make group", path.display()),
        }
    }
    fs::create_dir_all(path).context("make group", path.display())
}

/// It happens when a daemon ends at the same moment, which not many do.
const PARENT_TRIES: u32 = 100;

fn below(root: &Path, name: &str) -> PathBuf {
    root.join(PARENT).join(name)
}

impl Group {
    /// Where the kernel shows the groups: each once, the unified one first.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.unified.iter().chain(self.v1_paths())
    }

    fn v1_paths(&self) -> impl Iterator<Item = &PathBuf> {
        let named = [&self.freezer, &self.pids].into_iter().flatten();
        let mut paths: Vec<_> = named.chain(self.v1.values()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths.into_iter()
    }

    /// The control files of the hierarchy that has this controller.
    fn files(&self, controller: Controller) -> Option<Box<dyn Files + '_>> {
        let v1 = match controller {
            Controller::Pids => self.pids.as_deref(),
            other => self.v1.get(&other).map(PathBuf::as_path),
        };
        if let Some(path) = v1 {
            return Some(Box::new(v1::Files(path)));
        }
        let unified = self.unified.as_deref()?;
        v2::has(unified, controller).then(|| Box::new(v2::Files(unified)) as Box<dyn Files>)
    }

    /// Whether anything counts and limits this for the group.
    pub fn has(&self, controller: Controller) -> bool {
        self.files(controller).is_some()
    }

    /// Sets a limit; false when this machine has no controller for it.
    ///
    /// # Errors
    /// The kernel does not take the value.
    pub fn limit(&self, limit: &Limit) -> Result<bool> {
        match self.files(limit.controller()) {
            Some(files) => files.set(limit),
            None => Ok(false),
        }
    }

    /// What the group uses now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for controller in usage::COUNTED {
            match (self.files(*controller), &self.unified) {
                (Some(files), _) => files.count(*controller, &mut usage),
                // The time of processors is counted in every unified group.
                (None, Some(path)) if *controller == Controller::Cpuacct => {
                    v2::Files(path).count(*controller, &mut usage);
                }
                (None, _) => {}
            }
        }
        usage
    }

    /// Confines the group to these devices; false when this kernel can do that in no way.
    ///
    /// # Errors
    /// The rules cannot be kept by what this machine has, or the kernel refused.
    pub fn confine_devices(&self, rules: &Rules) -> Result<bool> {
        if let Some(path) = self.v1.get(&Controller::Devices) {
            let allowed = rules.exceptions();
            let allowed = allowed
                .map_err(|error| Error::invalid("confine", "devices", &error.to_string()))?;
            v1::set_devices(path, &allowed)?;
            return Ok(true);
        }
        let Some(group) = self.open_unified()? else {
            return Ok(false);
        };
        match bpf::attach(group, &bpf::program(rules)) {
            Ok(()) => Ok(true),
            Err(_) if !bpf::is_available() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the container has a part of the unified hierarchy.
    pub fn has_unified(&self) -> bool {
        self.unified.is_some()
    }

    /// Puts a process into the v1 groups; the unified one it was born into.
    ///
    /// # Errors
    /// The process is gone, or the kernel refused.
    pub fn add_to_v1(&self, pid: i32) -> Result<()> {
        for path in self.v1_paths() {
            write(&path.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Kills every process in the group, frozen or not.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn kill(&self) -> Result<()> {
        if let Some(path) = &self.unified {
            let kill = path.join("cgroup.kill");
            match write(&kill, "1") {
                // Kernels before 5.14 have no such file.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        // Freezing first keeps a fork bomb from outrunning the loop. Whether or not that worked: a task that
        // is frozen dies only when it is thawed.
        if self.freezer.is_some() {
            let _ = self.set_v1(true);
        }
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        match &self.freezer {
            Some(path) if path.exists() => self.set_v1(false),
            _ => Ok(()),
        }
    }

    /// Everything that runs in them.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut groups: Vec<_> = self.paths().next().cloned().into_iter().collect();
        while let Some(group) = groups.pop() {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            // The guest divides its part as it likes.
            let entries = fs::read_dir(&group).into_iter().flatten().flatten();
            groups.extend(
                entries
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
        }
        found
    }

    /// Stops scheduling, or lets go on, and waits until the kernel has done it.
    ///
    /// # Errors
    /// The kernel did not manage within 5 s; a failed freeze is taken back (LIF-03).
    pub fn set_frozen(&self, frozen: bool) -> Result<()> {
        let result = match &self.unified {
            Some(path) if path.join("cgroup.freeze").exists() => {
                write(&path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
                wait_for("freeze", path, || {
                    let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
                    events.contains(if frozen { "frozen 1" } else { "frozen 0" })
                })
            }
            _ => self.set_v1(frozen),
        };
        if frozen && result.is_err() {
            match &self.unified {
                Some(path) => write(&path.join("cgroup.freeze"), "0")?,
                None => self.set_v1(false)?,
            }
        }
        result
    }

    fn set_v1(&self, frozen: bool) -> Result<()> {
        let Some(path) = &self.freezer else {
            return Err(Error::invalid(
                "freeze",
                "group",
                "this kernel has no freezer",
            ));
        };
        let state = path.join("freezer.state");
        let word = if frozen { "FROZEN" } else { "THAWED" };
        write(&state, word)?;
        wait_for("freeze", path, || {
            fs::read_to_string(&state).is_ok_and(|text| text.trim() == word)
        })
    }

    /// Removes the groups with everything below them. They must be empty of processes, or become so
    /// within a moment.
    ///
    /// # Errors
    /// Processes are still in them.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + EMPTY_PATIENCE;
        for path in self.paths() {
            loop {
                match remove_tree(path) {
                    Ok(()) => break,
                    // Killed processes leave their group a moment after their parent has seen them end.
                    Err(error) if error.errno() == Some(libc::EBUSY) && Instant::now() < end => {
                        std::thread::sleep(POLL);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context("list group", path.display())?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context("remove group", path.display()),
    }
}

fn wait_for(action: &'static str, path: &Path, done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + FREEZE_PATIENCE;
    while !done() {
        if Instant::now() > end {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).context(action, path.display());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Control files are never created and take one write each.
fn write(path: &Path, value: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file: File| file.write_all(value.as_bytes()))
        .context("write", path.display())
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests;
