//! Where the daemon listens (protocol.md 1.1).

/// The control socket, unless the command line names another.
pub const CONTROL_SOCKET: &str = "/run/socket/cml-control";
