//! Installing, updating and removing guest OSes (protocol.md 6.4 to 6.7, 6.10).

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cml_bus::{
    api::{
        guestos::{GuestOsError, Installed, Push},
        token::VerifySignature,
    },
    audit::{Did, Note},
    blocking::Pool,
    error::BusError,
};
use cml_wire::proto::{GuestOsConfig, guest_os_mount::Type};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    catalogue::Catalogue,
    digest::Promise,
    fetch::{Download, Wanted},
    flash::Flash,
    images::Images,
    meter::Meter,
    source::{CallersRoot, Source, for_this_machine, hardware},
    staging::{self, Staging},
    store,
    turns::OUTSIDE,
    version::{admit, obsolete},
    wanted::{Needed, is_present, looks_present, needed},
};

/// Files of one installation that are fetched at the same time.
const AT_ONCE: usize = 2;

/// Files of all installations together: some servers may be silent without stopping the others.
const DOWNLOADS: usize = 16;

/// Carries installations out. Clones share everything.
#[derive(Debug, Clone)]
pub struct Installer {
    catalogue: Catalogue,
    images: Images,
    downloads: Pool,
    /// Hashing of what is there already.
    checks: Pool,
    /// The names of guest OSes that are being changed.
    busy: Arc<Mutex<HashSet<String>>>,
}

/// Keeps others from changing a guest OS.
#[derive(Debug)]
struct Claim {
    name: String,
    busy: Arc<Mutex<HashSet<String>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.name);
    }
}

/// Ends the downloads of an installation that has ended, for whatever reason.
#[derive(Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An installation that may begin.
#[derive(Debug)]
pub struct Order {
    installed: Installed,
    signed: VerifySignature,
    files: Vec<Needed>,
    root: CallersRoot,
    _claim: Claim,
    pub meter: Arc<Meter>,
}

impl Order {
    fn config(&self) -> &GuestOsConfig {
        &self.installed.config
    }

    /// `<name>-<version>`
    pub fn stem(&self) -> String {
        store::stem(self.config())
    }
}

impl Installer {
    pub fn new(catalogue: Catalogue, images: Images) -> Self {
        Self {
            catalogue,
            images,
            downloads: Pool::new("downloads", DOWNLOADS),
            checks: Pool::new("image checks", 2),
            busy: Arc::default(),
        }
    }

    /// When the store is known.
    pub async fn loaded(&self) -> Result<(), GuestOsError> {
        self.catalogue.loaded().await.map(drop)
    }

    fn claim(&self, name: &str) -> Result<Claim, GuestOsError> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match busy.insert(name.to_owned()) {
            true => Ok(Claim {
                name: name.to_owned(),
                busy: self.busy.clone(),
            }),
            false => Err(GuestOsError::Installing(name.to_owned())),
        }
    }

    fn dir(&self, stem: &str) -> PathBuf {
        self.catalogue.settings.store.join(stem)
    }

    /// Everything that can be said before anything is written or fetched.
    pub async fn accept(&self, push: Push) -> Result<Order, GuestOsError> {
        let accepted = self.examine(push).await;
        self.catalogue.audit(match &accepted {
            Ok(order) => Did::StartUpdate.with(order.stem()),
            Err(error) => refusal(error).failed().meta("reason", error),
        });
        accepted
    }

    async fn examine(&self, push: Push) -> Result<Order, GuestOsError> {
        self.catalogue.loaded().await?;
        // At once: the process may be gone, and its number another's, when the signature is checked.
        let root = self.root_of(push.caller).await?;
        let signed = VerifySignature {
            data: push.config,
            signature: push.signature,
            certificate: push.certificate,
        };
        let copy = VerifySignature {
            data: signed.data.clone(),
            signature: signed.signature.clone(),
            certificate: signed.certificate.clone(),
        };
        let installed = self.catalogue.vouched(copy, PUSHED).await?;
        let config = installed.config.clone();
        let files = needed(&config, self.catalogue.settings.allow_sha1)?;
        let claim = self.claim(&config.name)?;
        admit(&self.catalogue.now(), &config, installed.trust)?;
        for_this_machine(&config.hardware)?;
        let mut order = Order {
            meter: Arc::new(Meter::new(store::stem(&config))),
            installed,
            signed,
            files,
            root,
            _claim: claim,
        };
        let (dir, files) = (self.dir(&order.stem()), order.files.clone());
        let look = move || {
            let missing = files.into_iter().filter(|one| !looks_present(&dir, one));
            missing.collect::<Vec<_>>()
        };
        let missing = self.catalogue.files.run(look).await;
        let missing = missing.map_err(BusError::from)?;
        let sources = self.sources(&order, &missing)?;
        // A container's root would be kept busy for nothing.
        if !sources.iter().any(Source::is_callers) {
            order.root = None;
        }
        self.check_room(&order, &missing).await?;
        let (flasher, config) = (self.catalogue.settings.flasher(), config.clone());
        let permit = move || flasher.permit(&config);
        let permitted = self.catalogue.files.run(permit).await;
        permitted.map_err(BusError::from)??;
        Ok(order)
    }

    async fn root_of(&self, caller: Option<i32>) -> Result<CallersRoot, GuestOsError> {
        let Some(caller) = caller else {
            return Ok(None);
        };
        let open = move || cml_sys::proc::root_of(caller).ok().map(Arc::new);
        let opened = self.catalogue.files.run(open).await;
        Ok(opened.map_err(BusError::from)?)
    }

    /// Where the files come from.
    fn sources(&self, order: &Order, files: &[Needed]) -> Result<Vec<Source>, GuestOsError> {
        let config = order.config();
        let base = match config.update_base_url() {
            "" => self.catalogue.settings.update_base_url.as_str(),
            own => own,
        };
        let bad = |reason: String| GuestOsError::BadConfig(reason);
        let of = |needed: &Needed| {
            if base.is_empty() {
                let note = Did::DownloadFromNowhere.with(order.stem());
                self.catalogue.audit(note.failed());
                return Err(bad(
                    "images are missing, and neither it nor device.conf has an update_base_url"
                        .into(),
                ));
            }
            let hardware =
                hardware().ok_or_else(|| bad("there are no images for this machine".into()))?;
            Source::of(base, hardware, &order.stem(), &needed.file).map_err(bad)
        };
        files.iter().map(of).collect()
    }

    async fn check_room(&self, order: &Order, files: &[Needed]) -> Result<(), GuestOsError> {
        let mounts = order.config().mounts.iter();
        let flashed = mounts.filter(|mount| mount.mount_type() == Type::Flash);
        // What they cover is kept.
        let backups = flashed.map(|mount| mount.image_size());
        let sizes = files.iter().map(Needed::size).chain(backups);
        let needed = sizes.fold(0, u64::saturating_add);
        let store = self.catalogue.settings.store.clone();
        let space = self
            .catalogue
            .files
            .run(move || cml_sys::space::of(&store))
            .await
            .map_err(BusError::from)?
            .map_err(|error| GuestOsError::Store {
                reason: error.source.to_string(),
                path: error.subject,
            })?;
        let reserve = space.total / 100 * u64::from(self.catalogue.settings.reserve.min(100));
        let free = space.free.saturating_sub(reserve);
        match needed == 0 || needed <= free {
            true => Ok(()),
            false => Err(GuestOsError::NoRoom { needed, free }),
        }
    }

    /// Fetches what is missing and makes the version part of the store. Whatever goes wrong leaves the store
    /// as it was.
    pub async fn install(&self, order: Order) -> Result<(), GuestOsError> {
        let stem = order.stem();
        let (dir, files) = (self.dir(&stem), order.files.clone());
        let check = move || {
            let missing = files.into_iter().filter(|one| !is_present(&dir, one));
            missing.collect::<Vec<_>>()
        };
        let missing = self.checks.run(check).await.map_err(BusError::from)?;
        let sources = self.sources(&order, &missing)?;
        self.check_room(&order, &missing).await?;
        let staging = self.stage(&order, &missing).await?;
        let to_do = match missing.is_empty() {
            true => Did::DownloadNothing,
            false => Did::StartDownload,
        };
        self.catalogue.audit(to_do.with(&stem));
        let fetched = self.fetch(&order, &missing, sources, staging.1).await;
        if !missing.is_empty() {
            self.catalogue
                .audit(Did::Download.with(&stem).result(&fetched));
        }
        let staging = Arc::new(staging.0);
        let installed = match fetched {
            Ok(()) => {
                self.look_at_trees(&missing, staging.clone()).await;
                self.flash_and_commit(&order, staging.clone()).await
            }
            Err(error) => Err(error),
        };
        if installed.is_err() {
            let _ = self.catalogue.files.run(move || staging.abandon()).await;
        }
        installed
    }

    /// The existing system installs whatever comes as a tree of hashes, and its acceptance suite has some that are
    /// none. A container whose kernel needs it will not start, so it is said here; the next push fetches it again.
    async fn look_at_trees(&self, fetched: &[Needed], staging: Arc<Staging>) {
        let trees: Vec<_> = fetched
            .iter()
            .filter(|one| one.tree.is_some())
            .cloned()
            .collect();
        let look = move || {
            for Needed { file, tree, .. } in trees {
                if !tree.is_some_and(|tree| tree.is_whole(&staging.image(&file))) {
                    tracing::warn!(
                        file,
                        "not the tree of hashes that the configuration promises"
                    );
                }
            }
        };
        let _ = self.checks.run(look).await;
    }

    /// What belongs outside the store goes there first: a version that is installed is complete.
    async fn flash_and_commit(
        &self,
        order: &Order,
        staging: Arc<Staging>,
    ) -> Result<(), GuestOsError> {
        let flasher = self.catalogue.settings.flasher();
        let flashes = self.flashes(order, &staging)?;
        let turn = OUTSIDE.take().await;
        let stem = order.stem();
        let (flash, named, config) = (flasher.clone(), stem.clone(), order.signed.data.clone());
        let any = !flashes.is_empty();
        // The turn is the writer's own: it does not stop when the service dies.
        let write = move || (flash.write(&named, &config, &flashes), turn);
        let (written, _turn) = self.checks.run(write).await.map_err(BusError::from)?;
        if any {
            self.catalogue
                .audit(Did::FlashOs.with(&stem).result(&written));
        }
        written?;
        let committed = self.commit(order, staging).await;
        let settle = {
            let good = committed.is_ok();
            move || match good {
                true => flasher.done(&stem),
                false => flasher.take_back(&stem),
            }
        };
        let settled = self.checks.run(settle).await.map_err(BusError::from)?;
        if let Err(error) = settled {
            tracing::error!(%error, "the journal of a flashed version stays");
        }
        committed
    }

    /// Settles what a previous daemon has left of a flashing. Not before the list is known: a target may be slow.
    pub async fn recover_flashing(&self) {
        let turn = OUTSIDE.take().await;
        let flasher = self.catalogue.settings.flasher();
        let store = self.catalogue.settings.store.clone();
        let recover = move || {
            flasher.recover(&store);
            drop(turn);
        };
        if let Err(error) = self.checks.run(recover).await {
            tracing::error!(%error, "an interrupted flashing was not settled");
        }
    }

    /// The images of the version that belong elsewhere: fetched ones lie in the staging directory still.
    fn flashes(&self, order: &Order, staging: &Staging) -> Result<Vec<Flash>, GuestOsError> {
        let config = order.config();
        let mounts = config.mounts.iter().chain(&config.mounts_setup);
        let mut flashes = Vec::new();
        for mount in mounts.filter(|mount| mount.mount_type() == Type::Flash) {
            let name = format!("{}.img", mount.image_file);
            let fetched = staging.image(&name);
            let promise = Promise::of(mount, self.catalogue.settings.allow_sha1);
            flashes.push(Flash {
                image: match fetched.exists() {
                    true => fetched,
                    false => self.dir(&order.stem()).join(name),
                },
                promise: promise.map_err(GuestOsError::BadConfig)?,
                target: PathBuf::from(&mount.mount_point),
            });
        }
        Ok(flashes)
    }

    /// The directory to be filled, with a file for everything that is missing.
    async fn stage(
        &self,
        order: &Order,
        missing: &[Needed],
    ) -> Result<(Staging, Vec<PathBuf>), GuestOsError> {
        let (store, stem) = (self.catalogue.settings.store.clone(), order.stem());
        let signed = VerifySignature {
            data: order.signed.data.clone(),
            signature: order.signed.signature.clone(),
            certificate: order.signed.certificate.clone(),
        };
        let missing = missing.to_vec();
        let stage = move || {
            let staging = Staging::begin(&store, &stem, &signed)?;
            let reserve = |one: &Needed| match &one.wanted {
                Wanted::Image(promise) => staging.reserve(&one.file, promise.size),
                Wanted::UpTo(_) => staging.reserve(&one.file, 0),
            };
            let paths: Result<Vec<_>, _> = missing.iter().map(reserve).collect();
            match paths {
                Ok(paths) => Ok((staging, paths)),
                Err(error) => {
                    staging.abandon();
                    Err(error)
                }
            }
        };
        let staged = self.catalogue.files.run(stage).await;
        staged.map_err(BusError::from)?
    }

    async fn fetch(
        &self,
        order: &Order,
        missing: &[Needed],
        sources: Vec<Source>,
        paths: Vec<PathBuf>,
    ) -> Result<(), GuestOsError> {
        let images = missing.iter().filter_map(|one| match &one.wanted {
            Wanted::Image(promise) => Some(promise.size),
            Wanted::UpTo(_) => None,
        });
        order.meter.expect(images.sum());
        let stop = Stop::default();
        let downloads = missing.iter().zip(sources).zip(paths);
        let downloads = downloads.map(|((needed, source), into)| {
            let meter = match needed.wanted {
                Wanted::Image(_) => order.meter.clone(),
                // Nobody knows its size.
                Wanted::UpTo(_) => Arc::new(Meter::new(needed.file.clone())),
            };
            Download {
                source,
                root: order.root.clone(),
                wanted: needed.wanted.clone(),
                into,
                meter,
                stop: stop.0.clone(),
            }
        });
        // Collected first: what is done at the same time must not borrow.
        let downloads: Vec<_> = downloads.collect();
        stream::iter(downloads)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |download| download.run(&self.downloads))
            .await
    }

    async fn commit(&self, order: &Order, staging: Arc<Staging>) -> Result<(), GuestOsError> {
        let _turn = self.catalogue.changes.lock().await;
        let commit = move || staging.commit();
        let done = self.catalogue.files.run(commit).await;
        done.map_err(BusError::from)??;
        let mut list = self.catalogue.now().to_vec();
        let installed = order.installed.clone();
        let key = |one: &Installed| store::stem(&one.config);
        match list.iter().position(|one| key(one) == key(&installed)) {
            Some(at) => list[at] = installed,
            None => list.push(installed),
        }
        self.catalogue.set(list);
        Ok(())
    }

    /// Deletes all versions of a guest OS.
    pub async fn remove(&self, name: &str) -> Result<(), GuestOsError> {
        let removed = self.remove_all(name).await;
        self.catalogue
            .audit(Did::RemoveOs.with(name).result(&removed));
        removed
    }

    async fn remove_all(&self, name: &str) -> Result<(), GuestOsError> {
        self.catalogue.loaded().await?;
        let _claim = self.claim(name)?;
        let _turn = self.catalogue.changes.lock().await;
        let (store, named) = (self.catalogue.settings.store.clone(), name.to_owned());
        let versions = move || store::versions(&store, &named);
        let stems = self.catalogue.files.run(versions).await;
        let stems = stems.map_err(BusError::from)??;
        if stems.is_empty() {
            return Err(crate::actor::not_installed(name));
        }
        self.delete(stems).await
    }

    /// Deletes versions that nobody needs: older than the newest one of their name.
    pub async fn purge(&self, needed: &[(String, u64)]) -> Result<(), GuestOsError> {
        self.catalogue.loaded().await?;
        let _turn = self.catalogue.changes.lock().await;
        let mut stems = Vec::new();
        for one in obsolete(&self.catalogue.now(), needed) {
            let stem = store::stem(&one);
            let claim = self.claim(&one.name);
            if claim.is_ok() && !self.images.in_use(&self.dir(&stem)).await {
                tracing::info!(guestos = stem, "an obsolete version is deleted");
                let note = Did::RemoveOs.with(&stem).meta("reason", "obsolete");
                self.catalogue.audit(note);
                stems.push((stem, claim));
            }
        }
        let (stems, _claims): (Vec<_>, Vec<_>) = stems.into_iter().unzip();
        self.delete(stems).await
    }

    async fn delete(&self, stems: Vec<String>) -> Result<(), GuestOsError> {
        if stems.is_empty() {
            return Ok(());
        }
        let mut list = self.catalogue.now().to_vec();
        list.retain(|one| !stems.contains(&store::stem(&one.config)));
        // Nobody can choose it any more from here on.
        self.catalogue.set(list);
        let store = self.catalogue.settings.store.clone();
        let flasher = self.catalogue.settings.flasher();
        let delete = move || {
            let removals = stems.iter().map(|stem| {
                staging::remove(&store, stem)?;
                flasher.forget(stem)
            });
            removals.collect::<Vec<_>>().into_iter().collect()
        };
        let deleted = self.catalogue.files.run(delete).await;
        deleted.map_err(BusError::from)?
    }
}

/// What a pushed configuration is called before anybody knows that it is one.
const PUSHED: &str = "pushed";

/// What the audit log calls a push that was refused.
fn refusal(error: &GuestOsError) -> Note {
    match error {
        GuestOsError::BadConfig(_) => Did::PushInvalid.with(PUSHED),
        GuestOsError::Downgrade {
            name,
            version,
            newest,
        } => Did::PushOld
            .with(name)
            .meta("installed_version", newest)
            .meta("update_version", version),
        GuestOsError::Installing(name) => Did::DownloadTwice.with(name),
        _ => Did::PushOs.with(PUSHED),
    }
}
