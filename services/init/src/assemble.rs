//! The root of the container, put together on a tmpfs that only this mount namespace sees.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use cml_sys::{
    error::{Context, Result},
    mount::{self, Restrict},
    path,
    plan::{Mount, Source},
};
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};

use crate::Failure;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The working place: `root` is the future `/`, the rest are layers of overlays.
///
/// It lies over `/`, which hides nothing: this process finds everything from the root it already has. A
/// directory of the daemon would not do, as the container's root may not be allowed to get there.
pub(crate) struct Stage(OwnedFd);

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        let target = open("/", DIRECTORY, Mode::empty()).context("open", "/")?;
        // 1 MiB: it holds directories only.
        let tree = mount::create(
            "tmpfs",
            &[("size", "1m"), ("mode", "0755")],
            Restrict::default(),
        )?;
        mount::attach(&tree, target)?;
        let stage = Self(tree);
        stage.directory("root")?;
        Ok(stage)
    }

    fn directory(&self, name: &str) -> Result<()> {
        mkdirat(&self.0, name, Mode::from_raw_mode(0o755)).context("make on the stage", name)
    }

    fn open(&self, name: &str) -> Result<OwnedFd> {
        openat(&self.0, name, DIRECTORY, Mode::empty()).context("open on the stage", name)
    }

    /// A path for mount options, which take no descriptors.
    fn path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd())
    }

    /// An overlay whose changes go into a directory of the stage. Those of a volume lie where the existing
    /// system has them (runtime.md 2.4).
    fn overlay(&self, lower: &str, changes: &str) -> Result<OwnedFd> {
        let (upper, work) = (format!("{changes}/upper"), format!("{changes}/work"));
        for name in [&upper, &work] {
            match self.directory(name) {
                Err(error) if error.errno() == Some(libc::EEXIST) => {}
                other => other?,
            }
        }
        let options = [
            ("lowerdir", lower),
            ("upperdir", &self.path(&upper)),
            ("workdir", &self.path(&work)),
            ("userxattr", ""),
        ];
        mount::create("overlay", &options, OVERLAY)
    }

    /// An overlay of a tree that takes changed owners and leaves content where it is. Outside of user namespaces
    /// alone.
    pub(crate) fn owners_overlay(&self, tree: OwnedFd) -> Result<OwnedFd> {
        for name in ["tree", "owners"] {
            self.directory(name)?;
        }
        mount::attach(tree, self.open("tree")?)?;
        mount::attach(tmpfs("")?, self.open("owners")?)?;
        for name in ["owners/upper", "owners/work"] {
            self.directory(name)?;
        }
        let options = [
            ("lowerdir", self.path("tree")),
            ("upperdir", self.path("owners/upper")),
            ("workdir", self.path("owners/work")),
            ("metacopy", "on".to_owned()),
        ];
        let options = options
            .each_ref()
            .map(|(key, value)| (*key, value.as_str()));
        mount::create("overlay", &options, OVERLAY)
    }

    /// Mounts what the guest OS asks for, in order, and returns the finished root.
    pub(crate) fn guest_mounts(
        &self,
        mounts: &[Mount],
        trees: &[OwnedFd],
    ) -> std::result::Result<OwnedFd, Failure> {
        let mut root = self
            .open("root")
            .map_err(|error| named(Path::new("/"), &error))?;
        for (index, mount) in mounts.iter().enumerate() {
            self.guest_mount(index, mount, trees, &root)
                .map_err(|error| named(&mount.target, &error))?;
            if mount.target == Path::new("/") {
                // The descriptor still names the directory below the new mount.
                root = self
                    .open("root")
                    .map_err(|error| named(&mount.target, &error))?;
            }
        }
        Ok(root)
    }

    fn guest_mount(
        &self,
        index: usize,
        mount: &Mount,
        trees: &[OwnedFd],
        root: &OwnedFd,
    ) -> Result<()> {
        let tree = |index: usize| {
            trees.get(index).ok_or_else(|| {
                cml_sys::Error::invalid("find", index, "the tree did not come along")
            })
        };
        // A target that is missing is made for everybody to enter, as the existing system does
        // (runtime.md 3.2 has 0777; the mount covers it, so nobody can write there).
        let directory = || path::make_dir_in_root(root, &mount.target, Mode::from_raw_mode(0o755));
        match &mount.source {
            Source::Tree { tree: source } => mount::attach(tree(*source)?, directory()?),
            Source::Tmpfs { data } => mount::attach(tmpfs(data)?, directory()?),
            Source::Overlay { tree: source, data } => {
                let lower = format!("lower{index}");
                self.directory(&lower)?;
                mount::attach(tree(*source)?, self.open(&lower)?)?;
                let changes = format!("changes{index}");
                self.directory(&changes)?;
                mount::attach(tmpfs(data)?, self.open(&changes)?)?;
                mount::attach(self.overlay(&self.path(&lower), &changes)?, directory()?)
            }
            Source::Changes { tree: source } => {
                let changes = format!("changes{index}");
                self.directory(&changes)?;
                mount::attach(tree(*source)?, self.open(&changes)?)?;
                let target = directory()?;
                let overlay = self.overlay(&path_of(&target), &changes)?;
                mount::attach(overlay, target)
            }
            Source::Cover { tree: source } => {
                let cover = format!("cover{index}");
                self.directory(&cover)?;
                mount::attach(tree(*source)?, self.open(&cover)?)?;
                let target = directory()?;
                // The first of the layers is the topmost one.
                let layers = format!("{}:{}", self.path(&cover), path_of(&target));
                let options = [("lowerdir", layers.as_str()), ("userxattr", "")];
                mount::attach(mount::create("overlay", &options, OVERLAY)?, target)
            }
            Source::File { tree: source } => {
                let target = path::make_file_in_root(root, &mount.target)?;
                mount::attach(tree(*source)?, target)
            }
        }
    }
}

const OVERLAY: Restrict = Restrict {
    read_only: false,
    no_dev: true,
    no_suid: false,
    no_exec: false,
    relative_atime: false,
};

/// A path for mount options, which take no descriptors.
fn path_of(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

/// A tmpfs with 0755 as its mode (runtime.md 3.2) unless the options say otherwise.
fn tmpfs(data: &str) -> Result<OwnedFd> {
    let mut options = vec![("mode", "0755")];
    options.extend(mount::options(data));
    mount::create(
        "tmpfs",
        &options,
        Restrict {
            no_dev: true,
            ..Restrict::default()
        },
    )
}

fn named(target: &Path, error: &cml_sys::Error) -> Failure {
    Failure {
        stage: format!("mount `{}`", target.display()),
        reason: error.to_string(),
    }
}
