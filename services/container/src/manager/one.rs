//! Commands about one container.

use cml_bus::{
    actor::{Context, Handler, ResponseFuture},
    api::{
        container::{
            ChangePin, ContainerError, Exec, ExecSession, SetAudio, SetDevice, SetFrozen, Start,
            Started, Stop, Wipe,
        },
        token,
    },
};

use super::Manager;
use crate::{noted, unlock::holder};

impl Handler<ChangePin> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, request: ChangePin, _: &mut Context<Self>) -> Self::Result {
        let holder = match request.id.is_core0() {
            true => Err(ContainerError::Protected),
            false => self.usable(request.id).and_then(|entry| {
                let config = entry.view.borrow().config.clone();
                holder(request.id, &config)?.ok_or_else(|| {
                    ContainerError::BadConfig("token_type NONE has no PIN to be changed".into())
                })
            }),
        };
        let token = self.env.token.clone();
        Box::pin(async move {
            let change = token::ChangePin {
                holder: Some(holder?),
                old: request.old,
                new: request.new,
            };
            Ok(token.change_pin.call(change).await?)
        })
    }
}

impl Handler<Wipe> for Manager {
    type Result = ResponseFuture<Result<(), ContainerError>>;

    fn handle(&mut self, request: Wipe, _: &mut Context<Self>) -> Self::Result {
        let entry = match request.id.is_core0() {
            true => Err(ContainerError::Protected),
            false => self.find(request.id).cloned(),
        };
        let env = self.env.clone();
        Box::pin(async move { env.wipe_entry(&entry?).await })
    }
}

impl Handler<Start> for Manager {
    type Result = ResponseFuture<Result<Started, ContainerError>>;

    fn handle(&mut self, request: Start, _: &mut Context<Self>) -> Self::Result {
        let port = match request.id.is_core0() {
            true => Err(ContainerError::Protected),
            false => self.port(request.id),
        };
        if let Err(error) = &port {
            // One that does not exist has no log.
            let note = noted::not_started(|did| did.with(request.id), error);
            self.env.events.audit(note);
        }
        Box::pin(async move { port?.start.call(request).await })
    }
}

/// Commands about one container: its actor answers.
macro_rules! passed_on {
    ($($message:ident => $reply:ty, $slot:ident, $core0:literal;)+) => {$(
        impl Handler<$message> for Manager {
            type Result = ResponseFuture<Result<$reply, ContainerError>>;

            fn handle(&mut self, request: $message, _: &mut Context<Self>) -> Self::Result {
                let port = match request.id.is_core0() && !$core0 {
                    true => Err(ContainerError::Protected),
                    false => self.port(request.id),
                };
                Box::pin(async move { port?.$slot.call(request).await })
            }
        }
    )+};
}

// The last column: whether core0 takes it too (protocol.md 3.5, 3.6). Frozen, it could not take it back.
passed_on! {
    Stop => (), stop, false;
    SetFrozen => (), set_frozen, false;
    SetDevice => (), set_device, true;
    SetAudio => Option<String>, set_audio, true;
    Exec => ExecSession, exec, true;
}
