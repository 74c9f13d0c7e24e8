//! The microkernel of the container management layer.
//!
//! A service is an actix actor that is reachable only through [`port::Slot`]s: one per message, each
//! with a deadline and an error for every way a call can go wrong. Who may call whom is decided once,
//! by the composition root, which hands out the ports; nothing can be looked up. `api` holds the
//! contract of every service, one file each, and is the documentation of that service.
//!
//! The crate is thin on purpose: plain actix underneath, ports and a death watch on top. Swapping the
//! actor library means changing this crate and no other.
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod blocking;
pub mod error;
pub mod event;
pub mod id;
pub mod latency;
pub mod order;
pub mod port;
pub mod provisioned;
pub mod secret;
pub mod supervisor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// The parts of actix that a service needs to be an actor. Services name no actix path of their own.
pub mod actor {
    pub use actix::{
        Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message,
        ResponseActFuture, ResponseFuture, SpawnHandle, System, WeakAddr, WrapFuture, fut, spawn,
    };
}
