//! The guest OS service: which guest operating systems are installed, and their verified images.
//!
//! `store` finds configurations on disk, the token service says who vouches for them, the rules of wire whether they
//! make sense, `select` picks a version, `images` verifies and mounts what it needs, `verity` those that the kernel
//! verifies block by block. One mount of an image serves all containers that use it.
//!
//! A pushed configuration goes through the same hands; `version` says whether it may come in, `wanted` what it
//! needs, `fetch` brings that from a `source`, `flash` writes what belongs elsewhere, and `staging` makes it part of the store in one step.
#![forbid(unsafe_code)]

mod actor;
mod catalogue;
mod digest;
mod fetch;
mod flash;
mod http;
mod images;
mod install;
mod meter;
mod select;
mod source;
mod staging;
mod store;
mod tree;
mod turns;
mod verity;
mod version;
mod wanted;

pub use actor::{GuestOs, Settings};
pub use flash::Targets;
