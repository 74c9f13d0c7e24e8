//! What separates the guest from the rest besides mounts: namespaces entered late, capabilities,
//! inherited state.

use std::{fs, io, os::fd::OwnedFd};

use cml_sys::{
    error::{Context, Result},
    plan::Confinement,
    seccomp::{self, policy},
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::{Failure, Stage};

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

/// Makes this file standard input, output and error.
pub(crate) fn stand_on(file: &fs::File) -> Result<()> {
    let done = rustix::stdio::dup2_stdin(file)
        .and_then(|()| rustix::stdio::dup2_stdout(file))
        .and_then(|()| rustix::stdio::dup2_stderr(file));
    done.context("connect", "standard streams")
}

/// Takes from this process, and from all that it will start, what no process of the container may have. Returns
/// the listener of the system calls that are done for it, if there are any.
pub(crate) fn confine(confinement: &Confinement) -> std::result::Result<Option<OwnedFd>, Failure> {
    // Before the filter, as it leaves no keyrings to be left.
    leave_keyring().stage("leave the session keyring")?;
    if confinement.no_new_privs {
        rustix::thread::set_no_new_privs(true).stage("forbid new privileges")?;
    }
    let rules = policy::rules(confinement.calls);
    // Before the capabilities, as it takes one to install a filter.
    let listener = seccomp::install(&rules).stage("filter system calls")?;
    drop_privileges(&confinement.dropped_capabilities).stage("drop capabilities")?;
    Ok(listener)
}

/// The keys of the daemon's session are none of the guest's.
fn leave_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a plain number and a null pointer for an anonymous keyring.
    let joined = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    let error = io::Error::last_os_error();
    // A kernel without keyrings has none to leak.
    match joined < 0 && error.raw_os_error() != Some(libc::ENOSYS) {
        true => Err(error).context("join", "new keyring"),
        false => Ok(()),
    }
}

/// Takes capabilities away for good: out of the bounding set, so that no program of the guest gets them, and
/// out of this process. What the daemon was given to inherit would survive an exec in spite of the bounding
/// set, so nothing is inherited.
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
    // SAFETY: a prctl with plain numbers.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
            0,
            0,
            0,
        )
    };
    if cleared != 0 {
        return Err(io::Error::last_os_error()).context("clear", "ambient capabilities");
    }
    keep_only(|number| !capabilities.contains(&number))
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`; two of them make a set of 64.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Reduces the capabilities of this process, and inherits none.
pub(crate) fn keep_only(kept: impl Fn(u32) -> bool) -> Result<()> {
    let header = CapabilityHeader {
        // _LINUX_CAPABILITY_VERSION_3
        version: 0x2008_0522,
        pid: 0,
    };
    let mut sets = [CapabilityData::default(); 2];
    // SAFETY: both pointers are to live structures of the version's layout.
    if unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("read", "capabilities");
    }
    for (set, first) in sets.iter_mut().zip([0, 32]) {
        let mask = (0..32)
            .filter(|bit| kept(first + bit))
            .fold(0, |mask, bit| mask | 1 << bit);
        set.effective &= mask;
        set.permitted &= mask;
        set.inheritable = 0;
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("reduce", "capabilities");
    }
    Ok(())
}

/// The last thing before a program of the guest runs: own session, every signal at its default, no descriptor but
/// 0, 1, 2 after the exec (SEC-02).
pub(crate) fn last_steps() -> Result<()> {
    // The leader of a session cannot found another one; then it has one already.
    let _ = rustix::process::setsid();
    // SAFETY: the default of a signal needs no handler, and close_range only sets flags.
    let done = unsafe {
        // Our own runtime ignores it, and that would outlive the exec: `yes | head` would complain.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
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
