//! Devices that come and go: the kernel's news, passed on to every container that runs (LIF-18).
//!
//! What a container makes of it is its actor's business (`actor/devices.rs`).

use std::{fs::File, io, sync::Arc, time::Duration};

use cml_sys::{
    ready::{AsyncFd, Interest, watch},
    uevent::{self, News},
};
use tokio::time::sleep;

use crate::{
    entry::{Entry, at_once},
    one::Plug,
};

/// The pause before a socket that has failed is replaced.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows the news for ever; a machine that has none, such as one where the daemon may not listen, loses
/// nothing but this.
pub async fn follow(entries: impl AsyncFn() -> Vec<Entry>) {
    let mut lost = false;
    loop {
        let socket = uevent::socket().map_err(|error| error.to_string());
        let socket = socket.and_then(|socket| {
            watch(socket, Interest::READABLE).map_err(|error| error.to_string())
        });
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(error, "devices that are plugged in later are not noticed");
                return;
            }
        };
        if lost {
            tell(entries().await, Plug::Lost).await;
        }
        let error = pass_on(&socket, &entries).await;
        tracing::error!(%error, "news of devices are lost; listening anew");
        lost = true;
        sleep(PAUSE).await;
    }
}

/// Passes on what the socket brings, until it fails.
async fn pass_on(socket: &AsyncFd<File>, entries: &impl AsyncFn() -> Vec<Entry>) -> io::Error {
    loop {
        let mut ready = match socket.readable().await {
            Ok(ready) => ready,
            Err(error) => return error,
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
            Ok(Err(error)) => return error,
        };
        tell(entries().await, plug).await;
    }
}

/// Tells all that run at once: one whose turn is taken keeps nobody else waiting. The next news are told when all have
/// taken these, so that none overtakes another.
async fn tell(mut entries: Vec<Entry>, plug: Plug) {
    entries.retain(|entry| !entry.view.borrow().state.is_at_rest());
    let tell = async move |entry: &Entry| entry.port.plug.call(plug.clone()).await;
    for told in at_once(entries, tell) {
        if let Ok((id, Err(error))) = told.await {
            tracing::warn!(container = %id, %error, "it was not told of a device");
        }
    }
}

#[cfg(test)]
mod tests {
    use cml_bus::{actor::System, id::ContainerId};
    use tokio::sync::{Barrier, watch};

    use super::*;
    use crate::{fsm::State, one::OnePort, view::View};

    #[test]
    fn one_that_cannot_be_told_yet_does_not_keep_the_news_from_the_others() {
        System::new().block_on(async {
            // Nobody gets past it before both were told.
            let both = Arc::new(Barrier::new(2));
            let told = watch::Sender::new(0);
            let entries = [(); 2].map(|()| {
                let port = OnePort::default();
                let (both, told) = (both.clone(), told.clone());
                port.plug.bind_fn(move |_| {
                    let (both, told) = (both.clone(), told.clone());
                    async move {
                        both.wait().await;
                        told.send_modify(|count| *count += 1);
                        Ok(())
                    }
                });
                let mut view = View::unknown(Arc::default(), 0, None);
                view.state = State::Running;
                Entry {
                    id: ContainerId::random(),
                    port,
                    view: watch::channel(view).1,
                }
            });
            tell(entries.into(), Plug::Lost).await;
            assert_eq!(*told.borrow(), 2);
        });
    }
}
