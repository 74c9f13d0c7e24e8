//! Tables of rules: whether one is there, and that one was removed.
//!
//! Rules are set by nft(8); but to look for a table before every start, a program would be slow.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{RecvFlags, SendFlags, netlink::NETFILTER, recv, send};

use super::{
    namespace::Namespace,
    netlink::{BUFFER, HEADER, heads, hear, socket},
};
use crate::error::{Context, Result};

/// linux/netfilter/nf_tables.h: the subsystem is in the upper byte.
const GET_TABLE: u16 = kind(libc::NFT_MSG_GETTABLE);
const DELETED_TABLE: u16 = kind(libc::NFT_MSG_DELTABLE);
const TABLE_NAME: u16 = 1;

const fn kind(message: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// What the rules of a table are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Packets of both versions of IP.
    Inet,
    /// What passes bridges.
    Bridge,
}

impl Family {
    fn number(self) -> u8 {
        // They are 1 and 7.
        match self {
            Self::Inet => libc::NFPROTO_INET as u8,
            Self::Bridge => libc::NFPROTO_BRIDGE as u8,
        }
    }
}

/// Whether there is a table of this name.
///
/// # Errors
/// The kernel has no such rules, or what it said.
pub fn has_table(namespace: &Namespace, family: Family, name: &str) -> Result<bool> {
    let there = || -> io::Result<bool> {
        let socket = socket(Some(NETFILTER), 0)?;
        send(&socket, &request(family, name), SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let error = heads(&buffer[..length]).find(|head| head.kind == libc::NLMSG_ERROR as u16);
        let code = error.and_then(|head| Some(i32::from_ne_bytes(*head.payload.first_chunk()?)));
        match code.map(|code| -code) {
            None => Ok(true),
            Some(libc::ENOENT) => Ok(false),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    };
    namespace.run(|| there().context("look for table", name))
}

/// `struct nlmsghdr`, `struct nfgenmsg`, and the name as an attribute.
fn request(family: Family, name: &str) -> Vec<u8> {
    let attribute = 4 + name.len() + 1;
    let length = HEADER + 4 + attribute.next_multiple_of(4);
    // Names are short words of ours.
    let mut bytes = (length as u32).to_ne_bytes().to_vec();
    bytes.extend(GET_TABLE.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family.number(), 0, 0, 0]);
    bytes.extend((attribute as u16).to_ne_bytes());
    bytes.extend(TABLE_NAME.to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize(length, 0);
    bytes
}

/// Hears of tables that are removed from a namespace.
#[derive(Debug)]
pub struct TableWatch(OwnedFd);

impl TableWatch {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel has no such rules, or what it said.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        let group = 1 << (libc::NFNLGRP_NFTABLES - 1);
        namespace.run(|| {
            socket(Some(NETFILTER), group)
                .context("listen to", "tables")
                .map(Self)
        })
    }

    /// Takes what has come so far, without waiting; tells whether a table was removed, or that may have been missed.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn take(&self) -> io::Result<bool> {
        hear(&self.0, |packet| {
            heads(packet).any(|head| head.kind == DELETED_TABLE)
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

impl AsFd for TableWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::net::nft::apply;

    #[test]
    fn a_table_is_there_until_it_is_removed_which_is_heard_of() {
        let here = Namespace::create().unwrap();
        let watch = TableWatch::new(&here).unwrap();
        assert!(!has_table(&here, Family::Inet, "x").unwrap());
        apply(&here, "table inet x {}\ntable bridge a-longer-name {}\n").unwrap();
        assert!(has_table(&here, Family::Inet, "x").unwrap());
        assert!(!has_table(&here, Family::Bridge, "x").unwrap());
        assert!(has_table(&here, Family::Bridge, "a-longer-name").unwrap());
        assert!(!watch.take().unwrap());
        apply(&here, "flush ruleset\n").unwrap();
        assert!(watch.take().unwrap());
        assert!(!watch.take().unwrap());
        assert!(!has_table(&here, Family::Inet, "x").unwrap());
    }
}
