//! Whether the device is in provisioned mode: decided by one service, seen by others at once.
//!
//! A state and not an event, so that a service which was restarted sees it as well. The composition root makes the
//! pair and hands each half out: nobody but the holder of [`Provision`] can change the mode.

use tokio::sync::watch;

/// The half that puts the device into provisioned mode. There is no way back (protocol.md 7.3).
#[derive(Debug, Clone)]
pub struct Provision(watch::Sender<bool>);

/// The half that sees the mode.
#[derive(Debug, Clone)]
pub struct Provisioned(watch::Receiver<bool>);

/// A pair that begins in this mode.
pub fn mode(provisioned: bool) -> (Provision, Provisioned) {
    let (tell, seen) = watch::channel(provisioned);
    (Provision(tell), Provisioned(seen))
}

impl Provision {
    /// From now on the device is provisioned.
    pub fn set(&self) {
        self.0.send_replace(true);
    }
}

impl Provisioned {
    /// Whether the device is provisioned now.
    pub fn get(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the device is provisioned; never if that cannot happen any more.
    pub async fn entered(&mut self) {
        if self.0.wait_for(|provisioned| *provisioned).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_holder_sees_the_change_at_once() {
        let (provision, seen) = mode(false);
        let other = seen.clone();
        assert!(!seen.get() && !other.get());
        provision.set();
        assert!(seen.get() && other.get());
    }
}
