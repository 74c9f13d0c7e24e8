//! New processes that run the sealed copy of `cml-init`, in new namespaces or in none.
//!
//! The daemon has threads, so between clone and exec only a handful of system calls happen, none of
//! which allocates or takes a lock (LIF-01).

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use crate::{
    channel::Channel,
    error::{Context, Result},
    ordinary,
};

/// Namespaces a container may get. The cgroup and time namespaces are entered by `cml-init` itself,
/// when it is in its group and has set its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces {
    /// Own user ids.
    pub user: bool,
    /// Own network.
    pub net: bool,
}

/// A process that waits for the first byte on its channel before it runs `cml-init`.
#[derive(Debug)]
pub struct Spawned {
    /// Its number on the host.
    pub pid: i32,
    /// The handle of the process.
    pub pidfd: OwnedFd,
    /// The daemon's end of the channel.
    pub channel: Channel,
}

/// `cml-init` finds its channel here; 0, 1 and 2 are `/dev/null`.
pub const CHANNEL_FD: RawFd = 3;
/// linux/sched.h; the constant of the libc crate has a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const PROGRAM_FD: RawFd = 4;
/// SIGRTMAX as the kernel counts.
const LAST_SIGNAL: libc::c_int = 64;
/// Descriptors are lifted above this so that dup2 onto 0 … 4 never hits one of them.
const LIFT: RawFd = 10;

fn lift(fd: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, LIFT).context("duplicate", "descriptor")
}

/// Starts a process. With `namespaces` it is the first one of new namespaces.
///
/// # Errors
/// The kernel refused; its words name the namespace that is missing.
pub fn spawn(
    program: &OwnedFd,
    name: &CStr,
    namespaces: Option<Namespaces>,
    cgroup: Option<&OwnedFd>,
) -> Result<Spawned> {
    let null = lift(
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context("open", "/dev/null")?,
    )?;
    let (ours, theirs) = Channel::pair()?;
    let theirs = lift(&theirs)?;
    let program = lift(program)?;

    let mut flags = libc::CLONE_PIDFD as u64;
    if let Some(wanted) = namespaces {
        flags |= (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC)
            as u64;
        if wanted.user {
            flags |= libc::CLONE_NEWUSER as u64;
        }
        if wanted.net {
            flags |= libc::CLONE_NEWNET as u64;
        }
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`: no stack, no tls, no flags.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    let argv = [name.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null()];
    let child = Child {
        null: null.as_raw_fd(),
        channel: theirs.as_raw_fd(),
        program: program.as_raw_fd(),
        user: namespaces.is_some_and(|wanted| wanted.user),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
    };
    // SAFETY: signals are blocked around the clone, so no handler of this process runs in the child; the
    // child only makes the raw system calls of `Child::run` and never returns from it.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        let pid = libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        );
        if pid == 0 {
            child.run();
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        if pid < 0 {
            return Err(error).context("clone", format_args!("{name:?}"));
        }
        pid
    };
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a new descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Spawned {
        // Linux process numbers fit: the limit is 2^22.
        pid: i32::try_from(pid).unwrap_or(i32::MAX),
        pidfd,
        channel: ours,
    })
}

/// What the child needs between clone and exec; plain numbers and pointers only.
struct Child {
    null: RawFd,
    channel: RawFd,
    program: RawFd,
    user: bool,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
}

impl Child {
    /// # Safety
    /// Only in the child of a clone without `CLONE_VM`, with all signals blocked.
    unsafe fn run(&self) -> ! {
        // SAFETY: every call is an async-signal-safe system call on descriptors that the parent prepared.
        unsafe {
            // First of all let go of everything else that the daemon has open: if it dies now, its clients, its
            // lock and the other end of this channel must be gone with it.
            if libc::dup2(self.null, 0) < 0
                || libc::dup2(self.null, 1) < 0
                || libc::dup2(self.null, 2) < 0
                || libc::dup2(self.channel, CHANNEL_FD) < 0
                || libc::dup3(self.program, PROGRAM_FD, libc::O_CLOEXEC) < 0
                || libc::syscall(libc::SYS_close_range, PROGRAM_FD + 1, libc::c_uint::MAX, 0) < 0
            {
                libc::_exit(126);
            }
            let mut byte = 0_u8;
            // In a new user namespace nobody is root before the parent has written the id maps, and an
            // exec before that would lose all capabilities.
            if libc::read(CHANNEL_FD, (&raw mut byte).cast(), 1) != 1 {
                libc::_exit(127);
            }
            if self.user
                && (libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) != 0
                    || libc::syscall(libc::SYS_setresgid, 0, 0, 0) != 0
                    || libc::syscall(libc::SYS_setresuid, 0, 0, 0) != 0)
            {
                libc::_exit(126);
            }
            // Ignored signals survive an exec, handlers do not, and who has started the daemon may have ignored
            // some. By the kernel's own call, as libc keeps two for itself;
            // all zero is `struct sigaction` of the kernel for the default.
            let default = [0_u64; 4];
            for signal in 1..=LAST_SIGNAL {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    std::ptr::null::<u64>(),
                    size_of::<u64>(),
                );
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::syscall(
                libc::SYS_execveat,
                PROGRAM_FD,
                c"".as_ptr(),
                self.argv,
                self.envp,
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(125);
        }
    }
}

impl Spawned {
    /// Lets the process run `cml-init`, as an ordinary process.
    ///
    /// # Errors
    /// It is gone, or the kernel refused.
    pub fn release(&self) -> Result<()> {
        ordinary::make(self.pid)?;
        rustix::net::send(&self.channel, &[1], rustix::net::SendFlags::NOSIGNAL)
            .context("release", "new process")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, time::Duration};

    use super::*;
    use crate::pidfd::{self, Ended};

    /// A daemon that dies between clone and exec must not leave a process that keeps its clients, its lock
    /// and its own channel open for ever.
    #[test]
    fn a_process_that_waits_holds_nothing_of_the_daemon_and_ends_with_it() {
        let program = File::open("/bin/true").unwrap().into();
        let spawned = spawn(&program, c"waits", None, None).unwrap();
        let dir = format!("/proc/{}/fd", spawned.pid);
        let open = || {
            let names = fs::read_dir(&dir).unwrap().flatten();
            let mut names: Vec<_> = names.map(|name| name.file_name()).collect();
            names.sort();
            names
        };
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while open() != ["0", "1", "2", "3", "4"] && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(open(), ["0", "1", "2", "3", "4"]);
        drop(spawned.channel);
        let ended = pidfd::wait(&spawned.pidfd, Duration::from_secs(20)).unwrap();
        assert_eq!(ended, Ended::Exited(127));
    }
}
