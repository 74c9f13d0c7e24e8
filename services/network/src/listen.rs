//! What happens to the host's network while nobody asks: interfaces come, and rules are removed.

use std::{fs::File, io, sync::Arc, time::Duration};

use cml_bus::actor::{Addr, Handler, Message};
use cml_sys::{
    Result,
    net::{namespace::Namespace, tables::TableWatch, watch::LinkWatch},
    ready::{self, Interest},
};

use crate::actor::Network;

/// How long it takes until somebody listens again who could not.
const PAUSE: Duration = Duration::from_secs(1);

/// Something that hears of changes.
pub trait Ear: Sized + 'static {
    /// What it hears of.
    const WHAT: &'static str;
    /// How long a change may go on: an interface that has just come may be given another name in a moment
    /// (runtime.md 0.5).
    const SETTLE: Duration;

    /// Begins to listen.
    fn open(host: &Namespace) -> Result<Self>;
    /// For an event loop.
    fn file(&self) -> io::Result<File>;
    /// Whether something has happened since this was last asked.
    fn take(&self) -> io::Result<bool>;
}

impl Ear for LinkWatch {
    const WHAT: &'static str = "interfaces";
    const SETTLE: Duration = Duration::from_millis(100);

    fn open(host: &Namespace) -> Result<Self> {
        Self::new(host)
    }

    fn file(&self) -> io::Result<File> {
        self.file()
    }

    fn take(&self) -> io::Result<bool> {
        self.take().map(|heard| heard.news)
    }
}

impl Ear for TableWatch {
    const WHAT: &'static str = "tables of rules";
    const SETTLE: Duration = Duration::ZERO;

    fn open(host: &Namespace) -> Result<Self> {
        Self::new(host)
    }

    fn file(&self) -> io::Result<File> {
        self.file()
    }

    fn take(&self) -> io::Result<bool> {
        self.take()
    }
}

/// Tells the service of changes, for ever. `first` listens already; whenever listening begins, there is a look at what
/// happened before. It opens sockets on a thread of their own, which is done in a moment.
pub async fn listen<E: Ear, M>(
    first: Option<Result<E>>,
    host: Arc<Namespace>,
    service: Addr<Network>,
    news: impl Fn() -> M,
) where
    M: Message + Send + 'static,
    M::Result: Send,
    Network: Handler<M>,
{
    let mut next = first;
    loop {
        let ear = next.take().unwrap_or_else(|| E::open(&host));
        let ended = match ear {
            Ok(ear) => hear(&ear, &service, &news).await.err(),
            Err(error) => Some(io::Error::other(error)),
        };
        let error = ended.map(|error| error.to_string());
        tracing::error!(what = E::WHAT, error, "not listening; it is tried again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn hear<E: Ear, M>(ear: &E, service: &Addr<Network>, news: &impl Fn() -> M) -> io::Result<()>
where
    M: Message + Send + 'static,
    M::Result: Send,
    Network: Handler<M>,
{
    let file = ready::watch(ear.file()?, Interest::READABLE)?;
    let _ = service.send(news()).await;
    loop {
        let mut ready = file.readable().await?;
        ready.clear_ready();
        if ear.take()? {
            tokio::time::sleep(E::SETTLE).await;
            let _ = service.send(news()).await;
        }
    }
}
