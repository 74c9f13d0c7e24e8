//! Sockets inside the container, for its service (runtime.md 1.5) and for control (protocol.md 1.1): bound there, served by the
//! daemon.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use cml_sys::{
    error::{Context, Error, Result},
    path,
};
use rustix::{
    fs::{AtFlags, Mode, unlinkat},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, listen,
        socket_with,
    },
};

/// Binds the socket inside `root`. Its directory is one of the runtime's own tmpfs, mode 0755; the socket
/// is for the container's root only.
pub(crate) fn bind(root: impl AsFd, at: &Path) -> Result<OwnedFd> {
    let (Some(dir), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(Error::invalid("bind", at.display(), "not a file path"));
    };
    let dir = path::make_dir_in_root(root, dir, Mode::from_raw_mode(0o755))?;
    match unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error).context("replace", at.display()),
    }
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .context("make socket", at.display())?;
    // From inside the directory: no component of the path is looked up a second time. This process has no
    // other use for a working directory before it is set anew.
    rustix::process::fchdir(&dir).context("enter", at.display())?;
    let address = SocketAddrUnix::new(name).context("name socket", at.display())?;
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = bind_socket(&socket, &address);
    rustix::process::umask(old);
    bound.context("bind", at.display())?;
    // 128 as the existing system (protocol.md 1.1).
    listen(&socket, 128).context("listen on", at.display())?;
    Ok(socket)
}
