//! Interfaces that come, go and change their names, as they do.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::NetlinkPayload;

use super::{
    namespace::Namespace,
    netlink::{Answer, hear, messages, route_socket},
};
use crate::error::Result;

/// `RTMGRP_LINK` of linux/rtnetlink.h.
const GROUP_LINK: u32 = 1;

/// Hears of every change to an interface of a namespace.
#[derive(Debug)]
pub struct LinkWatch(OwnedFd);

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// An interface may have come or got another name: it is worth a look.
    pub news: bool,
}

impl LinkWatch {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        namespace.run(|| route_socket(GROUP_LINK)).map(Self)
    }

    /// Takes what has come so far, without waiting.
    ///
    /// # Errors
    /// The socket is broken. That something was lost is no error, but news (LIF-18).
    pub fn take(&self) -> io::Result<Heard> {
        let is_news = |packet: &[u8]| {
            messages(packet).any(|message| {
                matches!(
                    message.payload,
                    NetlinkPayload::InnerMessage(Answer::Link(_) | Answer::Unreadable)
                )
            })
        };
        Ok(Heard {
            news: hear(&self.0, is_news)?,
        })
    }

    /// For an event loop.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn file(&self) -> io::Result<File> {
        Ok(self.0.try_clone()?.into())
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::net::link::End;

    #[test]
    fn an_interface_that_comes_is_heard_of() {
        let here = Namespace::create().unwrap();
        let watch = LinkWatch::new(&here).unwrap();
        assert_eq!(watch.take().unwrap(), Heard { news: false });
        let end = End {
            name: "br",
            mac: None,
            group: 0,
        };
        here.netlink().unwrap().add_bridge(&end).unwrap();
        assert_eq!(watch.take().unwrap(), Heard { news: true });
        assert_eq!(watch.take().unwrap(), Heard { news: false });
    }
}
