//! The audit actor: writes as soon as something is noted, brings it to the disk a moment later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cml_bus::{
    actor::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture},
    api::audit::{AuditError, Flush, Follow, List, Next, Stored, Verdict, Verify},
    audit::Trail,
    blocking::Pool,
    error::BusError,
    id::ContainerId,
    supervisor::Watch,
};
use cml_wire::proto::AuditEntry;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use crate::journal::{Journal, Settings};

/// How long a record may wait for the disk. A process that is killed loses nothing by it, a machine whose power fails
/// does; in exchange, what a start notes costs the disk one write.
const SYNC_AFTER: Duration = Duration::from_millis(200);
/// Records in one list, so that nobody has all logs brought into memory: the newest.
const LIST_MAX: usize = 50_000;
/// Pause before the disk is tried again when it failed.
const RETRY: Duration = Duration::from_secs(5);

type Followers = Arc<Mutex<HashMap<ContainerId, watch::Sender<u64>>>>;

/// The audit service.
#[derive(Debug)]
pub struct Audit {
    logs: Logs,
    _watch: Watch,
}

/// The logs, and who wants to know of them. Clones share everything.
#[derive(Debug, Clone)]
struct Logs {
    settings: Settings,
    trail: Trail,
    /// Not there until the first job has opened it, and after one that has died in the middle.
    journal: Arc<Mutex<Option<Journal>>>,
    followers: Followers,
    /// One at a time.
    disk: Pool,
    /// Reads what the other writes behind.
    checks: Pool,
    /// Something that is not noted has changed: a guest has acknowledged a record.
    acknowledged: Arc<Notify>,
}

impl Audit {
    /// Starts the actor on the current arbiter. It writes what goes to this trail.
    pub fn start(settings: Settings, trail: Trail, watch: Watch) -> Addr<Self> {
        Actor::start(Self {
            logs: Logs {
                settings,
                trail,
                journal: Arc::default(),
                followers: Arc::default(),
                disk: Pool::new("audit logs", 1),
                checks: Pool::new("audit checks", 1),
                acknowledged: Arc::default(),
            },
            _watch: watch,
        })
    }
}

impl Logs {
    /// Runs a job on the journal; `None` when there is none.
    async fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Journal) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<Option<T>, AuditError> {
        let (journal, settings) = (self.journal.clone(), self.settings.clone());
        let done = self.disk.run(move || {
            let mut place = journal.lock().unwrap_or_else(PoisonError::into_inner);
            // Taken out: a job that panics leaves none, and the next one opens it from the disk.
            let opened = match place.take() {
                Some(journal) => Some(journal),
                None => Journal::open(&settings)?,
            };
            let Some(mut journal) = opened else {
                return Ok(None);
            };
            let done = job(&mut journal);
            *place = Some(journal);
            done.map(Some)
        });
        done.await.map_err(BusError::from)?
    }

    /// As [`Logs::with`], for what means nothing without a log being kept.
    async fn kept<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Journal) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        if self.settings.limit == 0 {
            return Err(AuditError::Off);
        }
        self.with(job).await?.ok_or(AuditError::Off)
    }

    /// Writes what waits.
    async fn take_in(&self) -> Result<(), AuditError> {
        let trail = self.trail.clone();
        let changed = self
            .with(move |journal| Ok(journal.take_in(&trail)))
            .await?;
        let mut followers = self.lock();
        followers.retain(|_, follower| follower.receiver_count() > 0);
        for (id, room) in changed.unwrap_or_default() {
            if let Some(follower) = followers.get(&id) {
                follower.send_replace(room);
            }
        }
        Ok(())
    }

    /// Writes what waits, and waits for the disk.
    async fn flush(&self) -> Result<(), AuditError> {
        self.take_in().await?;
        self.with(Journal::sync).await.map(drop)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, watch::Sender<u64>>> {
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes, or acknowledgements.
    async fn changed(&self) {
        tokio::select! {
            () = self.trail.arrived() => {}
            () = self.acknowledged.notified() => {}
        }
    }

    async fn keep(self) {
        // What was noted before the service was there.
        let mut written = self.flush().await;
        loop {
            if let Err(error) = &written {
                tracing::error!(%error, "audit records wait: they cannot be written");
                tokio::time::sleep(RETRY).await;
            } else {
                self.changed().await;
            }
            let due = Instant::now() + SYNC_AFTER;
            written = loop {
                if let Err(error) = self.take_in().await {
                    break Err(error);
                }
                if timeout_at(due, self.changed()).await.is_err() {
                    break self.flush().await;
                }
            };
        }
    }
}

impl Actor for Audit {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.spawn(self.logs.clone().keep().into_actor(self));
    }
}

impl Handler<Follow> for Audit {
    type Result = ResponseFuture<Result<watch::Receiver<u64>, AuditError>>;

    fn handle(&mut self, request: Follow, _: &mut Context<Self>) -> Self::Result {
        let logs = self.logs.clone();
        Box::pin(async move {
            let id = request.container;
            let room = logs.kept(move |journal| Ok(journal.room(id))).await?;
            let mut followers = logs.lock();
            let follower = followers.entry(id);
            Ok(follower
                .or_insert_with(|| watch::Sender::new(room))
                .subscribe())
        })
    }
}

impl Handler<Next> for Audit {
    type Result = ResponseFuture<Result<Option<Stored>, AuditError>>;

    fn handle(&mut self, request: Next, _: &mut Context<Self>) -> Self::Result {
        let logs = self.logs.clone();
        Box::pin(async move {
            let Next {
                container,
                acknowledged,
            } = request;
            let next = logs.kept(move |journal| journal.next(container, acknowledged));
            let next = next.await;
            if acknowledged.is_some() {
                logs.acknowledged.notify_one();
            }
            next
        })
    }
}

impl Handler<List> for Audit {
    type Result = ResponseFuture<Result<Vec<AuditEntry>, AuditError>>;

    fn handle(&mut self, request: List, _: &mut Context<Self>) -> Self::Result {
        let logs = self.logs.clone();
        Box::pin(async move {
            logs.take_in().await?;
            let List { container, limit } = request;
            let snapshots = logs
                .with(move |journal| journal.snapshots(container))
                .await?;
            let read = move || {
                let mut all = Vec::new();
                for snapshot in snapshots.unwrap_or_default() {
                    let sink = snapshot.id.to_string();
                    let newest = snapshot.newest(limit.min(LIST_MAX));
                    all.extend(newest.map_err(|error| AuditError::Store {
                        path: format!("{sink}.log"),
                        reason: error.to_string(),
                    })?);
                    // Stable: within a second, and within a log, they stay as they are.
                    all.sort_by_key(|entry: &AuditEntry| entry.record.timestamp);
                    all.drain(..all.len().saturating_sub(LIST_MAX));
                }
                Ok(all)
            };
            logs.checks.run(read).await.map_err(BusError::from)?
        })
    }
}

impl Handler<Verify> for Audit {
    type Result = ResponseFuture<Result<Verdict, AuditError>>;

    fn handle(&mut self, _: Verify, _: &mut Context<Self>) -> Self::Result {
        let logs = self.logs.clone();
        Box::pin(async move {
            logs.take_in().await?;
            let look = |journal: &mut Journal| {
                let broken = journal.broken.clone();
                Ok((journal.snapshots(None)?, journal.key(), broken))
            };
            let enabled = logs.settings.limit > 0;
            let Some((snapshots, key, broken)) = logs.with(look).await? else {
                return Ok(Verdict {
                    sinks: Vec::new(),
                    broken: None,
                    enabled,
                });
            };
            let check = move || {
                let snapshots = snapshots.into_iter();
                snapshots.map(|snapshot| snapshot.check(&key)).collect()
            };
            Ok(Verdict {
                sinks: logs.checks.run(check).await.map_err(BusError::from)?,
                broken,
                enabled,
            })
        })
    }
}

impl Handler<Flush> for Audit {
    type Result = ResponseFuture<Result<(), AuditError>>;

    fn handle(&mut self, _: Flush, _: &mut Context<Self>) -> Self::Result {
        let logs = self.logs.clone();
        Box::pin(async move { logs.flush().await })
    }
}
