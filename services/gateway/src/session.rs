//! One connection of a client: requests one after the other, each with its replies (protocol.md 1.4).

use std::{collections::VecDeque, io, rc::Rc, time::Duration};

use cml_bus::{
    api::{
        audit::AuditPort, container::ContainerPort, guestos::GuestOsPort,
        provisioning::ProvisioningPort, token::TokenPort,
    },
    audit::{Did, Note},
};
use cml_wire::proto::controller_to_daemon::Command;
use tokio::{net::UnixStream, select, sync::watch};

use crate::{
    answer,
    budget::Budget,
    codec, exec,
    inbox::Inbox,
    logs,
    outbox::Outbox,
    policy::{self, Admission},
    push,
    translate_in::{self, Refusal, Request},
    translate_out,
};

/// The services that the gateway may ask.
#[derive(Debug, Clone)]
pub struct Ports {
    /// The container service.
    pub container: ContainerPort,
    /// The guest OS service.
    pub guestos: GuestOsPort,
    /// The token service, for the PIN of the device.
    pub token: TokenPort,
    /// The provisioning service, for the device as a whole.
    pub provisioning: ProvisioningPort,
    /// The audit service.
    pub audit: AuditPort,
}

/// What all connections of a socket have in common.
#[derive(Debug)]
pub struct Shared {
    /// Whom requests go to.
    pub ports: Ports,
    /// What may be asked.
    pub admission: Admission,
    /// Memory for large requests.
    pub budget: Budget,
}

impl Shared {
    /// What connections of a socket have in common.
    pub fn new(ports: Ports, admission: Admission) -> Self {
        Self {
            budget: Budget::of(admission.privileged),
            ports,
            admission,
        }
    }

    /// The same for a socket inside a container.
    pub fn inside(&self, privileged: bool) -> Self {
        let admission = Admission {
            privileged,
            ..self.admission.clone()
        };
        Self::new(self.ports.clone(), admission)
    }
}

/// Requests that came while a command was running on the connection, each with its command's number.
pub type Deferred = VecDeque<(i32, Result<Request, Refusal>)>;

/// A connection that is being served.
#[derive(Debug)]
pub struct Connection {
    /// Requests come from here.
    pub inbox: Inbox,
    /// Replies go here.
    pub outbox: Outbox,
    /// To be answered before the next request is read.
    pub deferred: Deferred,
    /// What all connections have in common.
    pub shared: Rc<Shared>,
    /// The user that the peer is, if the kernel tells.
    uid: Option<u32>,
    /// Becomes true when the gateway shuts down.
    pub closing: watch::Receiver<bool>,
    /// The process that connected, if the daemon can see it.
    pub peer: Option<i32>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The peer closed it: the normal end.
    #[error("the peer closed the connection")]
    Gone,
    /// The gateway shuts down.
    #[error("the gateway shuts down")]
    Closing,
    /// Not a frame, or not a message.
    #[error("protocol violation: {0}")]
    Frame(#[from] codec::FrameError),
    /// The rest of a frame did not come.
    #[error("a frame was left half-sent for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Other connections hold all the memory for large requests.
    #[error("no memory for a frame of {0} bytes within its deadline")]
    NoBudget(u32),
    /// The peer does not read its replies.
    #[error("the peer does not read its replies")]
    NotReading,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves a connection until it ends.
pub async fn serve(stream: UnixStream, shared: Rc<Shared>, closing: watch::Receiver<bool>) {
    let peer = stream.peer_cred().ok();
    let (pid, uid) = (
        peer.as_ref().and_then(|cred| cred.pid()),
        peer.as_ref().map(|cred| cred.uid()),
    );
    tracing::debug!(pid, uid, "connection opened");
    let (read, write) = stream.into_split();
    let mut connection = Connection {
        inbox: Inbox::new(read, shared.budget.clone()),
        outbox: Outbox::new(write),
        deferred: Deferred::new(),
        uid,
        shared,
        closing,
        // 0: it lives where this process cannot see it.
        peer: pid.filter(|pid| *pid > 0),
    };
    match connection.run().await {
        End::Gone | End::Closing => tracing::debug!(pid, uid, "connection closed"),
        end => tracing::warn!(pid, uid, reason = %end, "connection dropped"),
    }
}

impl Connection {
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.one().await {
                return end;
            }
        }
    }

    /// One request from arrival to its last reply.
    async fn one(&mut self) -> Result<(), End> {
        if *self.closing.borrow() {
            return Err(End::Closing);
        }
        let mut permit = None;
        let request = match self.deferred.pop_front() {
            // The device may have been provisioned since it came.
            Some((number, Ok(_)))
                if policy::admit(number, self.shared.admission.now()).is_none() =>
            {
                Err(Refusal::Forbidden(number, self.shared.admission.now()))
            }
            Some((_, request)) => request,
            None => {
                let mut frame = select! {
                    biased;
                    frame = self.inbox.next() => frame?,
                    () = closed(&mut self.closing) => return Err(End::Closing),
                };
                permit = frame.permit.take();
                translate_in::request(&mut frame.message, self.shared.admission.now())
            }
        };
        let reply = match request {
            Ok(Request::Exec(request)) => {
                drop(permit);
                return exec::run(request, self).await;
            }
            Ok(Request::Logs(request)) => {
                drop(permit);
                return logs::run(request, self).await;
            }
            Ok(Request::Push(request)) => {
                drop(permit);
                return push::run(request, self).await;
            }
            Ok(request) => answer::answer(request, &self.shared).await,
            Err(refusal) => {
                self.note(refusal);
                translate_out::refusal(refusal)
            }
        };
        drop(permit);
        match reply {
            Some(reply) => self.outbox.send(&reply).await,
            None => Ok(()),
        }
    }
}

impl Connection {
    /// A command that is not for this socket or mode is a security event, a push that lacks its proof as well; any other
    /// mistake is none.
    fn note(&self, refusal: Refusal) {
        let note = match refusal {
            Refusal::Forbidden(number, _) => {
                let known = Command::try_from(number).map(|known| known.as_str_name().to_owned());
                let command = known.unwrap_or_else(|_| number.to_string());
                Did::SendCommand.here().meta("command", command)
            }
            Refusal::Missing(Command::PushGuestosConfig, field) => match field {
                "guestos_config_signature" => Did::PushWithoutSignature,
                "guestos_config_certificate" => Did::PushWithoutCertificate,
                _ => Did::PushWithoutConfig,
            }
            .here(),
            _ => return,
        };
        let uid = |note: Note| match self.uid {
            Some(uid) => note.meta("uid", uid),
            None => note,
        };
        let pid = |note: Note| match self.peer {
            Some(pid) => note.meta("pid", pid),
            None => note,
        };
        self.shared.admission.events.audit(pid(uid(note.failed())));
    }
}

/// Returns when the gateway shuts down, which the end of the actor counts as.
pub async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}
