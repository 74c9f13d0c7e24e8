//! All logs of the device: which there are, and when they are on the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use cml_bus::{
    api::audit::{AuditError, PieceId, Stored},
    audit::{Did, Note, Trail},
    id::ContainerId,
};
use cml_sys::file;
use rustix::fs::{FlockOperation, flock};

use crate::{
    anchor::{self, Anchor, Found},
    check::Snapshot,
    sink::{Added, Rules, Sink},
};

/// Logs at most, so that creating and removing containers cannot fill the disk: what a container is told of beyond
/// them goes to the log of the device.
const SINKS_MAX: usize = 1024;
/// How long a job of a predecessor that died may still hold the logs.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where the logs are, and how large they may be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of logs.
    pub dir: PathBuf,
    /// The key of the chains. Not in the same directory: whoever only gets at the logs shall not get at it.
    pub key: PathBuf,
    /// The most bytes of one log; 0 keeps nothing.
    pub limit: u64,
}

/// The logs.
#[derive(Debug)]
pub struct Journal {
    settings: Settings,
    rules: Rules,
    sinks: BTreeMap<ContainerId, Sink>,
    /// What is wrong with the logs as a whole.
    pub broken: Option<String>,
    /// There is something to be brought to the disk.
    unsynced: bool,
    _lock: File,
}

fn store<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> AuditError + use<E> {
    let path = path.display().to_string();
    move |error| AuditError::Store {
        path,
        reason: error.into().to_string(),
    }
}

fn sys(path: &Path) -> impl FnOnce(cml_sys::Error) -> AuditError + use<> {
    let store = store(path);
    move |error| store(error.source)
}

/// Nobody else writes these logs: neither another daemon nor a job of a service that has died.
fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join(".lock");
    let file = file::touch(&path, 0o600).map_err(sys(&path))?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(error) if Instant::now() > end => return Err(store(&path)(io::Error::from(error))),
            Err(_) => sleep(LOCK_PAUSE),
        }
    }
}

/// The logs that lie in the directory.
fn on_disk(dir: &Path) -> io::Result<BTreeSet<ContainerId>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".log"));
        found.extend(id.and_then(|id| id.parse::<ContainerId>().ok()));
    }
    Ok(found)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Journal {
    /// Opens the logs, and takes in what a daemon that was killed has left. `None` when none is kept and there is none.
    ///
    /// # Errors
    /// A file or directory cannot be read or written.
    pub fn open(settings: &Settings) -> Result<Option<Self>, AuditError> {
        let dir = &settings.dir;
        let path = dir.join("anchor");
        if settings.limit == 0 && !path.exists() {
            return Ok(None);
        }
        file::make_dir(dir, 0o700).map_err(sys(dir))?;
        // Also one that was there: whoever may write into it could take logs away.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(store(dir))?;
        let lock = lock(dir)?;
        let (key, new_key) = anchor::key(&settings.key).map_err(sys(&settings.key))?;
        let limit = settings.limit;
        let mut journal = Self {
            settings: settings.clone(),
            rules: Rules { key, limit },
            sinks: BTreeMap::new(),
            broken: None,
            unsynced: false,
            _lock: lock,
        };
        let found = Anchor::read(&path, &journal.rules.key).map_err(sys(&path))?;
        let anchor = match (found, new_key) {
            (Found::Genuine(anchor), _) => anchor,
            (Found::Nothing, true) => journal.first_time()?,
            (Found::Nothing, false) => journal.begin_anew("the anchor of the logs is missing")?,
            (Found::Altered, true) => journal.begin_anew("the key of the logs is missing")?,
            (Found::Altered, false) => journal.begin_anew("the anchor of the logs was altered")?,
        };
        journal.broken = anchor.broken;
        for (id, head) in anchor.heads {
            if let Ok(id) = id.parse() {
                let log = || Sink::new(dir, id, head);
                journal.sinks.entry(id).or_insert_with(log);
            }
        }
        for id in on_disk(dir).map_err(store(dir))? {
            let log = || Sink::new(dir, id, anchor::Head::default());
            journal.sinks.entry(id).or_insert_with(log);
        }
        for sink in journal.sinks.values_mut() {
            // One log's trouble is not the others'; the check tells of it.
            if let Err(error) = sink.recover(&journal.rules) {
                tracing::error!(path = %sink.path().display(), %error, "an audit log cannot be used");
            }
        }
        journal.unsynced = true;
        journal.sync()?;
        Ok(Some(journal))
    }

    /// Neither key nor anchor: what lies here was written by the existing system, and is taken over.
    fn first_time(&mut self) -> Result<Anchor, AuditError> {
        let mut anchor = Anchor::default();
        for id in on_disk(&self.settings.dir).map_err(store(&self.settings.dir))? {
            let mut sink = Sink::new(&self.settings.dir, id, anchor::Head::default());
            sink.import(&self.rules).map_err(store(sink.path()))?;
            anchor.heads.insert(id.to_string(), sink.head);
        }
        Ok(anchor)
    }

    /// Nobody can say what these logs were. They are set aside as they are, and the new ones say so for good.
    fn begin_anew(&mut self, what: &str) -> Result<Anchor, AuditError> {
        tracing::error!("{what}; the audit logs begin anew");
        let now = now();
        for id in on_disk(&self.settings.dir).map_err(store(&self.settings.dir))? {
            let path = self.settings.dir.join(format!("{id}.log"));
            anchor::set_aside(&path, now).map_err(store(&path))?;
        }
        let device = Sink::new(
            &self.settings.dir,
            ContainerId::CORE0,
            anchor::Head::default(),
        );
        self.sinks.insert(device.id, device);
        let told = Did::FindAltered.here().failed().meta("reason", what);
        self.add(&told);
        let head = self.sinks[&ContainerId::CORE0].head;
        Ok(Anchor {
            heads: [(ContainerId::CORE0.to_string(), head)].into(),
            broken: Some(format!(
                "{what} since Unix time {now}; the logs before were set aside as *.log.unanchored-{now}"
            )),
        })
    }

    /// Writes all notes that wait. Returns whose logs have changed, and how many bytes are left for each.
    pub fn take_in(&mut self, trail: &Trail) -> Vec<(ContainerId, u64)> {
        let mut changed = BTreeSet::new();
        let lost = trail.take_lost();
        if lost > 0 {
            let told = Did::Lose.here().failed().meta("count", lost);
            changed.insert(self.add(&told));
        }
        for note in trail.take() {
            changed.insert(self.add(&note));
        }
        let room = |id: ContainerId| Some((id, self.sinks.get(&id)?.room(&self.rules)));
        changed.into_iter().filter_map(room).collect()
    }

    /// Adds a record to the log that it belongs to; returns which that is.
    fn add(&mut self, note: &Note) -> ContainerId {
        let id = match self.sinks.contains_key(&note.sink()) || self.sinks.len() < SINKS_MAX {
            true => note.sink(),
            false => ContainerId::CORE0,
        };
        let new = || Sink::new(&self.settings.dir, id, anchor::Head::default());
        let sink = self.sinks.entry(id).or_insert_with(new);
        self.unsynced = true;
        let mut added = sink.append(&self.rules, note);
        if added
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            // Somebody has taken the directory away. The log that begins anew in it says so.
            let made = file::make_dir(&self.settings.dir, 0o700).map_err(|error| error.source);
            added = made.and_then(|()| sink.append(&self.rules, note));
        }
        if let Ok(Added::NeedsCompacting) = added {
            // The anchor knows first what is about to be missing.
            added = self
                .compact(id)
                .and_then(|()| match self.sinks.get_mut(&id) {
                    Some(sink) => sink.append(&self.rules, note),
                    None => Ok(Added::Dropped),
                });
        }
        if let Err(error) = added {
            tracing::error!(sink = %id, %error, "an audit record was not written");
            if let Some(sink) = self.sinks.get_mut(&id) {
                sink.drop_one();
            }
        }
        id
    }

    fn compact(&mut self, id: ContainerId) -> io::Result<()> {
        self.write_anchor().map_err(io::Error::other)?;
        self.sinks.get_mut(&id).map_or(Ok(()), Sink::compact)
    }

    fn write_anchor(&mut self) -> Result<(), AuditError> {
        for sink in self.sinks.values_mut().filter(|sink| sink.unsynced) {
            sink.sync().map_err(store(sink.path()))?;
        }
        let heads = self.sinks.values();
        let anchor = Anchor {
            heads: heads.map(|sink| (sink.id.to_string(), sink.head)).collect(),
            broken: self.broken.clone(),
        };
        let path = self.settings.dir.join("anchor");
        anchor.write(&path, &self.rules.key).map_err(sys(&path))
    }

    /// Has everything on the disk: the records first, then the anchor that vouches for them.
    ///
    /// # Errors
    /// A file cannot be written; the next call tries again.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        if !self.unsynced {
            return Ok(());
        }
        self.write_anchor()?;
        let worth = self
            .sinks
            .values()
            .filter(|sink| sink.is_worth_compacting());
        let worth: Vec<_> = worth.map(|sink| sink.id).collect();
        for id in &worth {
            self.compact(*id).map_err(store(&self.settings.dir))?;
        }
        if !worth.is_empty() {
            self.write_anchor()?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// The oldest record of a container, after forgetting the one that was acknowledged.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn next(
        &mut self,
        container: ContainerId,
        acknowledged: Option<PieceId>,
    ) -> Result<Option<Stored>, AuditError> {
        let Some(sink) = self.sinks.get_mut(&container) else {
            return Ok(None);
        };
        self.unsynced |= acknowledged.is_some();
        sink.next(acknowledged).map_err(store(sink.path()))
    }

    /// Bytes that are left for a container.
    pub fn room(&self, container: ContainerId) -> u64 {
        let sink = self.sinks.get(&container);
        sink.map_or(self.rules.limit, |sink| sink.room(&self.rules))
    }

    /// The logs at this moment: of one container, or all.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn snapshots(&self, of: Option<ContainerId>) -> Result<Vec<Snapshot>, AuditError> {
        let wanted = self.sinks.values();
        let wanted = wanted.filter(|sink| of.is_none_or(|of| of == sink.id));
        let snapshot = |sink: &Sink| {
            let file = sink.open()?;
            let length = match &file {
                Some(file) => file.metadata()?.len(),
                None => 0,
            };
            Ok::<_, io::Error>(Snapshot {
                id: sink.id,
                head: sink.head,
                file,
                length,
            })
        };
        wanted
            .map(|sink| snapshot(sink).map_err(store(sink.path())))
            .collect()
    }

    /// The key that the logs are checked with.
    pub fn key(&self) -> crate::chain::ChainKey {
        self.rules.key.clone()
    }
}
