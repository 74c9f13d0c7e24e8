//! Security events: what a service tells the audit log (crypto.md 7).
//!
//! Whoever knows says so in one line, `events.audit(Did::Unlock.to(container))`, and goes on: nothing waits for a
//! disk. Other events may be lost by a subscriber that is slow; these wait in a [`Trail`] of their own, and what does
//! not fit into it is counted, so that the log tells how much it lacks.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use cml_wire::proto::{AuditRecord, audit_record::Meta};
use tokio::sync::Notify;

use crate::id::ContainerId;

/// Notes that may wait for the log: far more than a start of 200 containers makes while the disk is busy.
pub const WAITING_MAX: usize = 8192;

/// Of a note's words, the longest that are kept, in bytes. Names and reasons come from outside.
const WORDS_MAX: usize = 512;

/// Declares the security events: everything of a record's type but whether it went well.
macro_rules! events {
    ($($class:literal { $($(#[$doc:meta])* $event:ident = $name:literal,)+ })+) => {
        /// What was done, or attempted. The names are those of crypto.md 7.5, and ours where it lists an event as
        /// missing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Did { $($($(#[$doc])* $event,)+)+ }

        impl Did {
            /// Every event.
            pub const ALL: &[Self] = &[$($(Self::$event,)+)+];

            /// `<component>.<class>.<event>`
            fn name(self) -> &'static str {
                match self {
                    $($(Self::$event => concat!("CMLD.", $class, ".", $name),)+)+
                }
            }
        }
    };
}

events! {
    "GENERIC" {
        /// The daemon has started, `time` seconds after the kernel. Ours adds `version`.
        BootTime = "boot-time",
        /// Something in a log was no record; it is kept as `raw_text`.
        CorruptRecord = "corrupt-record",
        /// Ours: notes were lost before they reached a log; `count`.
        Lose = "audit-dropped",
        /// Ours: a log or its anchor was not found as it was left.
        FindAltered = "audit-altered",
        /// Ours: the daemon ends in an orderly way.
        EndDaemon = "daemon-end",
        /// Ours: a service died and was started again; `service`.
        RestartService = "service-restart",
        /// Ours: a client sent what it may not; `command`, `uid`, `pid`.
        SendCommand = "control-command",
        /// Ours: provisioned mode.
        SetProvisioned = "set-provisioned",
        /// Ours: the device's certificate.
        PushCert = "push-cert",
        /// Ours: all containers were wiped.
        WipeDevice = "wipe-device",
        /// Ours: a reboot of the device was asked for.
        RebootDevice = "reboot-device",
        /// Ours: making the device unreadable.
        DestroySystem = "destroy-system",
        /// Ours: a CA came into the store of trusted ones; `local`.
        RegisterCa = "register-ca",
        /// Ours: a CA is trusted no longer; `id`.
        RemoveCa = "remove-ca",
    }
    "TOKEN_MGMT" {
        /// A token accepted its PIN.
        Unlock = "unlock-successful",
        /// A token could not be used.
        TryUnlock = "unlock",
        /// A token refused a PIN.
        GiveWrongPin = "unlock-wrong-pin",
        /// A token is locked, or has just locked itself.
        FindLocked = "locked-until-reboot",
        /// A token is not there yet.
        FindUninitialised = "token-uninitialized",
        /// A container has no token of its own and needs one.
        FindUnpaired = "token-not-paired",
        /// A container got its key.
        MakeKey = "gen-container-key",
        /// The key of a container was wrapped.
        WrapKey = "wrap-key",
        /// The wrapped key was stored.
        StoreKey = "store-wrapped-key",
        /// The wrapped key was read.
        ReadKey = "read-wrapped-key",
        /// The key of a container was unwrapped for its volumes.
        UnwrapKey = "unwrap-container-key",
        /// Ours: the token of the device was made.
        MakeDeviceToken = "gen-device-token",
        /// Ours: the PIN of the device.
        ChangeDevicePin = "change-device-pin",
    }
    "CONTAINER_MGMT" {
        /// A container was created; `name`.
        Create = "container-create",
        /// A container's init runs.
        Start = "container-start",
        /// Start of a container that is not stopped.
        StartRunning = "container-start-already-running",
        /// Start of a container that does not exist.
        StartUnknown = "container-start-not-existing",
        /// A container has stopped.
        Stop = "container-stop",
        /// A guest was asked to shut down.
        AskToStop = "request-clean-shutdown",
        /// A guest was killed.
        Kill = "force-stop",
        /// A guest reboots.
        Reboot = "reboot",
        /// Configurations were read again.
        Reload = "reload",
        /// All containers are being stopped.
        Shutdown = "shutdown",
        /// A container is going down.
        ShuttingDown = "shutting-down",
        /// A container was deleted.
        Remove = "container-remove",
        /// The wrapped key of a container was destroyed.
        RemoveKey = "container-remove-keyfile",
        /// The PIN of a container.
        ChangePin = "container-change-pin",
        /// An encrypted volume was opened; `label`.
        OpenVolume = "setup-crypted-volume",
        /// An encrypted volume was to be opened without a key; `label`.
        OpenVolumeWithoutKey = "setup-crypted-volume-no-key",
        /// An image was compared with its hash, or its hash tree with its root; `name`.
        VerifyImage = "verify-image",
        /// Ours: who signed a configuration.
        VerifyConfig = "container-verify-config",
        /// Ours: another configuration; `name`.
        UpdateConfig = "container-update-config",
        /// Ours: what a container has stored was deleted.
        Wipe = "container-wipe",
        /// Ours: a running container was taken over from a daemon that is gone.
        Adopt = "container-adopt",
        /// Ours: `core0` is started with another configuration, as the stored one comes to nothing; `reason`, `failed`,
        /// `instead`.
        FallBack = "container-fallback",
        /// Ours: a command runs in a container; `command` is its first word.
        Exec = "container-exec",
        /// Ours: a container was frozen.
        Freeze = "container-freeze",
        /// Ours: a container was thawed.
        Thaw = "container-unfreeze",
        /// Ours: a running container was given a device, or a device was taken from it; `rule`.
        SetDevice = "container-dev-access",
        /// Ours: an interface was given to a container, now or in its configuration; `interface`.
        AssignInterface = "container-assign-iface",
        /// Ours: an interface was taken from a container; `interface`.
        UnassignInterface = "container-unassign-iface",
        /// Ours: a container may use the sound devices.
        AllowAudio = "container-allow-audio",
        /// Ours: a container may not use the sound devices.
        DenyAudio = "container-deny-audio",
    }
    "CONTAINER_ISOLATION" {
        /// A pipe from the host into a container; `name`.
        MakeFifo = "create-fifo",
    }
    "GUESTOS_MGMT" {
        /// A trusted signature.
        VerifyGood = "verify-good",
        /// A signature for which the local CA vouches.
        VerifyLocal = "verify-locally-signed",
        /// A signature that counts for nothing.
        VerifyFailed = "verify-failed",
        /// A guest OS came in from the store.
        LoadOs = "load-os",
        /// A guest OS was installed.
        PushOs = "push-os",
        /// What was pushed is no configuration of a guest OS.
        PushInvalid = "push-os-invalid",
        /// A push without a configuration.
        PushWithoutConfig = "push-os-missing-config",
        /// A push without a signature.
        PushWithoutSignature = "push-os-missing-signature",
        /// A push without a certificate.
        PushWithoutCertificate = "push-os-missing-certificate",
        /// What was pushed is older; `installed_version`, `update_version`.
        PushOld = "push-os-old-version",
        /// An installation has begun.
        StartUpdate = "update-start",
        /// Images were fetched.
        Download = "download-os",
        /// Images are being fetched.
        StartDownload = "download-os-start",
        /// The guest OS is being changed by somebody else.
        DownloadTwice = "download-os-already-in-progress",
        /// Nowhere to fetch images from.
        DownloadFromNowhere = "download-os-no-base-url",
        /// All images are there.
        DownloadNothing = "download-os-nothing-to-download",
        /// Images of a guest OS were written outside the store.
        FlashOs = "flash-os",
        /// Ours: a guest OS was deleted.
        RemoveOs = "remove-os",
    }
}

impl Did {
    /// It went well; about the device.
    pub fn here(self) -> Note {
        Note {
            time: now(),
            did: self,
            failed: false,
            sink: None,
            subject: None,
            meta: Vec::new(),
        }
    }

    /// It went well; about a container, whose log it goes to.
    pub fn to(self, container: ContainerId) -> Note {
        Note {
            sink: Some(container),
            subject: Some(container.to_string()),
            ..self.here()
        }
    }

    /// It went well; about something with a name.
    pub fn with(self, name: impl fmt::Display) -> Note {
        Note {
            subject: Some(name.to_string()),
            ..self.here()
        }
    }

    /// Whether a client can cause it without end and at no cost. Such notes never take the last places.
    fn is_cheap(self) -> bool {
        matches!(
            self,
            Self::SendCommand
                | Self::Exec
                | Self::StartUnknown
                | Self::PushWithoutConfig
                | Self::PushWithoutSignature
                | Self::PushWithoutCertificate
        )
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX))
}

/// A security event on its way to the log. Must not hold a secret: neither PIN nor key, nor the serial of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    time: i64,
    did: Did,
    failed: bool,
    sink: Option<ContainerId>,
    subject: Option<String>,
    meta: Vec<(&'static str, String)>,
}

impl Note {
    /// It did not go well.
    #[must_use]
    pub fn failed(mut self) -> Self {
        self.failed = true;
        self
    }

    /// Whether it went well decides the outcome; the error is told as `reason`.
    #[must_use]
    pub fn result<T, E: fmt::Display>(self, result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => self,
            Err(error) => self.failed().meta("reason", error),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn meta(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.meta.push((key, value.to_string()));
        self
    }

    /// What was done.
    pub fn did(&self) -> Did {
        self.did
    }

    /// Whose log it goes to; that of `core0` if nobody's (crypto.md 7.2).
    pub fn sink(&self) -> ContainerId {
        self.sink.unwrap_or(ContainerId::CORE0)
    }

    /// Whether it may not take the last places of a log.
    pub fn is_cheap(&self) -> bool {
        self.did.is_cheap()
    }

    /// The record (crypto.md 7.1). The system speaks, so the categories are SSA and FSA, as they always were.
    pub fn record(&self) -> AuditRecord {
        let category = if self.failed { "FSA" } else { "SSA" };
        let meta = self.meta.iter().map(|(key, value)| Meta {
            key: (*key).to_owned(),
            value: cut(value),
        });
        AuditRecord {
            timestamp: self.time,
            r#type: format!("{category}.{}", self.did.name()),
            subject_id: self.subject.as_deref().map(cut),
            meta: meta.collect(),
        }
    }
}

/// At most [`WORDS_MAX`] bytes of whole letters.
fn cut(text: &str) -> String {
    let ends = text
        .char_indices()
        .map(|(at, letter)| at + letter.len_utf8());
    let end = ends.take_while(|end| *end <= WORDS_MAX).last();
    text[..end.unwrap_or(0)].to_owned()
}

/// Where notes wait for the log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Trail(Option<Arc<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    notes: Mutex<VecDeque<Note>>,
    lost: AtomicU64,
    arrived: Notify,
}

impl Trail {
    /// A trail that takes notes; the default one takes none, as nobody keeps a log.
    pub fn open() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether somebody keeps a log.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a note, or counts it as lost when there is no place. Never waits.
    pub(crate) fn add(&self, note: Note) {
        let Some(waiting) = &self.0 else { return };
        let mut notes = waiting.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let places = match note.is_cheap() {
            true => WAITING_MAX / 2,
            false => WAITING_MAX,
        };
        if notes.len() < places {
            notes.push_back(note);
        } else {
            waiting.lost.fetch_add(1, Ordering::Relaxed);
        }
        drop(notes);
        waiting.arrived.notify_one();
    }

    /// Takes all notes that wait.
    pub fn take(&self) -> Taken {
        let notes = match &self.0 {
            Some(waiting) => {
                let mut notes = waiting.notes.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *notes)
            }
            None => VecDeque::new(),
        };
        Taken {
            trail: self.clone(),
            notes,
        }
    }

    /// Takes the number of notes that were lost since it was asked for the last time.
    pub fn take_lost(&self) -> u64 {
        let lost = |waiting: &Arc<Waiting>| waiting.lost.swap(0, Ordering::Relaxed);
        self.0.as_ref().map_or(0, lost)
    }

    /// Counts notes that did not come through.
    pub fn lose(&self, count: u64) {
        if let Some(waiting) = &self.0 {
            waiting.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Returns when a note may have arrived; never if none can.
    pub async fn arrived(&self) {
        match &self.0 {
            Some(waiting) => waiting.arrived.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// Notes in the hands of whoever writes them. Those that are left when it is dropped count as lost, whatever became of
/// their writer.
#[derive(Debug)]
pub struct Taken {
    trail: Trail,
    notes: VecDeque<Note>,
}

impl Iterator for Taken {
    type Item = Note;

    fn next(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.trail.lose(self.notes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_event_has_a_name_of_its_own_in_a_known_class() {
        let names: HashSet<_> = Did::ALL.iter().map(|did| did.name()).collect();
        assert_eq!(names.len(), Did::ALL.len());
        for name in names {
            let parts: Vec<_> = name.split('.').collect();
            assert!(matches!(parts.as_slice(), ["CMLD", _, event] if !event.is_empty()));
        }
    }

    #[test]
    fn a_note_becomes_the_record_that_the_existing_tools_read() {
        let id = ContainerId::CORE0;
        let note = Did::Start.to(id).failed().meta("reason", "no \"room\"");
        let record = note.record();
        assert_eq!(record.r#type, "FSA.CMLD.CONTAINER_MGMT.container-start");
        assert_eq!(record.subject_id, Some(id.to_string()));
        assert_eq!(record.meta[0].value, "no \"room\"");
        assert!(record.timestamp > 1_700_000_000);
        let long = Did::LoadOs.with("ä".repeat(1000)).record();
        assert!(long.subject_id.is_some_and(|text| text.len() == WORDS_MAX));
    }

    #[test]
    fn what_does_not_fit_is_counted_and_cheap_notes_leave_room_for_others() {
        let trail = Trail::open();
        for _ in 0..WAITING_MAX {
            trail.add(Did::SendCommand.here());
        }
        for _ in 0..WAITING_MAX {
            trail.add(Did::Reload.here());
        }
        let taken: Vec<_> = trail.take().collect();
        assert_eq!(taken.len(), WAITING_MAX);
        let reloads = taken.iter().filter(|note| note.did() == Did::Reload);
        assert_eq!(reloads.count(), WAITING_MAX / 2);
        assert_eq!(trail.take_lost(), WAITING_MAX as u64);
        assert_eq!(trail.take_lost(), 0);
    }

    #[test]
    fn notes_that_their_writer_did_not_write_are_lost_and_not_forgotten() {
        let trail = Trail::open();
        for _ in 0..5 {
            trail.add(Did::Reload.here());
        }
        let mut taken = trail.take();
        assert!(taken.next().is_some());
        drop(taken);
        assert_eq!(trail.take_lost(), 4);
        let closed = Trail::default();
        closed.add(Did::Reload.here());
        assert_eq!((closed.take().count(), closed.take_lost()), (0, 0));
    }
}
