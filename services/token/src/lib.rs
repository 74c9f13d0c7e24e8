//! The token service: the only holder of secrets.
//!
//! [`softtoken`] makes and opens the file that a PIN protects, [`keyring`] is what it releases, [`keyfile`] the
//! wrapped key of a container and `keys` the directory of those; `tokens` says whose token counts, `tries`
//! counts wrong PINs; [`signature`] checks who vouches for a configuration, `ca` knows the roots, [`identity`] is
//! who the device is. [`Token`] is the actor that answers for all of it. It calls no other service.
#![forbid(unsafe_code)]

mod actor;
mod ca;
mod certificate;
mod cms;
pub mod identity;
pub mod keyfile;
pub mod keyring;
pub mod keys;
pub mod pinpad;
pub mod pkcs11;
mod report;
mod seal;
pub mod signature;
pub mod softtoken;
mod tokens;
mod tries;

pub use actor::{Settings, Token};
pub use tokens::Places;
