//! Audit records on their way into the guest (crypto.md 7.3, protocol.md 2.7).
//!
//! The guest asks for the oldest record by acknowledging the one before, with the SHA-512 of the message that carried
//! it; at the beginning that is none. It gets, and deletes, its own records only, and no faster than [`PACE`] allows.

use std::{sync::Arc, time::Duration};

use cml_bus::{
    api::audit::{AuditError, AuditPort, Follow, Next, PieceId},
    id::ContainerId,
};
use cml_wire::proto::{
    CmldToServiceMessage, ContainerState, cmld_to_service_message::Code as Tell,
};
use prost::Message;
use sha2::{Digest, Sha512};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

use crate::{guest_service::tell, view::View};

/// The time that an acknowledgement takes at least: a guest that sends them without end costs the host little.
const PACE: Duration = Duration::from_millis(2);
/// The same when it acknowledges nothing that it was sent.
const SLOW_PACE: Duration = Duration::from_millis(50);
/// Pause before a service is asked again that has died.
const RETRY: Duration = Duration::from_secs(1);

/// Delivers the records of one container. Clones share what was sent last, as several clients are one guest.
#[derive(Debug, Clone)]
pub struct GuestAudit {
    audit: AuditPort,
    container: ContainerId,
    view: watch::Receiver<View>,
    sent: Arc<Mutex<Option<Sent>>>,
}

/// The record that was sent last.
#[derive(Debug)]
struct Sent {
    /// What acknowledges it.
    hash: String,
    id: PieceId,
}

impl GuestAudit {
    /// Delivers from this service.
    pub fn new(audit: AuditPort, container: ContainerId, view: watch::Receiver<View>) -> Self {
        Self {
            audit,
            container,
            view,
            sent: Arc::default(),
        }
    }

    /// The answer to an acknowledgement: the oldest record, or that there is none. Silence where no log is kept, and
    /// while another acknowledgement is being answered.
    pub async fn acknowledged(&self, hash: &str) -> Option<CmldToServiceMessage> {
        let mut sent = self.sent.try_lock().ok()?;
        let matching = sent.as_ref().filter(|sent| sent.hash == hash);
        let acknowledged = matching.map(|sent| sent.id);
        sleep(match acknowledged.is_some() {
            true => PACE,
            false => SLOW_PACE,
        })
        .await;
        let next = Next {
            container: self.container,
            acknowledged,
        };
        match self.audit.next.call(next).await {
            Ok(Some(stored)) => {
                let message = CmldToServiceMessage {
                    audit_record: Some(stored.record),
                    ..tell(Tell::AuditRecord)
                };
                *sent = Some(Sent {
                    hash: hex(&Sha512::digest(message.encode_to_vec())),
                    id: stored.id,
                });
                Some(message)
            }
            Ok(None) => {
                *sent = None;
                Some(tell(Tell::AuditComplete))
            }
            Err(AuditError::Off) => None,
            Err(error) => {
                // The guest keeps what it has, and asks again.
                tracing::warn!(container = %self.container, %error, "no audit record delivered");
                None
            }
        }
    }

    /// Calls the function with every message that tells of a new record. Returns where no log is kept.
    pub async fn notify(self, mut told: impl FnMut(CmldToServiceMessage)) {
        loop {
            let follow = Follow {
                container: self.container,
            };
            match self.audit.follow.call(follow).await {
                Ok(mut room) => {
                    while room.changed().await.is_ok() {
                        let left = *room.borrow_and_update();
                        // Until then it may be in the middle of its questions.
                        if self.view.borrow().state.wire() == ContainerState::Running {
                            told(CmldToServiceMessage {
                                audit_remaining_storage: Some(left),
                                ..tell(Tell::AuditNotify)
                            });
                        }
                    }
                }
                Err(AuditError::Off) => return,
                Err(error) => tracing::debug!(%error, "the guest is not told of audit records"),
            }
            sleep(RETRY).await;
        }
    }
}

/// In lower case, as acknowledgements are.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_bus::{
        actor::System,
        api::audit::Stored,
        audit::Did,
        testing::{Recorded, fake},
    };
    use cml_wire::proto::AuditRecord;

    use super::*;
    use crate::fsm::State;

    /// A delivery from a log with these records, and the acknowledgements that reach it.
    pub fn delivering(records: Vec<AuditRecord>) -> (GuestAudit, Recorded<Next>, AuditPort) {
        let view = View {
            state: State::Running,
            known: true,
            ..View::unknown(Arc::default(), 0, None)
        };
        let port = AuditPort::default();
        let at = std::sync::Mutex::new(0_usize);
        let asked = fake(&port.next, move |next: &Next| {
            let mut at = at.lock().unwrap();
            if next.acknowledged == Some([u8::try_from(*at).unwrap(); 32]) {
                *at += 1;
            }
            let id = [u8::try_from(*at).unwrap(); 32];
            let stored = |record: &AuditRecord| Stored {
                record: record.clone(),
                id,
            };
            Ok(records.get(*at).map(stored))
        });
        fake(&port.follow, |_| Err(AuditError::Off));
        let view = watch::channel(view).1;
        let audit = GuestAudit::new(port.clone(), ContainerId::CORE0, view);
        (audit, asked, port)
    }

    fn hash(message: &CmldToServiceMessage) -> String {
        hex(&Sha512::digest(message.encode_to_vec()))
    }

    #[test]
    fn a_record_is_sent_until_exactly_its_message_is_acknowledged() {
        System::new().block_on(async {
            let id = ContainerId::CORE0;
            let records = [Did::Start, Did::Stop].map(|did| did.to(id).record());
            let (audit, asked, _port) = delivering(records.to_vec());
            let zeros = "0".repeat(128);
            let first = audit.acknowledged(&zeros).await.unwrap();
            assert_eq!(first.code(), Tell::AuditRecord);
            assert_eq!(first.audit_record, Some(records[0].clone()));
            for wrong in [zeros.as_str(), "", &hash(&first).to_uppercase()] {
                assert_eq!(audit.acknowledged(wrong).await, Some(first.clone()));
            }
            let second = audit.acknowledged(&hash(&first)).await.unwrap();
            assert_eq!(second.audit_record, Some(records[1].clone()));
            // An old acknowledgement, sent once more, deletes nothing.
            assert_eq!(
                audit.acknowledged(&hash(&first)).await,
                Some(second.clone())
            );
            let end = audit.acknowledged(&hash(&second)).await.unwrap();
            assert_eq!(end, tell(Tell::AuditComplete));
            let asked = asked.take();
            assert!(asked.iter().all(|next| next.container == id));
            let acknowledged = asked.iter().filter(|next| next.acknowledged.is_some());
            assert_eq!(acknowledged.count(), 2);
        });
    }

    #[test]
    fn nobody_is_told_or_answered_where_no_log_is_kept() {
        System::new().block_on(async {
            let (audit, _, port) = delivering(Vec::new());
            fake(&port.next, |_| Err(AuditError::Off));
            assert_eq!(audit.acknowledged(&"0".repeat(128)).await, None);
            audit.notify(|_| panic!("told")).await;
        });
    }

    #[test]
    fn a_running_guest_is_told_of_new_records_and_how_much_room_is_left() {
        System::new().block_on(async {
            let (audit, _, port) = delivering(Vec::new());
            let (room, seen) = watch::channel(10);
            fake(&port.follow, move |_| Ok(seen.clone()));
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let following = cml_bus::actor::spawn(audit.notify(move |message| {
                let _ = tell.send(message);
            }));
            tokio::task::yield_now().await;
            room.send_replace(7);
            let message = told.recv().await.unwrap();
            assert_eq!(message.code(), Tell::AuditNotify);
            assert_eq!(message.audit_remaining_storage, Some(7));
            following.abort();
        });
    }
}
