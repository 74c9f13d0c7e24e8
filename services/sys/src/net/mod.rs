//! Networks: namespaces, interfaces, addresses and rules (feature `net`; `cml-init` configures no network).
//!
//! A netlink socket belongs for ever to the namespace that the thread was in that opened it. So threads enter
//! a namespace only to open one, and end (LIF-07): whatever is done after that is done from where we are.

pub mod address;
pub mod link;
pub mod mac;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod pin;
pub mod tables;
pub mod watch;
