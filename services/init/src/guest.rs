//! From a fresh process in fresh namespaces to the guest's init: the stages, in order.

use std::{
    ffi::{CString, OsStr},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use cml_sys::{
    channel::Channel,
    mount, path,
    plan::{BootReport, ChosenInit, FromInit, InitMode, InitPlan, LaunchPlan, ToInit},
};
use rustix::fs::{CWD, Mode, OFlags};

use crate::{
    Failure, Stage, assemble, devices, isolate, kernelfs, resolver, socket, supervise, toolbox,
};

/// Puts the container together, waits for the daemon's word, and becomes its init.
pub(crate) fn become_container(channel: &Channel, mut fds: Vec<OwnedFd>) -> Result<(), Failure> {
    if fds.len() < 2 {
        return Err("no plan came along").stage("read the plan");
    }
    let plan: LaunchPlan = cml_sys::plan::unseal(fds.remove(0)).stage("read the plan")?;
    let dev = fds.remove(0);
    let trees = fds;

    isolate::enter_late_namespaces().stage("enter namespaces")?;
    rustix::system::sethostname(plan.hostname.as_bytes()).stage("set the host name")?;
    if plan.own_network {
        isolate::loopback_up().stage("bring the loopback up")?;
    }
    rustix::process::umask(Mode::empty());

    mount::make_private().stage("separate mounts")?;
    let stage = assemble::Stage::new().stage("make the stage")?;
    let root = stage.guest_mounts(&plan.mounts, &trees)?;
    kernelfs::mount_all(&root, &plan, dev)?;
    devices::fifos(&root, &plan.fifos, &trees).stage("show the pipes")?;
    drop(trees);
    if let Some(server) = plan.name_server {
        resolver::configure(&root, server);
    }
    let mut sockets = Vec::new();
    for path in plan.service_socket.iter().chain(&plan.control_socket) {
        sockets.push(socket::bind(&root, path).stage("bind the sockets")?);
    }

    mount::pivot(&root).stage("switch to the new root")?;
    drop(root);
    let null = kernelfs::null().stage("find the null device")?;
    kernelfs::mask(&plan, &null).stage("mask kernel files")?;
    // The host's, which was there till now, is a file that a guest could lock, watch, or as root take away.
    isolate::stand_on(&null).stage("let go of the host's null device")?;
    drop(null);
    // Sessions that enter must never see a umask or a directory of the daemon.
    rustix::process::umask(Mode::from_raw_mode(0o022));

    // First, as the tools bring an init along that nobody has asked for.
    let chosen = choose(&plan.init)?;
    if let Some(toolbox) = &plan.toolbox {
        toolbox::install(toolbox).stage("install the tools")?;
    }
    let listener = isolate::confine(&plan.confinement)?;
    let prepared = FromInit::Prepared {
        init: chosen,
        listener: listener.is_some(),
    };
    let passed: Vec<_> = sockets.iter().chain(&listener).map(AsFd::as_fd).collect();
    channel.send(&prepared, &passed).stage("report")?;
    drop(sockets);
    // A second holder would keep callers waiting when the first has gone.
    drop(listener);
    match channel.receive(None).stage("wait for the word")? {
        (ToInit::Go, _) => {}
        _ => return Err("another order instead of go").stage("wait for the word"),
    }
    if chosen.idle {
        supervise::idle()
    } else if chosen.supervised {
        supervise::run(&plan.init)
    } else {
        isolate::last_steps().stage("clean up")?;
        Err(exec(&plan.init)).stage("execute init")
    }
}

/// Replaces this process by the guest's init. Returns only the reason why that failed.
pub(crate) fn exec(init: &InitPlan) -> std::io::Error {
    let path = init.path.to_string_lossy();
    let words = std::iter::once(path.as_ref()).chain(init.args.iter().map(String::as_str));
    exec_words(words, &init.env, &[path.as_ref()])
}

/// Executes the first candidate that exists. Returns only the reason why that failed.
pub(crate) fn exec_words<'a>(
    argv: impl Iterator<Item = &'a str>,
    env: &[String],
    candidates: &[&str],
) -> std::io::Error {
    let c_string = |text: &str| CString::new(text).map_err(std::io::Error::from);
    let argv: Result<Vec<_>, _> = argv.map(c_string).collect();
    let envp: Result<Vec<_>, _> = env.iter().map(|word| c_string(word)).collect();
    let (argv, envp) = match (argv, envp) {
        (Ok(argv), Ok(envp)) => (argv, envp),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        let ends = std::iter::once(std::ptr::null());
        words.iter().map(|word| word.as_ptr()).chain(ends).collect()
    };
    let (argv_pointers, envp_pointers) = (pointers(&argv), pointers(&envp));
    let mut failed = std::io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates {
        let Ok(path) = CString::new(*candidate) else {
            continue;
        };
        // SAFETY: the vectors end in a null pointer and their strings outlive the call.
        unsafe {
            libc::execve(
                path.as_ptr(),
                argv_pointers.as_ptr(),
                envp_pointers.as_ptr(),
            )
        };
        let error = std::io::Error::last_os_error();
        // As execvp(3): a directory of PATH that has no such file is no news, a forbidden file is.
        if error.raw_os_error() != Some(libc::ENOENT) && error.raw_os_error() != Some(libc::ENOTDIR)
        {
            failed = error;
        }
    }
    failed
}

/// Decides who is process 1 (docs/adr/0002-init-modes.md).
fn choose(init: &InitPlan) -> Result<ChosenInit, Failure> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if init.optional && !init.path.exists() {
        return Ok(ChosenInit {
            supervised: true,
            idle: true,
            boot_by_service: false,
            stop_signal: libc::SIGTERM,
        });
    }
    let real = path::final_name(root.stage("open the root")?, &init.path).stage("find init")?;
    rustix::fs::accessat(
        CWD,
        &init.path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .stage(&format!("find init `{}`", init.path.display()))?;
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or(OsStr::new(""))
            .to_string_lossy()
            .into_owned()
    };
    let known = known_init(&name(&init.path), &name(&real));
    Ok(ChosenInit {
        idle: false,
        supervised: match init.mode {
            InitMode::Exec => false,
            InitMode::Supervise => true,
            InitMode::Auto => known.is_none(),
        },
        boot_by_service: match init.boot {
            BootReport::Exec => false,
            BootReport::Service => true,
            BootReport::Auto => known.is_some_and(|known| known.speaks_service),
        },
        stop_signal: init
            .stop_signal
            .or(known.map(|known| known.stop_signal))
            .unwrap_or(libc::SIGTERM),
    })
}

#[derive(Clone, Copy)]
struct KnownInit {
    speaks_service: bool,
    stop_signal: i32,
}

/// Programs that are made to be process 1, by the name they are called by and the name they really have.
fn known_init(called: &str, real: &str) -> Option<KnownInit> {
    let known = |speaks_service, stop_signal| {
        Some(KnownInit {
            speaks_service,
            stop_signal,
        })
    };
    if called == "cservice" || called.starts_with("cml-service") || real.starts_with("cml-service")
    {
        return known(true, libc::SIGTERM);
    }
    match (called, real) {
        // systemd(1): SIGRTMIN+4 starts poweroff.target.
        (_, "systemd") => known(false, libc::SIGRTMIN() + 4),
        // busybox init: SIGUSR2 means power off.
        ("init" | "linuxrc", "busybox") => known(false, libc::SIGUSR2),
        // runit-init: SIGCONT; openrc-init and s6 take SIGTERM; sysvinit takes SIGPWR.
        (_, "runit-init" | "runit") => known(false, libc::SIGCONT),
        (_, "openrc-init" | "s6-svscan" | "s6-linux-init" | "dinit" | "tini" | "dumb-init") => {
            known(false, libc::SIGTERM)
        }
        ("init", "init") => known(false, libc::SIGPWR),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_inits_become_process_one_and_programs_are_supervised() {
        assert!(known_init("init", "systemd").is_some());
        assert!(
            known_init("init", "busybox").is_some_and(|init| init.stop_signal == libc::SIGUSR2)
        );
        assert!(known_init("cservice", "cservice").is_some_and(|init| init.speaks_service));
        assert!(known_init("sh", "busybox").is_none());
        assert!(known_init("nginx", "nginx").is_none());
    }
}
