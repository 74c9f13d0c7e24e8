//! The trees that a container is put together of: images, volumes, files and pipes of the host.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use cml_bus::api::guestos::ImageLease;
use cml_sys::{file, host::Tree};
use cml_wire::rules::SHARED_STORE;

use super::Failed;
use crate::{
    env::Env,
    plan::TreeSource,
    volumes::{OpenVolumes, backend::OpenVolume},
};

/// A tree whose source is open.
pub(super) enum Opened<'a> {
    Image(Arc<ImageLease>),
    Volume(&'a OpenVolume),
    File { file: OwnedFd, read_only: bool },
    Fifo(OwnedFd),
}

impl Opened<'_> {
    pub(super) fn tree(&self) -> Tree<'_> {
        match self {
            Self::Image(lease) => Tree {
                source: lease.root.as_fd(),
                read_only: true,
                no_suid: false,
                unmapped: false,
            },
            Self::Volume(volume) => Tree {
                source: volume.tree.as_fd(),
                read_only: volume.read_only,
                no_suid: false,
                unmapped: false,
            },
            // Two containers may share a file: neither gives the other a program that runs as its owner.
            Self::File { file, read_only } => Tree {
                source: file.as_fd(),
                read_only: *read_only,
                no_suid: true,
                unmapped: false,
            },
            // The container's root is not the owner, or it could write (`fifos.rs`).
            Self::Fifo(file) => Tree {
                source: file.as_fd(),
                read_only: false,
                no_suid: true,
                unmapped: true,
            },
        }
    }

    pub(super) fn image(self) -> Option<Arc<ImageLease>> {
        match self {
            Self::Image(lease) => Some(lease),
            Self::Volume(_) | Self::File { .. } | Self::Fifo(_) => None,
        }
    }
}

/// Where Debian and others have a static busybox.
const TOOLBOXES: &[&str] = &["/bin/busybox", "/usr/bin/busybox"];

/// Opens what a tree of the plan stands for.
pub(super) fn open_tree<'a>(
    env: &Env,
    volumes: &'a OpenVolumes,
    tree: &TreeSource,
) -> Result<Opened<'a>, Failed> {
    match tree {
        TreeSource::Image(lease) => Ok(Opened::Image(lease.clone())),
        TreeSource::Volume(name) => match volumes.get(name) {
            Some(volume) => Ok(Opened::Volume(volume)),
            None => Err(format!("volume `{name}` is not open").into()),
        },
        TreeSource::Toolbox => {
            let found = TOOLBOXES.iter().find(|path| Path::new(path).exists());
            let path = found.ok_or(
                "setup mode needs a static busybox on the host, or `mounts_setup` in the guest OS",
            )?;
            Ok(Opened::File {
                file: file::open(Path::new(path))?.into(),
                read_only: true,
            })
        }
        TreeSource::Fifo(name) => Err(format!("pipe `{name}` is no tree of the guest OS").into()),
        TreeSource::File { name, .. } if name == SHARED_STORE => {
            Err(format!("`{name}` is what the shared files lie in, and none of them").into())
        }
        TreeSource::File { name, read_only } => {
            // A missing one is made (runtime.md 3.2).
            let file = file::touch(&env.shared_files().join(name), 0o644)?;
            Ok(Opened::File {
                file: file.into(),
                read_only: *read_only,
            })
        }
    }
}
