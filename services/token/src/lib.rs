//! The token service: the only holder of secrets.
//!
//! [`softtoken`] makes and opens the PKCS#12 file that a PIN protects, `tokens` says whose token counts,
//! `tries` counts wrong PINs; [`signature`] checks who vouches for a configuration. [`Token`] is the actor
//! that answers for all of it. It calls no other service.
#![forbid(unsafe_code)]

mod actor;
pub mod pinpad;
pub mod pkcs11;
pub mod signature;
pub mod softtoken;
mod tokens;
mod tries;

pub use actor::{Settings, Token};
