//! Sealed files in memory: programs and plans that nobody can change any more (SEC-01).

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create},
    io::Errno,
};

use crate::error::{Context, Result};

const ALL_SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// linux/fcntl.h, `F_SEAL_EXEC`: nobody takes the right to execute it away. Since Linux 6.3.
const SEAL_MODE: SealFlags = SealFlags::from_bits_retain(0x20);

/// A file in memory with this content, sealed against every change, and one that can be executed. A guest that runs
/// as the host's root owns it, and all containers have the same one.
///
/// # Errors
/// What the kernel said.
pub fn sealed(name: &str, content: &mut dyn Read) -> Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .context("create memfd", name)?;
    let mut file = File::from(fd);
    std::io::copy(content, &mut file).context("fill memfd", name)?;
    file.flush().context("fill memfd", name)?;
    file.rewind().context("fill memfd", name)?;
    fchmod(&file, Mode::from_raw_mode(0o555)).context("set mode of memfd", name)?;
    match fcntl_add_seals(&file, SEAL_MODE) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error).context("seal memfd", name),
    }
    fcntl_add_seals(&file, ALL_SEALS).context("seal memfd", name)?;
    Ok(file.into())
}

/// Everything in a file in memory, from its start.
///
/// # Errors
/// What the kernel said.
pub fn read_all(fd: OwnedFd) -> Result<Vec<u8>> {
    let mut file = File::from(fd);
    let mut bytes = Vec::new();
    file.rewind().context("read", "memfd")?;
    file.read_to_end(&mut bytes).context("read", "memfd")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sealed_file_cannot_be_written_or_unsealed() {
        let fd = sealed("test", &mut b"content".as_slice()).unwrap();
        let mut file = File::from(fd.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert!(fcntl_add_seals(&fd, SealFlags::WRITE).is_err());
        // Linux 6.3 and later.
        if rustix::fs::fcntl_get_seals(&fd)
            .unwrap()
            .contains(SEAL_MODE)
        {
            assert!(fchmod(&fd, Mode::empty()).is_err());
        }
        assert_eq!(read_all(fd).unwrap(), b"content");
    }
}
