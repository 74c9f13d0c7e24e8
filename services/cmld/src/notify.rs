//! What the service manager is told, if one has started the daemon and wants to know: sd_notify(3).
//!
//! A datagram to the address in the environment. The crates for it take paths alone, and managers of containers give
//! abstract addresses as well.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Where to.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Clients are served.
    Ready,
    /// The daemon is about to end.
    Stopping,
}

/// Tells it. A manager that does not listen is none of the daemon's business.
pub fn tell(news: News) {
    let Some(address) = env::var_os(VARIABLE) else {
        return;
    };
    if let Err(error) = send(&address, news) {
        tracing::warn!(%error, ?address, ?news, "the service manager was not told");
    }
}

fn send(address: &OsStr, news: News) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let words: &[u8] = match news {
        News::Ready => b"READY=1",
        News::Stopping => b"STOPPING=1",
    };
    let socket = UnixDatagram::unbound()?;
    // A full queue must not hold the daemon up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(words, &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn news_reach_a_path_and_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("cml-test-notify-{}", std::process::id());
        let paths = UnixDatagram::bind(&path).unwrap();
        let names = SocketAddr::from_abstract_name(&name).unwrap();
        let names = UnixDatagram::bind_addr(&names).unwrap();
        let abstract_name = format!("@{name}");
        for (socket, address) in [
            (paths, path.as_os_str()),
            (names, OsStr::new(&abstract_name)),
        ] {
            for (news, words) in [(News::Ready, "READY=1"), (News::Stopping, "STOPPING=1")] {
                send(address, news).unwrap();
                let mut heard = [0; 64];
                let length = socket.recv(&mut heard).unwrap();
                assert_eq!(&heard[..length], words.as_bytes());
            }
        }
        for nowhere in ["", "@", "/nonexistent/notify"] {
            send(OsStr::new(nowhere), News::Ready).unwrap_err();
        }
    }
}
