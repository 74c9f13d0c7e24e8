//! The only way to block: named pools with a bound on how many jobs run at once.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::Semaphore};

/// A pool of threads for work that may block: files, mounts, key derivation.
#[derive(Debug, Clone)]
pub struct Pool {
    name: &'static str,
    permits: Arc<Semaphore>,
}

/// The job panicked or the pool is shutting down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job of the pool `{0}` died; see the log")]
pub struct JobDied(pub &'static str);

impl Pool {
    /// A pool that runs at most `width` jobs at a time; more wait their turn.
    pub fn new(name: &'static str, width: usize) -> Self {
        Self {
            name,
            permits: Arc::new(Semaphore::new(width)),
        }
    }

    /// Runs the job on a thread where blocking is allowed.
    ///
    /// # Errors
    /// [`JobDied`] when the job panicked.
    pub async fn run<T, F>(&self, job: F) -> Result<T, JobDied>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| JobDied(self.name))?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            job()
        })
        .await
        .map_err(|_| JobDied(self.name))
    }
}

/// Waits for an answer inside a job of a [`Pool`], such as that of a service below the one whose job it is. The answer must
/// not need the pool of the job.
///
/// # Panics
/// Outside a job.
pub fn wait<T>(answer: impl Future<Output = T>) -> T {
    Handle::current().block_on(answer)
}
