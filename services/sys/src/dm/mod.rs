//! Device-mapper devices: encryption, integrity and verified images below file systems.
//!
//! An own wrapper over the few ioctls of linux/dm-ioctl.h that are needed. Every device has one target
//! from its first to its last sector. Tables carry keys: they are held in memory that is wiped, and the
//! kernel is told to wipe its copies.

pub mod control;
pub mod integrity;
mod node;
mod request;
pub mod table;
pub mod verity;

pub use control::{Control, Device, TargetVersion};
pub use table::{Journal, Target};
