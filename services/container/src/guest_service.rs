//! The socket through which a guest reports and asks (runtime.md 1.5, protocol.md 2.7).
//!
//! The guest is hostile until proven otherwise: messages are small or the connection ends, a stalled
//! client holds up nobody, one client too many is refused alone (runtime.md 9, number 2).

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener as StdListener},
    sync::{Arc, Mutex, PoisonError},
};

use cml_bus::actor::spawn;
use cml_wire::{
    frame,
    proto::{
        CmldToServiceMessage, ServiceToCmldMessage, cmld_to_service_message::Code as Tell,
        service_to_cmld_message::Code as Ask,
    },
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    select,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::guest_audit::GuestAudit;

/// Clients at the same time (runtime.md 0.5).
const CLIENTS_MAX: usize = 7;
/// The largest message a guest has reason to send is an acknowledgement of 128 letters.
const MESSAGE_MAX: u32 = 4096;
/// Messages that may wait for a client that does not read.
const UNREAD_MAX: usize = 8;

/// What the guest may ask for.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Its audit records.
    pub audit: GuestAudit,
    /// The container's name.
    pub name: String,
    /// Its name server; empty if there is none.
    pub dns: String,
}

/// The first client is told about a stop (runtime.md 1.5).
type Receiver = Arc<Mutex<Option<mpsc::Sender<CmldToServiceMessage>>>>;

/// A service socket that is being served; it is closed when this is dropped.
#[derive(Debug)]
pub struct GuestService {
    receiver: Receiver,
    tasks: [JoinHandle<()>; 2],
}

impl GuestService {
    /// Serves the socket. The channel gets an item for every report of a completed boot.
    pub fn start(socket: OwnedFd, answers: Answers) -> io::Result<(Self, mpsc::Receiver<()>)> {
        let listener = StdListener::from(socket);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let receiver = Receiver::default();
        let (report, booted) = mpsc::channel(1);
        let notify = spawn(notify(answers.audit.clone(), receiver.clone()));
        let serve = spawn(accept(listener, answers, receiver.clone(), report));
        let tasks = [notify, serve];
        Ok((Self { receiver, tasks }, booted))
    }

    /// Tells the guest to shut down; false if nobody there wants to know.
    pub fn ask_to_shut_down(&self) -> bool {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let message = tell(Tell::Shutdown);
        receiver
            .as_ref()
            .is_some_and(|client| client.try_send(message).is_ok())
    }
}

impl Drop for GuestService {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Tells the receiver of new audit records. One that does not read what it is told is left alone: what waits for it
/// must not keep the message about a stop away.
async fn notify(audit: GuestAudit, receiver: Receiver) {
    let tell = |message| {
        let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = receiver
            .as_ref()
            .filter(|client| client.capacity() > UNREAD_MAX / 2)
        {
            let _ = client.try_send(message);
        }
    };
    audit.notify(tell).await;
}

/// A message that is nothing but its code.
pub fn tell(code: Tell) -> CmldToServiceMessage {
    CmldToServiceMessage {
        code: code.into(),
        ..Default::default()
    }
}

async fn accept(
    listener: UnixListener,
    answers: Answers,
    receiver: Receiver,
    report: mpsc::Sender<()>,
) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = select! {
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if clients.len() < CLIENTS_MAX => {
                let (tell, told) = mpsc::channel(UNREAD_MAX);
                become_receiver(&receiver, &tell);
                clients.spawn_local(serve(stream, answers.clone(), told, report.clone()));
            }
            Ok(_) => tracing::debug!("a guest opened one service connection too many"),
            Err(error) => {
                tracing::warn!(%error, "a service socket cannot be served");
                return;
            }
        }
    }
}

fn become_receiver(receiver: &Receiver, client: &mpsc::Sender<CmldToServiceMessage>) {
    let mut slot = receiver.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.as_ref().is_none_or(mpsc::Sender::is_closed) {
        *slot = Some(client.clone());
    }
}

async fn serve(
    stream: UnixStream,
    answers: Answers,
    mut told: mpsc::Receiver<CmldToServiceMessage>,
    report: mpsc::Sender<()>,
) {
    let (mut read, mut write) = stream.into_split();
    // Reading lives in a future of its own, so that a half-read message survives a message to the guest.
    let (question, mut questions) = mpsc::channel(1);
    let reader = async move {
        while let Some(message) = next(&mut read).await {
            if question.send(message).await.is_err() {
                break;
            }
        }
    };
    let answerer = async move {
        loop {
            let reply = select! {
                Some(message) = told.recv() => Some(message),
                question = questions.recv() => match question {
                    Some(question) => answer(&question, &answers, &report).await,
                    None => return,
                },
            };
            let Some(reply) = reply else { continue };
            let Ok(bytes) = frame::encode(&reply) else {
                return;
            };
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    select! {
        () = reader => {}
        () = answerer => {}
    }
}

/// The next message; `None` when the client is gone or talks nonsense.
async fn next(read: &mut OwnedReadHalf) -> Option<ServiceToCmldMessage> {
    let length = read.read_u32().await.ok()?;
    if !(1..=MESSAGE_MAX).contains(&length) {
        return None;
    }
    let mut body = vec![0; length as usize];
    read.read_exact(&mut body).await.ok()?;
    ServiceToCmldMessage::decode(body.as_slice()).ok()
}

async fn answer(
    question: &ServiceToCmldMessage,
    answers: &Answers,
    report: &mpsc::Sender<()>,
) -> Option<CmldToServiceMessage> {
    match Ask::try_from(question.code) {
        Ok(Ask::BootCompleted) => {
            // A guest that reports twice has said nothing new.
            let _ = report.try_send(());
            None
        }
        Ok(Ask::ContainerCfgNameReq) => Some(CmldToServiceMessage {
            container_cfg_name: Some(answers.name.clone()),
            ..tell(Tell::ContainerCfgName)
        }),
        Ok(Ask::ContainerCfgDnsReq) => Some(CmldToServiceMessage {
            container_cfg_dns: Some(answers.dns.clone()),
            ..tell(Tell::ContainerCfgDns)
        }),
        Ok(Ask::AuditAck) => answers.audit.acknowledged(question.audit_ack()).await,
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use cml_bus::actor::System;
    use tokio::time::timeout;

    use super::*;
    use crate::guest_audit;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn with_service(test: impl AsyncFnOnce(GuestService, mpsc::Receiver<()>, &std::path::Path)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cml-service");
        System::new().block_on(async {
            let listener = StdListener::bind(&path).unwrap();
            let answers = Answers {
                audit: guest_audit::tests::delivering(Vec::new()).0,
                name: "web".into(),
                dns: "192.0.2.1".into(),
            };
            let (service, booted) = GuestService::start(listener.into(), answers).unwrap();
            test(service, booted, &path).await;
        });
    }

    async fn ask(stream: &mut UnixStream, code: Ask) {
        let message = ServiceToCmldMessage {
            code: code.into(),
            ..Default::default()
        };
        let bytes = frame::encode(&message).unwrap();
        stream.write_all(&bytes).await.unwrap();
    }

    async fn reply(stream: &mut UnixStream) -> CmldToServiceMessage {
        timeout(PATIENCE, async {
            let mut body = vec![0; stream.read_u32().await.unwrap() as usize];
            stream.read_exact(&mut body).await.unwrap();
            CmldToServiceMessage::decode(body.as_slice()).unwrap()
        })
        .await
        .unwrap()
    }

    #[test]
    fn a_guest_learns_its_name_and_name_server_and_reports() {
        with_service(async |service, mut booted, path| {
            let mut guest = UnixStream::connect(path).await.unwrap();
            ask(&mut guest, Ask::ContainerCfgNameReq).await;
            assert_eq!(reply(&mut guest).await.container_cfg_name(), "web");
            ask(&mut guest, Ask::ContainerCfgDnsReq).await;
            assert_eq!(reply(&mut guest).await.container_cfg_dns(), "192.0.2.1");
            ask(&mut guest, Ask::BootCompleted).await;
            timeout(PATIENCE, booted.recv()).await.unwrap().unwrap();
            assert!(service.ask_to_shut_down());
            assert_eq!(reply(&mut guest).await.code(), Tell::Shutdown);
        });
    }

    #[test]
    fn without_a_client_nobody_is_told_and_a_later_client_is() {
        with_service(async |service, _booted, path| {
            assert!(!service.ask_to_shut_down());
            let first = UnixStream::connect(path).await.unwrap();
            drop(first);
            let mut second = UnixStream::connect(path).await.unwrap();
            ask(&mut second, Ask::ContainerCfgNameReq).await;
            reply(&mut second).await;
            let mut third = UnixStream::connect(path).await.unwrap();
            ask(&mut third, Ask::ContainerCfgNameReq).await;
            reply(&mut third).await;
            assert!(service.ask_to_shut_down());
        });
    }

    #[test]
    fn nonsense_and_lying_lengths_end_only_their_own_connection() {
        with_service(async |_service, _booted, path| {
            for bytes in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\0\0\0\x02\xff\xff"] {
                let mut liar = UnixStream::connect(path).await.unwrap();
                liar.write_all(bytes).await.unwrap();
                let mut byte = [0];
                let read = timeout(PATIENCE, liar.read(&mut byte)).await.unwrap();
                assert!(matches!(read, Ok(0) | Err(_)));
            }
            let mut honest = UnixStream::connect(path).await.unwrap();
            ask(&mut honest, Ask::ContainerCfgNameReq).await;
            assert_eq!(reply(&mut honest).await.container_cfg_name(), "web");
        });
    }

    #[test]
    fn the_eighth_client_is_refused_alone() {
        with_service(async |_service, _booted, path| {
            let mut clients = Vec::new();
            for _ in 0..CLIENTS_MAX {
                let mut client = UnixStream::connect(path).await.unwrap();
                // Half a header: a client that stalls.
                client.write_all(b"\0\0").await.unwrap();
                clients.push(client);
            }
            let mut refused = UnixStream::connect(path).await.unwrap();
            let mut byte = [0];
            let read = timeout(PATIENCE, refused.read(&mut byte)).await.unwrap();
            assert_eq!(read.unwrap(), 0);
            clients.pop();
            loop {
                let mut next = UnixStream::connect(path).await.unwrap();
                ask(&mut next, Ask::ContainerCfgNameReq).await;
                // The place becomes free a moment after its client went.
                if let Ok(Ok(_)) = timeout(PATIENCE, next.read_u32()).await {
                    break;
                }
            }
        });
    }
}
