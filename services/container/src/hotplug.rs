//! Devices that come and go: the kernel's news, passed on to every container that runs (LIF-18).
//!
//! What a container makes of it is its actor's business (`actor/devices.rs`).

use std::{io, sync::Arc};

use cml_sys::{
    ready::{Interest, watch},
    uevent::{self, News},
};

use crate::{entry::Entry, one::Plug};

/// Follows the news for ever; a machine that has none, such as one where the daemon may not listen, loses
/// nothing but this.
pub async fn follow(entries: impl AsyncFn() -> Vec<Entry>) {
    let socket = uevent::socket().map_err(|error| error.to_string());
    let socket = socket
        .and_then(|socket| watch(socket, Interest::READABLE).map_err(|error| error.to_string()));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(error, "devices that are plugged in later are not noticed");
            return;
        }
    };
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        let news = ready.try_io(|socket| match uevent::receive(socket.get_ref()) {
            Ok(Some(news)) => Ok(news),
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.source),
        });
        let plug = match news {
            Ok(Ok(News::Device(event))) => Plug::Event(Arc::new(event)),
            Ok(Ok(News::Lost)) => Plug::Lost,
            Ok(Ok(News::Other)) | Err(_) => continue,
            Ok(Err(error)) => {
                tracing::error!(%error, "devices are not followed any more");
                return;
            }
        };
        for entry in entries().await {
            if entry.view.borrow().state.is_at_rest() {
                continue;
            }
            if let Err(error) = entry.port.plug.call(plug.clone()).await {
                tracing::warn!(container = %entry.id, %error, "it was not told of a device");
            }
        }
    }
}
