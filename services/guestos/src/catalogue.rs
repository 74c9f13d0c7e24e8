//! The installed guest OSes as the service knows them, and how they come in from the store.

use std::sync::Arc;

use cml_bus::{
    api::{
        guestos::{GuestOsError, Installed},
        token::{TokenPort, VerifySignature},
    },
    audit::{Did, Note},
    blocking::Pool,
    error::BusError,
    event::{Event, Events},
};
use cml_wire::{
    proto::{ContainerTrust, GuestOsConfig},
    rules,
};
use tokio::sync::{Mutex, watch};

use crate::{actor::Settings, staging, store};

/// The installed guest OSes at one time.
pub type List = Arc<Vec<Installed>>;

/// The one list of the service. Clones share it.
#[derive(Debug, Clone)]
pub struct Catalogue {
    pub settings: Settings,
    token: TokenPort,
    events: Events,
    /// Reading and writing the store; never behind a download.
    pub files: Pool,
    /// `None` until the store was read for the first time.
    list: watch::Sender<Option<List>>,
    /// Whoever changes files and list together does so in turn.
    pub changes: Arc<Mutex<()>>,
}

impl Catalogue {
    pub fn new(settings: Settings, token: TokenPort, events: Events) -> Self {
        Self {
            settings,
            token,
            events,
            files: Pool::new("guest OS store", 1),
            list: watch::Sender::new(None),
            changes: Arc::default(),
        }
    }

    /// Tells the audit log.
    pub fn audit(&self, note: Note) {
        self.events.audit(note);
    }

    /// The list, as soon as it is known.
    pub fn loaded(&self) -> impl Future<Output = Result<List, GuestOsError>> + use<> {
        let mut list = self.list.subscribe();
        async move {
            let loaded = list.wait_for(Option::is_some).await;
            // The sender lives as long as the actor.
            loaded
                .ok()
                .and_then(|loaded| loaded.clone())
                .ok_or(GuestOsError::Bus(BusError::ServerDeath("guestos")))
        }
    }

    /// The list as it is now; empty before it is known.
    pub fn now(&self) -> List {
        self.list.borrow().clone().unwrap_or_default()
    }

    /// Replaces the list; whoever depends on it is told when it is another one.
    pub fn set(&self, list: Vec<Installed>) {
        let same = |old: &List| {
            let pairs = old.iter().zip(&list);
            old.len() == list.len()
                && pairs
                    .into_iter()
                    .all(|(a, b)| a.trust == b.trust && a.config == b.config)
        };
        let changed = !self.list.borrow().as_ref().is_some_and(same);
        self.list.send_replace(Some(Arc::new(list)));
        if changed {
            self.events.publish(Event::GuestOsListChanged);
        }
    }

    /// The first look at the store, after what a previous daemon has begun was finished.
    pub async fn open(&self) {
        let store = self.settings.store.clone();
        let recovered = self.files.run(move || staging::recover(&store)).await;
        let recovered = recovered.map_err(|died| BusError::from(died).into());
        let loaded = match recovered.and_then(|recovered| recovered) {
            Ok(()) => self.rescan().await,
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            tracing::error!(%error, "the guest OS store cannot be read");
            self.set(Vec::new());
        }
    }

    /// Reads the store again.
    pub async fn rescan(&self) -> Result<(), GuestOsError> {
        let _turn = self.changes.lock().await;
        let store = self.settings.store.clone();
        let entries = self.files.run(move || store::scan(&store)).await;
        let mut installed = Vec::new();
        for entry in entries.map_err(BusError::from)?? {
            let stem = entry.stem.clone();
            let verified = self.verified(entry).await;
            self.audit(Did::LoadOs.with(&stem).result(&verified));
            match verified {
                Ok(one) => installed.push(one),
                Err(error) => tracing::warn!(guestos = stem, %error, "guest OS skipped"),
            }
        }
        tracing::info!(count = installed.len(), "guest OSes loaded");
        self.set(installed);
        Ok(())
    }

    async fn verified(&self, entry: store::Entry) -> Result<Installed, GuestOsError> {
        let one = self.vouched(entry.signed, &entry.stem).await?;
        let inside = store::stem(&one.config);
        match inside == entry.stem {
            true => Ok(one),
            false => Err(GuestOsError::BadConfig(format!("it is that of `{inside}`"))),
        }
    }

    /// The configuration from exactly the bytes whose signature was checked (SEC-09). `named` is what it is known by
    /// so far.
    pub async fn vouched(
        &self,
        signed: VerifySignature,
        named: &str,
    ) -> Result<Installed, GuestOsError> {
        let bytes = signed.data.clone();
        let trust = self.token.verify_signature.call(signed).await;
        self.audit(match &trust {
            Ok(ContainerTrust::LocallySigned) => Did::VerifyLocal.with(named),
            verified => match verified {
                Ok(_) => Did::VerifyGood,
                Err(_) => Did::VerifyFailed,
            }
            .with(named)
            .result(verified),
        });
        let trust = trust?;
        if trust == ContainerTrust::LocallySigned && !self.settings.accept_locally_signed {
            return Err(GuestOsError::BadConfig(
                "only the local CA vouches for it, and device.conf does not have \
                 `locally_signed_images: true`"
                    .into(),
            ));
        }
        let bad = |reason: String| GuestOsError::BadConfig(reason);
        let config: GuestOsConfig = rules::read(&bytes).map_err(|error| bad(error.to_string()))?;
        Ok(Installed {
            config: Arc::new(config),
            trust,
        })
    }
}
