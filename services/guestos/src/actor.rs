//! The guest OS actor: loads the store when it starts, and answers when it has.

use std::path::PathBuf;

use cml_bus::{
    actor::{
        Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseActFuture,
        ResponseFuture, WrapFuture,
    },
    api::{
        guestos::{
            CopyImage, Find, GuestOsError, Installation, Installed, List, Purge, Push, Remove,
            Rescan, Resolve, Resolved, ResolvedMount, Settle, Settled, Version,
        },
        token::TokenPort,
    },
    audit::Did,
    event::{Event, Events},
    supervisor::Watch,
};
use cml_wire::proto::{GuestOsConfig, GuestOsMount, guest_os_mount::Type};
use cml_wire::rules::{has_image, is_component};
use tokio::sync::{broadcast::error::RecvError, oneshot};

use crate::{
    catalogue::Catalogue,
    flash::{Flasher, Targets},
    images::Images,
    install::Installer,
    select::select,
    turns::OUTSIDE,
};

/// What the service needs to know of the device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory `operatingsystems`.
    pub store: PathBuf,
    /// An empty directory of ours for mounts of images.
    pub mounts: PathBuf,
    /// Guest OSes that only the local CA vouches for are good enough.
    pub accept_locally_signed: bool,
    /// A SHA-1 is good enough where a configuration has no SHA-256.
    pub allow_sha1: bool,
    /// Where images come from if a configuration does not say it; may be empty.
    pub update_base_url: String,
    /// Percent of the disk that images leave free.
    pub reserve: u32,
    /// The directory `os_update_bak`.
    pub backups: PathBuf,
    /// Where FLASH images may be written.
    pub flash_targets: Targets,
}

impl Settings {
    /// Who writes FLASH images.
    pub(crate) fn flasher(&self) -> Flasher {
        Flasher {
            backups: self.backups.clone(),
            targets: self.flash_targets.clone(),
        }
    }
}

/// The guest OS service.
#[derive(Debug)]
pub struct GuestOs {
    catalogue: Catalogue,
    images: Images,
    installer: Installer,
    events: Events,
    _watch: Watch,
}

impl GuestOs {
    /// Starts the actor on the current arbiter.
    pub fn start(settings: Settings, token: TokenPort, events: Events, watch: Watch) -> Addr<Self> {
        let images = Images::new(
            settings.store.clone(),
            settings.mounts.clone(),
            settings.allow_sha1,
            events.clone(),
        );
        let catalogue = Catalogue::new(settings, token, events.clone());
        Actor::start(Self {
            installer: Installer::new(catalogue.clone(), images.clone()),
            catalogue,
            images,
            events,
            _watch: watch,
        })
    }
}

impl Actor for GuestOs {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (catalogue, installer) = (self.catalogue.clone(), self.installer.clone());
        let settle = async move {
            if installer.loaded().await.is_ok() {
                installer.recover_flashing().await;
            }
        };
        context.spawn(settle.into_actor(self));
        let mut events = self.events.subscribe();
        let follow = async move {
            catalogue.open().await;
            // Who vouches for whom changes with the roots (protocol.md 6.9).
            loop {
                match events.recv().await {
                    Ok(Event::RootsChanged) | Err(RecvError::Lagged(_)) => {
                        if let Err(error) = catalogue.rescan().await {
                            tracing::error!(%error, "the guest OS store was not read again");
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        };
        context.spawn(follow.into_actor(self));
    }
}

fn find(list: &[Installed], name: &str, version: Version) -> Result<Installed, GuestOsError> {
    select(list, name, version)
        .cloned()
        .ok_or_else(|| GuestOsError::NotInstalled {
            name: shown(name),
            version,
        })
}

/// No version of it is there.
pub fn not_installed(name: &str) -> GuestOsError {
    GuestOsError::NotInstalled {
        name: shown(name),
        version: Version::AtLeast(0),
    }
}

/// A hostile or overlong name is cut down to what an error message can carry.
fn shown(name: &str) -> String {
    match is_component(name) {
        true => name.to_owned(),
        false => name.escape_debug().take(64).collect(),
    }
}

async fn resolve_mounts(
    images: &Images,
    config: &GuestOsConfig,
    mounts: &[GuestOsMount],
) -> Result<Vec<ResolvedMount>, GuestOsError> {
    let mut resolved = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let image = match has_image(mount) {
            true => Some(images.lease(config, mount).await?),
            false => None,
        };
        resolved.push(ResolvedMount {
            mount: mount.clone(),
            image,
        });
    }
    Ok(resolved)
}

impl Handler<List> for GuestOs {
    type Result = ResponseFuture<Result<Vec<Installed>, GuestOsError>>;

    fn handle(&mut self, _: List, _: &mut Context<Self>) -> Self::Result {
        let loaded = self.catalogue.loaded();
        Box::pin(async move { Ok(loaded.await?.to_vec()) })
    }
}

impl Handler<Find> for GuestOs {
    type Result = ResponseFuture<Result<Installed, GuestOsError>>;

    fn handle(&mut self, request: Find, _: &mut Context<Self>) -> Self::Result {
        let loaded = self.catalogue.loaded();
        Box::pin(async move { find(&loaded.await?, &request.name, request.version) })
    }
}

impl Handler<Resolve> for GuestOs {
    type Result = ResponseFuture<Result<Resolved, GuestOsError>>;

    fn handle(&mut self, request: Resolve, _: &mut Context<Self>) -> Self::Result {
        let loaded = self.catalogue.loaded();
        let images = self.images.clone();
        Box::pin(async move {
            let installed = find(&loaded.await?, &request.name, request.version)?;
            let config = &installed.config;
            let mounts = resolve_mounts(&images, config, &config.mounts).await?;
            let setup_mounts = match request.setup {
                true => resolve_mounts(&images, config, &config.mounts_setup).await?,
                false => Vec::new(),
            };
            Ok(Resolved {
                installed,
                mounts,
                setup_mounts,
            })
        })
    }
}

impl Handler<CopyImage> for GuestOs {
    type Result = ResponseFuture<Result<(), GuestOsError>>;

    fn handle(&mut self, request: CopyImage, _: &mut Context<Self>) -> Self::Result {
        let images = self.images.clone();
        Box::pin(async move {
            let config = &request.config;
            let mounts = config.mounts.iter().chain(&config.mounts_setup);
            let mut images_of = mounts.filter(|mount| mount.mount_type() == Type::Copy);
            let mount = images_of.find(|mount| mount.image_file == request.image);
            let mount = mount.ok_or_else(|| GuestOsError::BadImage {
                path: request.image.clone(),
                reason: "the guest OS has no such image to be copied".into(),
            })?;
            images.copy(config, mount, request.into).await
        })
    }
}

impl Handler<Rescan> for GuestOs {
    type Result = ResponseFuture<Result<(), GuestOsError>>;

    fn handle(&mut self, _: Rescan, _: &mut Context<Self>) -> Self::Result {
        let catalogue = self.catalogue.clone();
        Box::pin(async move { catalogue.rescan().await })
    }
}

impl Handler<Settle> for GuestOs {
    type Result = ResponseFuture<Result<Settled, GuestOsError>>;

    fn handle(&mut self, _: Settle, _: &mut Context<Self>) -> Self::Result {
        Box::pin(async { Ok(Settled::new(OUTSIDE.settle().await)) })
    }
}

impl Handler<Push> for GuestOs {
    type Result = ResponseActFuture<Self, Result<Installation, GuestOsError>>;

    /// The installation is the actor's own, so that it ends with it and not with the client.
    fn handle(&mut self, request: Push, _: &mut Context<Self>) -> Self::Result {
        let installer = self.installer.clone();
        let accept = async move { installer.accept(request).await };
        Box::pin(accept.into_actor(self).map(|order, actor, context| {
            let order = order.inspect_err(|error| tracing::warn!(%error, "push refused"))?;
            let (tell, outcome) = oneshot::channel();
            let (progress, stem) = (order.meter.subscribe(), order.stem());
            let (installer, events) = (actor.installer.clone(), actor.events.clone());
            let install = async move {
                let ended = installer.install(order).await;
                events.audit(Did::PushOs.with(&stem).result(&ended));
                match &ended {
                    Ok(()) => tracing::info!(guestos = stem, "installed"),
                    Err(error) => tracing::error!(guestos = stem, %error, "not installed"),
                }
                // A client that is gone need not know.
                let _ = tell.send(ended);
            };
            context.spawn(install.into_actor(actor));
            Ok(Installation { progress, outcome })
        }))
    }
}

impl Handler<Remove> for GuestOs {
    type Result = ResponseFuture<Result<(), GuestOsError>>;

    fn handle(&mut self, request: Remove, _: &mut Context<Self>) -> Self::Result {
        let installer = self.installer.clone();
        Box::pin(async move { installer.remove(&request.name).await })
    }
}

impl Handler<Purge> for GuestOs {
    type Result = ResponseFuture<Result<(), GuestOsError>>;

    fn handle(&mut self, request: Purge, _: &mut Context<Self>) -> Self::Result {
        let installer = self.installer.clone();
        Box::pin(async move { installer.purge(&request.needed).await })
    }
}
