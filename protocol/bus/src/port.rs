//! Ports: how one service calls another.
//!
//! A port is a struct of [`Slot`]s, one for every message of the service, made by [`service_port!`].
//! A slot can be bound again after the service was restarted, so a holder never notices more than
//! one failed call. Every call has the deadline of its message, and a slot carries a bounded number of
//! calls at a time (anchors.md, "Tested facts about actix").
//!
//! The bound is the slot's own because the mailbox has none for calls: actix guarantees every sender a
//! place beyond the capacity, and every call is a sender. The capacity only bounds [`Slot::post`].

use std::{
    fmt,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use actix::{MailboxError, Message, Recipient};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::{error::BusError, latency};

/// Calls that a slot carries at a time: as many as the gateway has sessions, so that clients never meet
/// it, and a caller that runs wild does.
pub const CALLS_MAX: usize = 1024;

/// One message of a service's contract: what it asks for, what comes back, and how long that may take.
pub trait Request: Message<Result = Result<Self::Reply, Self::Error>> + Send + 'static {
    /// What the service answers.
    type Reply: Send + 'static;
    /// The error enum of the service.
    type Error: From<BusError> + fmt::Display + Send + 'static;
    /// `service.message`, for logs, spans and histograms.
    const NAME: &'static str;
    /// After this long the caller gets [`BusError::Deadline`].
    const DEADLINE: Duration;
}

/// Declares that `$message` is a [`Request`] with this reply, error, name and deadline.
#[macro_export]
macro_rules! request {
    ($message:ty => $reply:ty, $error:ty, $name:literal, $seconds:literal s) => {
        impl $crate::actor::Message for $message {
            type Result = Result<$reply, $error>;
        }
        impl $crate::port::Request for $message {
            type Reply = $reply;
            type Error = $error;
            const NAME: &'static str = $name;
            const DEADLINE: ::std::time::Duration = ::std::time::Duration::from_secs($seconds);
        }
    };
}

type Fake<M> = Arc<
    dyn Fn(M) -> BoxFuture<'static, Result<<M as Request>::Reply, <M as Request>::Error>>
        + Send
        + Sync,
>;

enum Binding<M: Request>
where
    M::Result: Send,
{
    Unbound,
    Actor(Recipient<M>),
    Fake(Fake<M>),
}

impl<M: Request> Clone for Binding<M>
where
    M::Result: Send,
{
    fn clone(&self) -> Self {
        match self {
            Self::Unbound => Self::Unbound,
            Self::Actor(recipient) => Self::Actor(recipient.clone()),
            Self::Fake(fake) => Self::Fake(fake.clone()),
        }
    }
}

/// The place where one message of a service is delivered. Clones share the binding and the bound.
pub struct Slot<M: Request>
where
    M::Result: Send,
{
    binding: Arc<RwLock<Binding<M>>>,
    calls: Arc<Semaphore>,
}

impl<M: Request> Clone for Slot<M>
where
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self {
            binding: self.binding.clone(),
            calls: self.calls.clone(),
        }
    }
}

impl<M: Request> fmt::Debug for Slot<M>
where
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", M::NAME)
    }
}

impl<M: Request> Default for Slot<M>
where
    M::Result: Send,
{
    fn default() -> Self {
        Self {
            binding: Arc::new(RwLock::new(Binding::Unbound)),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }
}

impl<M: Request> Slot<M>
where
    M::Result: Send,
{
    /// Delivers to this actor from now on.
    pub fn bind(&self, recipient: Recipient<M>) {
        self.set(Binding::Actor(recipient));
    }

    /// Delivers to a function instead of an actor: how tests stand in for a service.
    pub fn bind_fn<F, Fut>(&self, answer: F)
    where
        F: Fn(M) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M::Reply, M::Error>> + Send + 'static,
    {
        self.set(Binding::Fake(Arc::new(move |message| {
            Box::pin(answer(message))
        })));
    }

    /// Delivers nowhere: callers get [`BusError::Unbound`].
    pub fn clear(&self) {
        self.set(Binding::Unbound);
    }

    fn set(&self, binding: Binding<M>) {
        // A poisoned lock only means that a panic happened elsewhere while the slot was replaced by a
        // single store; the value is whole.
        *self.binding.write().unwrap_or_else(|e| e.into_inner()) = binding;
    }

    /// Sends the message and waits for the answer, at most as long as the message allows.
    ///
    /// # Errors
    /// The service's own error, or its [`BusError`] variant when the service cannot be reached, has
    /// [`CALLS_MAX`] of these calls in hand, dies, or is late.
    pub async fn call(&self, message: M) -> Result<M::Reply, M::Error> {
        let binding = self
            .binding
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .clone();
        let span = tracing::debug_span!("call", message = M::NAME);
        let started = Instant::now();
        let answer = async move {
            let Ok(_place) = self.calls.try_acquire() else {
                return Err(BusError::Busy(M::NAME).into());
            };
            match binding {
                Binding::Unbound => Err(BusError::Unbound(M::NAME).into()),
                // Dead and not yet restarted: the message is not taken, and that is worth knowing.
                Binding::Actor(recipient) if !recipient.connected() => {
                    Err(BusError::Unbound(M::NAME).into())
                }
                Binding::Fake(answer) => within::<M, _>(answer(message)).await,
                Binding::Actor(recipient) => {
                    within::<M, _>(async move {
                        match recipient.send(message).await {
                            Ok(answer) => answer,
                            Err(MailboxError::Closed) => {
                                tracing::error!(
                                    message = M::NAME,
                                    "the service died with this request in its hands"
                                );
                                Err(BusError::ServerDeath(M::NAME).into())
                            }
                            Err(MailboxError::Timeout) => Err(BusError::Deadline(M::NAME).into()),
                        }
                    })
                    .await
                }
            }
        }
        .instrument(span)
        .await;
        latency::record(M::NAME, started.elapsed());
        answer
    }

    /// Whether something is bound and its mailbox is open.
    pub fn is_bound(&self) -> bool {
        match &*self.binding.read().unwrap_or_else(|e| e.into_inner()) {
            Binding::Unbound => false,
            Binding::Actor(recipient) => recipient.connected(),
            Binding::Fake(_) => true,
        }
    }

    /// Puts the message into the mailbox without waiting for the answer.
    ///
    /// # Errors
    /// [`BusError::Busy`] when the mailbox is full, [`BusError::Unbound`] when nobody is there. Either way
    /// the message was not taken.
    pub fn post(&self, message: M) -> Result<(), BusError> {
        match &*self.binding.read().unwrap_or_else(|e| e.into_inner()) {
            Binding::Unbound => Err(BusError::Unbound(M::NAME)),
            Binding::Actor(recipient) => recipient.try_send(message).map_err(|error| match error {
                actix::prelude::SendError::Full(_) => BusError::Busy(M::NAME),
                actix::prelude::SendError::Closed(_) => BusError::Unbound(M::NAME),
            }),
            Binding::Fake(answer) => {
                let answer = answer(message);
                actix::spawn(async move {
                    let _ = answer.await;
                });
                Ok(())
            }
        }
    }
}

async fn within<M: Request, F>(answer: F) -> Result<M::Reply, M::Error>
where
    M::Result: Send,
    F: Future<Output = Result<M::Reply, M::Error>>,
{
    tokio::time::timeout(M::DEADLINE, answer)
        .await
        .unwrap_or_else(|_| Err(BusError::Deadline(M::NAME).into()))
}

/// Makes the port of a service: a cloneable struct of slots that can be bound to one actor at once.
#[macro_export]
macro_rules! service_port {
    ($(#[$meta:meta])* $port:ident { $($(#[$slot_meta:meta])* $slot:ident: $message:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
        pub struct $port {
            $($(#[$slot_meta])* pub $slot: $crate::port::Slot<$message>,)+
        }

        impl $port {
            /// Delivers every message of the service to this actor.
            pub fn bind<A>(&self, actor: &$crate::actor::Addr<A>)
            where
                A: $crate::actor::Actor<Context = $crate::actor::Context<A>>
                    $(+ $crate::actor::Handler<$message>)+,
            {
                $(self.$slot.bind(actor.clone().recipient());)+
            }

            /// Takes the service off the bus.
            pub fn clear(&self) {
                $(self.$slot.clear();)+
            }
        }
    };
}
