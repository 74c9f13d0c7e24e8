//! Names of the sockets (protocol.md 1.1).

/// Directory of the sockets, on the host and inside containers.
pub const RUN_DIR: &str = "/run/socket";

/// File name of the control socket.
pub const CONTROL_SOCKET: &str = "cml-control";

/// File name of the service socket inside a container.
pub const SERVICE_SOCKET: &str = "cml-service";
