//! Process 1 for guests whose init is an ordinary program: runs it as a child, collects orphans, forwards
//! a polite stop, and ends with the child (docs/adr/0002-init-modes.md).

use std::{
    fs::File,
    io::{Read, Write},
};

use cml_sys::plan::InitPlan;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait},
};

use crate::{Failure, Stage, guest, isolate};

/// Signals that are passed on to the program: what an operator or `kill` inside the guest may send.
const FORWARDED: &[libc::c_int] = &[
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPWR,
];

/// Runs the program and never returns, except when it could not be executed.
pub(crate) fn run(init: &InitPlan) -> Result<(), Failure> {
    let wanted = block_signals();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).stage("make a pipe")?;
    // SAFETY: this process has one thread, so the child may do anything.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(std::io::Error::last_os_error()).stage("fork");
    }
    if child == 0 {
        drop(read);
        unblock_signals();
        let error = match isolate::last_steps() {
            Ok(()) => guest::exec(init).to_string(),
            Err(error) => error.to_string(),
        };
        let _ = File::from(write).write_all(error.as_bytes());
        std::process::exit(127);
    }
    drop(write);
    let mut error = String::new();
    File::from(read)
        .read_to_string(&mut error)
        .stage("wait for init")?;
    if !error.is_empty() {
        return Err(error).stage("execute init");
    }
    // Closing every descriptor tells the daemon that the guest runs.
    // SAFETY: nothing of this process uses a descriptor from here on.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    std::process::exit(mind(child, &wanted));
}

/// Stands in for a program that is not there: collects what ends, until it is asked to stop.
pub(crate) fn idle() -> Result<(), Failure> {
    let wanted = block_signals();
    isolate::last_steps().stage("clean up")?;
    // SAFETY: nothing of this process uses a descriptor from here on.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are to live values.
        if unsafe { libc::sigwait(&raw const wanted, &raw mut signal) } != 0 {
            continue;
        }
        if signal != libc::SIGCHLD {
            std::process::exit(0);
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

/// Collects every process that ends until the program itself does; returns its status for the shell.
fn mind(child: libc::pid_t, wanted: &libc::sigset_t) -> i32 {
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are to live values.
        if unsafe { libc::sigwait(wanted, &raw mut signal) } != 0 {
            continue;
        }
        if signal != libc::SIGCHLD {
            forward(child, signal);
            continue;
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                return status
                    .exit_status()
                    .or(status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(255);
            }
        }
    }
}

/// The program leads its own group, so its helpers hear the signal as well.
fn forward(child: libc::pid_t, signal: i32) {
    let (Some(child), true) = (Pid::from_raw(child), FORWARDED.contains(&signal)) else {
        return;
    };
    let Some(signal) = Signal::from_named_raw(signal) else {
        return;
    };
    if kill_process_group(child, signal).is_err() {
        let _ = kill_process(child, signal);
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: an all-zero set is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        for signal in FORWARDED {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

fn unblock_signals() {
    // SAFETY: as above.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}
