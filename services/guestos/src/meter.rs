//! How far an installation is.

use cml_wire::proto::Progress;
use tokio::sync::watch;

/// Counts the bytes of all images of an installation.
#[derive(Debug)]
pub struct Meter(watch::Sender<Progress>);

impl Meter {
    /// Nothing is there yet, and nobody knows how much it will be.
    pub fn new(name: String) -> Self {
        Self(watch::Sender::new(Progress {
            name,
            done: 0,
            total: 0,
        }))
    }

    /// Follows it.
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    /// So much it will be.
    pub fn expect(&self, total: u64) {
        self.0.send_modify(|progress| progress.total = total);
    }

    /// So much more is there.
    pub fn forward(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.done += bytes);
    }

    /// So much has to be fetched again.
    pub fn back(&self, bytes: u64) {
        if bytes > 0 {
            self.0
                .send_modify(|progress| progress.done = progress.done.saturating_sub(bytes));
        }
    }
}
