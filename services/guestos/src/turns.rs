//! Who may write outside the store: one at a time, across restarts of the service, and nobody while the device ends.

use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, MutexGuard};

/// The right to write outside the store.
pub type Turn = MutexGuard<'static, ()>;

/// The turns of this process: two guest OSes may have one target.
pub static OUTSIDE: Turns = Turns::new();

/// Whose turn it is.
#[derive(Debug)]
pub struct Turns {
    writing: Mutex<()>,
    /// The turn of those who end the device, for as long as any of them keeps it.
    settled: Mutex<Weak<Turn>>,
}

impl Turns {
    const fn new() -> Self {
        Self {
            writing: Mutex::const_new(()),
            settled: Mutex::const_new(Weak::new()),
        }
    }

    /// The turn of a writer.
    pub async fn take(&'static self) -> Turn {
        self.writing.lock().await
    }

    /// Waits until nobody writes, and lets nobody begin while the answer is kept. Several may ask for it, as the power
    /// button does in the middle of a reboot.
    pub async fn settle(&'static self) -> Arc<Turn> {
        let mut settled = self.settled.lock().await;
        if let Some(turn) = settled.upgrade() {
            return turn;
        }
        let turn = Arc::new(self.take().await);
        *settled = Arc::downgrade(&turn);
        turn
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{task::Poll, time::Duration};

    use futures_util::poll;
    use tokio::{join, pin, time::timeout};

    use super::*;

    #[tokio::test]
    async fn all_who_end_the_device_wait_for_the_writer_and_keep_the_next_one_out_together() {
        static TURNS: Turns = Turns::new();
        let writer = TURNS.take().await;
        let both = async { join!(TURNS.settle(), TURNS.settle()) };
        pin!(both);
        assert!(poll!(&mut both).is_pending(), "it is being written");
        drop(writer);
        let (first, second) = timeout(Duration::from_secs(60), both).await.unwrap();
        let next = TURNS.take();
        pin!(next);
        for kept in [first, second] {
            assert!(poll!(&mut next).is_pending());
            drop(kept);
        }
        // The machine runs on after all.
        assert!(matches!(poll!(&mut next), Poll::Ready(_)));
    }
}
