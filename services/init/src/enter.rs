//! Entering a container that runs: for a command, or to bind one of its sockets anew.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use cml_sys::{
    channel::Channel,
    error::Context,
    path,
    plan::{EnterPlan, FromInit},
};
use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::WaitOptions,
    pty::{OpenptFlags, grantpt, unlockpt},
};

use crate::{Failure, Stage, guest, isolate, socket, user::User};

/// Every namespace of the container's init. The kernel wants all of them in one call, so that a process
/// never stands with one foot outside.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;
/// linux/sched.h; not in every libc.
const CLONE_NEWTIME: libc::c_int = 0x80;

fn join(init: &OwnedFd, user_namespace: bool) -> Result<(), Failure> {
    let user = if user_namespace {
        libc::CLONE_NEWUSER
    } else {
        0
    };
    let time = if Path::new("/proc/self/ns/time").exists() {
        CLONE_NEWTIME
    } else {
        0
    };
    // SAFETY: setns with a pidfd and flags; this process has one thread.
    let done = unsafe {
        libc::setns(
            std::os::fd::AsRawFd::as_raw_fd(init),
            NAMESPACES | user | time,
        )
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).stage("enter the container");
    }
    // SAFETY: plain system calls; root of the container, no supplementary groups.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
    };
    if !done {
        return Err(std::io::Error::last_os_error()).stage("become root of the container");
    }
    // The ids changed, and with them the kernel's idea of who may inspect this process.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .stage("hide")
}

/// Binds a socket and hands it to the daemon. As the container's root, because the files of a
/// file system that was mounted in a user namespace cannot belong to anybody else.
pub(crate) fn bind_socket(
    channel: &Channel,
    fds: Vec<OwnedFd>,
    at: &Path,
    user_namespace: bool,
) -> Result<(), Failure> {
    let init = fds
        .first()
        .ok_or("no process came along")
        .stage("enter the container")?;
    join(init, user_namespace)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .stage("open the root")?;
    let socket = socket::bind(root, at).stage("bind the socket")?;
    channel
        .send(&FromInit::Bound, &[socket.as_fd()])
        .stage("report")
}

/// Runs a command and waits for it.
pub(crate) fn run(channel: &Channel, mut fds: Vec<OwnedFd>) -> Result<(), Failure> {
    if fds.len() < 2 {
        return Err("plan and process must come along").stage("enter the container");
    }
    let plan: EnterPlan = cml_sys::plan::unseal(fds.remove(0)).stage("read the plan")?;
    let init = fds.remove(0);
    join(&init, plan.user_namespace)?;
    drop(init);
    let terminal = plan.terminal.map(open_terminal).transpose()?;
    let listener = isolate::confine(&plan.confinement)?;

    let (read, write) = pipe_with(PipeFlags::CLOEXEC).stage("make a pipe")?;
    // The PID namespace is that of children only, hence a child.
    // SAFETY: this process has one thread, so the child may do anything.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(std::io::Error::last_os_error()).stage("fork");
    }
    if child == 0 {
        drop(read);
        let failed = become_command(terminal.map(|(_, slave)| slave), &fds, &plan);
        // If the daemon is gone as well there is nobody left to tell.
        let _ = channel.send(&failed, &[]);
        let _ = rustix::io::write(&write, b"!");
        std::process::exit(1);
    }
    drop(write);
    drop(fds);
    // The pipe closes without a byte when the command is executed.
    let failed = read_byte(&read).stage("wait for the command")?;
    let child = rustix::process::Pid::from_raw(child)
        .ok_or("fork returned no pid")
        .stage("fork")?;
    if failed {
        let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        std::process::exit(1);
    }
    let master = terminal.map(|(master, _)| master);
    let passed: Vec<_> = master.iter().chain(&listener).map(AsFd::as_fd).collect();
    let started = FromInit::Started {
        listener: listener.is_some(),
        // This process is still in the PID namespace of the daemon.
        session: child.as_raw_nonzero().get(),
    };
    channel.send(&started, &passed).stage("report")?;
    drop(master);
    // A second holder would keep the command waiting when the first has gone.
    drop(listener);
    let status = loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).stage("wait for the command"),
        }
    };
    let status = status
        .exit_status()
        .or(status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    channel
        .send(&FromInit::Ended { status }, &[])
        .stage("report")
}

/// Waits for a byte; false if none will ever come.
fn read_byte(pipe: &OwnedFd) -> rustix::io::Result<bool> {
    loop {
        match rustix::io::read(pipe, &mut [0]) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(|count| count > 0),
        }
    }
}

/// A new terminal of the container's own devpts: master and slave.
fn open_terminal((cols, rows): (u16, u16)) -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    // By the path of the devpts itself: /dev/ptmx is a link that the guest can replace.
    let master = rustix::fs::open(
        "/dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .stage("open a terminal")?;
    grantpt(&master).stage("open a terminal")?;
    unlockpt(&master).stage("open a terminal")?;
    // By descriptor, not by name: nobody can slip another file in between (SEC-04).
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).stage("open a terminal")?;
    let size = rustix::termios::Winsize {
        ws_col: cols,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).stage("size the terminal")?;
    Ok((master, slave))
}

/// The child: becomes the command, or says why it cannot.
fn become_command(slave: Option<OwnedFd>, pipes: &[OwnedFd], plan: &EnterPlan) -> FromInit {
    let env = match prepare_command(slave, pipes, plan) {
        Ok(env) => env,
        Err(Failure { stage, reason }) => return FromInit::Failed { stage, reason },
    };
    let program = plan.argv.first().map_or("", String::as_str);
    let candidates = candidates(program, &env);
    let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
    let error = guest::exec_words(plan.argv.iter().map(String::as_str), &env, &candidates);
    match error.kind() {
        io::ErrorKind::NotFound => FromInit::NoProgram {
            name: program.to_owned(),
        },
        _ => FromInit::Failed {
            stage: format!("execute `{program}`"),
            reason: error.to_string(),
        },
    }
}

/// Everything before the execution. Returns the command's environment.
fn prepare_command(
    slave: Option<OwnedFd>,
    pipes: &[OwnedFd],
    plan: &EnterPlan,
) -> Result<Vec<String>, Failure> {
    rustix::process::setsid().stage("start a session")?;
    let ends: Vec<_> = match &slave {
        Some(slave) => {
            rustix::process::ioctl_tiocsctty(slave).stage("take the terminal")?;
            vec![slave.as_fd(); 3]
        }
        None => pipes.iter().map(AsFd::as_fd).collect(),
    };
    let [stdin, stdout, stderr] = ends[..] else {
        return Err("three pipes must come along").stage("connect the command");
    };
    rustix::stdio::dup2_stdin(stdin).stage("connect the command")?;
    rustix::stdio::dup2_stdout(stdout).stage("connect the command")?;
    rustix::stdio::dup2_stderr(stderr).stage("connect the command")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let mut env = plan.env.clone();
    if let Some(user) = &plan.user {
        let user = User::find(user).stage("find the user")?;
        user.become_it(&ends).stage("become the user")?;
        if !env.iter().any(|word| word.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
    }
    // Another user loses what was said here before.
    die_with_helper()?;
    enter_directory(&plan.workdir).stage(&format!("enter `{}`", plan.workdir.display()))?;
    isolate::last_steps().stage("clean up")?;
    Ok(env)
}

/// The working directory, never through a link of procfs that leads to a descriptor of ours (SEC-02).
fn enter_directory(at: &Path) -> cml_sys::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/")?;
    let directory = path::open_in_root(&root, at, OFlags::PATH | OFlags::DIRECTORY)?;
    rustix::process::fchdir(directory).context("enter", at.display())
}

/// The daemon ends a session whose client is gone by ending the helper, which is all it can see of it.
fn die_with_helper() -> Result<(), Failure> {
    // SAFETY: a prctl with plain numbers; it cannot fail for a valid signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    // The helper is outside of this PID namespace and so has no number here. A parent that has one is the
    // container's init: the helper died before the line above.
    match rustix::process::getppid() {
        None => Ok(()),
        Some(_) => Err("the helper is gone").stage("start a session"),
    }
}

/// Where a command may be: itself if it names a path, else every directory of its own `PATH`.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|word| word.strip_prefix("PATH="));
    path.unwrap_or_default()
        .split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| format!("{dir}/{program}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_searched_in_its_own_path_only() {
        let env = ["PATH=/bin:/usr/bin".to_owned()];
        assert_eq!(candidates("ls", &env), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(candidates("./ls", &env), ["./ls"]);
        assert!(candidates("ls", &[]).is_empty());
    }
}
