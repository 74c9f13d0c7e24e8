//! The guest OS service: which guest operating systems are installed, and their verified images.
//!
//! [`store`] finds configurations on disk, the token service says who vouches for them, [`check`] says
//! whether they make sense, [`select`] picks a version, [`images`] verifies and mounts what it needs,
//! [`verity`] those that the kernel verifies block by block. One
//! mount of an image serves all containers that use it.
#![forbid(unsafe_code)]

mod actor;
mod check;
mod images;
mod select;
mod store;
mod verity;

pub use actor::{GuestOs, Settings};
