//! What separates the guest from the rest besides mounts: namespaces entered late, capabilities,
//! inherited state.

use std::{fs, io};

use cml_sys::error::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Enters a cgroup namespace whose root is the container's group, and a time namespace in which the
/// machine has just started (runtime.md 2.9: the guest's uptime begins near 0).
pub(crate) fn enter_late_namespaces() -> Result<()> {
    // SAFETY: neither flag touches the descriptor table or signal handling; there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.context("unshare", "cgroup namespace")?;
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return Ok(());
    }
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWTIME) }.context("unshare", "time namespace")?;
    let seconds = |clock| rustix::time::clock_gettime(clock).tv_sec;
    let path = "/proc/self/timens_offsets";
    let offsets = format!(
        "monotonic -{} 0\nboottime -{} 0\n",
        seconds(rustix::time::ClockId::Monotonic),
        seconds(rustix::time::ClockId::Boottime),
    );
    fs::write(path, offsets).context("write", path)?;
    let path = "/proc/self/ns/time_for_children";
    let namespace = fs::File::open(path).context("open", path)?;
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespace),
        Some(LinkNameSpaceType::Time),
    )
    .context("enter", "time namespace")
}

/// Sets the loopback interface up.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: plain socket and ioctl calls on a zeroed `ifreq` that holds the name `lo`.
    let done = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let done = libc::ioctl(
            socket,
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        );
        libc::close(socket);
        done
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).context("set up", "lo")
    }
}

/// Takes capabilities out of the bounding set, so that no program of the guest ever gets them.
pub(crate) fn drop_privileges(capabilities: &[u32]) -> Result<()> {
    for capability in capabilities {
        // SAFETY: a prctl with plain numbers.
        let done =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability as libc::c_ulong, 0, 0, 0) };
        if done != 0 {
            let error = io::Error::last_os_error();
            // A number that this kernel does not know cannot be held either.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error).context("drop capability", capability);
            }
        }
    }
    Ok(())
}

/// The last thing before a program of the guest runs: own session and keyring, no descriptor but 0, 1, 2
/// after the exec (SEC-02), and a process that may be inspected by its own root again.
pub(crate) fn last_steps() -> Result<()> {
    // The leader of a session cannot found another one; then it has one already.
    let _ = rustix::process::setsid();
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: plain numbers and a null pointer for an anonymous keyring; close_range only sets flags.
    let done = unsafe {
        let joined = libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        );
        // A kernel without keyrings has none to leak.
        if joined < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
            return Err(io::Error::last_os_error()).context("leave", "session keyring");
        }
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error()).context("close", "descriptors");
    }
    Ok(())
}
