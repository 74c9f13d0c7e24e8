//! The token service. So far it holds the verification of signatures; PINs and keys follow.
#![forbid(unsafe_code)]

pub mod signature;
