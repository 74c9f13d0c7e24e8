//! The contracts of the services, one file each: messages, replies, errors, and the port.

pub mod audit;
pub mod container;
pub mod guestos;
pub mod network;
pub mod provisioning;
pub mod token;
