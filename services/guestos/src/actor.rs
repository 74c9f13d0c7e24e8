//! The guest OS actor: loads the store when it starts, and answers when it has.

use std::{path::PathBuf, sync::Arc};

use cml_bus::{
    actor::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture},
    api::{
        guestos::{
            CopyImage, Find, GuestOsError, Installed, List, Rescan, Resolve, Resolved,
            ResolvedMount, Version,
        },
        token::TokenPort,
    },
    blocking::Pool,
    error::BusError,
    supervisor::Watch,
};
use cml_sys::path::is_component;
use cml_wire::{
    proto::{ContainerTrust, GuestOsConfig, GuestOsMount, guest_os_mount::Type},
    text,
};
use tokio::sync::watch;

use crate::{
    check::{check, has_image},
    images::Images,
    select::select,
    store,
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
}

type Catalogue = Arc<Vec<Installed>>;

/// What loading needs; everything else of the actor stays where it is.
#[derive(Debug, Clone)]
struct Loader {
    settings: Settings,
    token: TokenPort,
    files: Pool,
}

/// The guest OS service.
#[derive(Debug)]
pub struct GuestOs {
    loader: Loader,
    images: Images,
    /// `None` until the store was read for the first time.
    catalogue: watch::Sender<Option<Catalogue>>,
    _watch: Watch,
}

impl GuestOs {
    /// Starts the actor on the current arbiter.
    pub fn start(settings: Settings, token: TokenPort, watch: Watch) -> Addr<Self> {
        let images = Images::new(settings.store.clone(), settings.mounts.clone());
        Actor::start(Self {
            loader: Loader {
                settings,
                token,
                files: Pool::new("guest OS store", 1),
            },
            images,
            catalogue: watch::Sender::new(None),
            _watch: watch,
        })
    }

    /// The installed guest OSes, as soon as they are known.
    fn loaded(&self) -> impl Future<Output = Result<Catalogue, GuestOsError>> + use<> {
        let mut catalogue = self.catalogue.subscribe();
        async move {
            let loaded = catalogue.wait_for(Option::is_some).await;
            // The sender lives as long as the actor.
            loaded
                .ok()
                .and_then(|loaded| loaded.clone())
                .ok_or(GuestOsError::Bus(BusError::ServerDeath("guestos")))
        }
    }
}

impl Actor for GuestOs {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let loader = self.loader.clone();
        let catalogue = self.catalogue.clone();
        let load = async move {
            let loaded = loader.load().await.unwrap_or_else(|error| {
                tracing::error!(%error, "the guest OS store cannot be read");
                Catalogue::default()
            });
            catalogue.send_replace(Some(loaded));
        };
        context.spawn(load.into_actor(self));
    }
}

impl Loader {
    async fn load(&self) -> Result<Catalogue, GuestOsError> {
        let store = self.settings.store.clone();
        let entries = self.files.run(move || store::scan(&store)).await;
        let mut installed = Vec::new();
        for entry in entries.map_err(BusError::from)?? {
            let stem = entry.stem.clone();
            match self.verified(entry).await {
                Ok(one) => installed.push(one),
                Err(reason) => tracing::warn!(guestos = stem, reason, "guest OS skipped"),
            }
        }
        tracing::info!(count = installed.len(), "guest OSes loaded");
        Ok(Arc::new(installed))
    }

    /// The configuration from exactly the bytes whose signature was checked (SEC-09).
    async fn verified(&self, entry: store::Entry) -> Result<Installed, String> {
        let bytes = entry.signed.data.clone();
        let verdict = self.token.verify_signature.call(entry.signed).await;
        let trust = verdict.map_err(|error| error.to_string())?;
        if trust == ContainerTrust::LocallySigned && !self.settings.accept_locally_signed {
            return Err(
                "only the local CA vouches for it, and device.conf does not have \
                 `locally_signed_images: true`"
                    .into(),
            );
        }
        let config: GuestOsConfig = text::parse(&bytes).map_err(|error| error.to_string())?;
        check(&config).map_err(|error| error.to_string())?;
        if store::stem(&config) != entry.stem {
            let inside = store::stem(&config);
            return Err(format!("its configuration is that of `{inside}`"));
        }
        Ok(Installed {
            config: Arc::new(config),
            trust,
        })
    }
}

/// A hostile or overlong name is cut down to what an error message can carry.
fn find(catalogue: &Catalogue, name: &str, version: Version) -> Result<Installed, GuestOsError> {
    select(catalogue, name, version)
        .cloned()
        .ok_or_else(|| GuestOsError::NotInstalled {
            name: match is_component(name) {
                true => name.to_owned(),
                false => name.escape_debug().take(64).collect(),
            },
            version,
        })
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
        let loaded = self.loaded();
        Box::pin(async move { Ok(loaded.await?.to_vec()) })
    }
}

impl Handler<Find> for GuestOs {
    type Result = ResponseFuture<Result<Installed, GuestOsError>>;

    fn handle(&mut self, request: Find, _: &mut Context<Self>) -> Self::Result {
        let loaded = self.loaded();
        Box::pin(async move { find(&loaded.await?, &request.name, request.version) })
    }
}

impl Handler<Resolve> for GuestOs {
    type Result = ResponseFuture<Result<Resolved, GuestOsError>>;

    fn handle(&mut self, request: Resolve, _: &mut Context<Self>) -> Self::Result {
        let loaded = self.loaded();
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
        let loader = self.loader.clone();
        let catalogue = self.catalogue.clone();
        Box::pin(async move {
            let loaded = loader.load().await?;
            catalogue.send_replace(Some(loaded));
            Ok(())
        })
    }
}
