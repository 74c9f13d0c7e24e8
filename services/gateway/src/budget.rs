//! How much memory unfinished requests may take in the whole process (SEC-15).
//!
//! A connection buffers up to [`FREE`] bytes of its own; a longer frame must get its full length from the
//! budget before its body is read, and keeps it until the request was carried out. The message decoded
//! from a frame is about as large as the frame, so the peak is at most twice the budget.

use std::sync::{Arc, LazyLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames up to this long (bytes, with header) need no budget.
pub const FREE: usize = 64 * 1024;

/// 192 MiB together. Guests have a share of their own, so that they cannot keep the host's requests
/// waiting; each share has room for one frame of the largest legal size.
const HOST: usize = 128 * 1024 * 1024;
const GUESTS: usize = 64 * 1024 * 1024;

static HOST_SHARE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(HOST)));
static GUEST_SHARE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(GUESTS)));

/// A share of the process-wide budget, in bytes.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// The share of privileged sockets, or that of guests.
    pub fn of(privileged: bool) -> Self {
        Self(if privileged {
            HOST_SHARE.clone()
        } else {
            GUEST_SHARE.clone()
        })
    }

    /// A budget of this size that is shared with nobody.
    #[cfg(test)]
    pub fn private(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Waits for this many bytes; they come back when the permit is dropped.
    pub async fn take(&self, bytes: u32) -> OwnedSemaphorePermit {
        #[allow(clippy::expect_used)]
        self.0
            .clone()
            .acquire_many_owned(bytes)
            .await
            .expect("the semaphore is never closed")
    }
}
