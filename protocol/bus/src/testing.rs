//! Stand-ins for services: inject any message, see what was sent.

use std::sync::{Arc, Mutex, PoisonError};

use crate::port::{Request, Slot};

/// What was sent to a fake, in order.
#[derive(Debug)]
pub struct Recorded<M>(Arc<Mutex<Vec<M>>>);

impl<M> Clone for Recorded<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Recorded<M> {
    /// Takes everything that was recorded so far.
    pub fn take(&self) -> Vec<M> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Binds a slot to a script: every message is recorded and answered by the function.
pub fn fake<M>(
    slot: &Slot<M>,
    answer: impl Fn(&M) -> Result<M::Reply, M::Error> + Send + Sync + 'static,
) -> Recorded<M>
where
    M: Request,
    M::Result: Send,
{
    let recorded = Recorded(Arc::default());
    let log = recorded.clone();
    slot.bind_fn(move |message| {
        let answer = answer(&message);
        log.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(message);
        std::future::ready(answer)
    });
    recorded
}
