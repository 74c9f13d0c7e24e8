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
fn keep_only(kept: impl Fn(u32) -> bool) -> Result<()> {
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

/// Refuses the system calls that load a kernel: SYS_BOOT is for ending the own PID namespace
/// (docs/adr/0005-capabilities.md). Calls of another architecture have other numbers and are refused as a
/// whole, as if this kernel could not do them.
pub(crate) fn forbid_kernel_loading() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    const NATIVE: u32 = 0xC000_003E; // AUDIT_ARCH_X86_64
    #[cfg(target_arch = "aarch64")]
    const NATIVE: u32 = 0xC000_00B7; // AUDIT_ARCH_AARCH64
    #[cfg(target_arch = "riscv64")]
    const NATIVE: u32 = 0xC000_00F3; // AUDIT_ARCH_RISCV64
    /// x32 calls carry the native architecture and this bit.
    const X32: u32 = 0x4000_0000;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Offsets in `struct seccomp_data` of linux/seccomp.h.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let refuse = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD, ARCHITECTURE, 0, 0),
        step(EQUAL, NATIVE, 1, 0),
        step(RETURN, refuse(libc::ENOSYS), 0, 0),
        step(LOAD, NUMBER, 0, 0),
        step(AT_LEAST, X32, 3, 0),
        step(EQUAL, libc::SYS_kexec_load as u32, 3, 0),
        step(EQUAL, libc::SYS_kexec_file_load as u32, 2, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(RETURN, refuse(libc::ENOSYS), 0, 0),
        step(RETURN, refuse(libc::EPERM), 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is live for the call, which copies it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("install", "system call filter"),
    }
}
