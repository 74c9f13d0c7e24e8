//! The root of the container, put together on a tmpfs that only this mount namespace sees.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cml_sys::{
    error::{Context, Result},
    mount::{self, Restrict},
    path,
    plan::{Mount, Source},
};
use rustix::fs::{Mode, OFlags, mkdir, open};

use crate::Failure;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The working place: `root` is the future `/`, the rest are layers of overlays.
pub(crate) struct Stage {
    at: PathBuf,
}

impl Stage {
    pub(crate) fn new(at: &Path) -> Result<Self> {
        let target = open(at, DIRECTORY, Mode::empty()).context("open", at.display())?;
        // 1 MiB: it holds directories only.
        let tree = mount::create(
            "tmpfs",
            &[("size", "1m"), ("mode", "0755")],
            Restrict::default(),
        )?;
        mount::attach(tree, target)?;
        let stage = Self { at: at.to_owned() };
        stage.directory("root")?;
        Ok(stage)
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.at.join(name);
        mkdir(&path, Mode::from_raw_mode(0o755)).context("make", path.display())?;
        Ok(path)
    }

    fn open(&self, name: &str) -> Result<OwnedFd> {
        let path = self.at.join(name);
        open(&path, DIRECTORY, Mode::empty()).context("open", path.display())
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
            Source::Image { tree: source } => mount::attach(tree(*source)?, directory()?),
            Source::Tmpfs { data } => mount::attach(tmpfs(data)?, directory()?),
            Source::Overlay { tree: source, data } => {
                let lower = self.directory(&format!("lower{index}"))?;
                mount::attach(tree(*source)?, self.open(&format!("lower{index}"))?)?;
                let changes = self.directory(&format!("changes{index}"))?;
                mount::attach(tmpfs(data)?, self.open(&format!("changes{index}"))?)?;
                let upper = changes.join("upper");
                let work = changes.join("work");
                for path in [&upper, &work] {
                    mkdir(path, Mode::from_raw_mode(0o755)).context("make", path.display())?;
                }
                let overlay = mount::create(
                    "overlay",
                    &[
                        ("lowerdir", mount::check_layer_path(&lower)?),
                        ("upperdir", mount::check_layer_path(&upper)?),
                        ("workdir", mount::check_layer_path(&work)?),
                        ("userxattr", ""),
                    ],
                    Restrict {
                        no_dev: true,
                        ..Restrict::default()
                    },
                )?;
                mount::attach(overlay, directory()?)
            }
            Source::File { tree: source } => {
                let target = path::make_file_in_root(root, &mount.target)?;
                mount::attach(tree(*source)?, target)
            }
        }
    }
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
