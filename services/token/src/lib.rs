//! The token service: the only holder of secrets.
//!
//! [`softtoken`] makes and opens the PKCS#12 file that a PIN protects, [`signature`] checks who vouches
//! for a configuration, and [`Token`] is the actor that answers for both. It calls no other service.
#![forbid(unsafe_code)]

mod actor;
pub mod signature;
pub mod softtoken;

pub use actor::{Settings, Token};
