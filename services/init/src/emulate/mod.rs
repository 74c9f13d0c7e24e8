//! Does system calls for a container that its guest may ask for and has no right to do itself (runtime.md 2.6,
//! docs/adr/0041-system-calls.md).
//!
//! The guest is hostile: it may change what its pointers lead to, end, or lead paths in circles while its call is
//! looked at. So everything is copied once and checked on the copy; each call is done by a child with a limit of time,
//! as also memory can be a file of the guest's that never answers, and whatever touches its files is done by a child
//! that has become the guest by then; and nothing is ever told to go on in the
//! kernel (SEC-12).

mod caller;
mod clock;
mod home;
mod module;
mod node;
mod sysinfo;

use std::os::fd::{AsRawFd, OwnedFd};

use cml_sys::{
    channel::Channel,
    device::Rules,
    emulator::{EmulatorPlan, PORT_FD},
    pidfd,
    plan::{FromInit, ToInit},
    seccomp::notify::{Call, Listener},
    uevent::Crier,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{Failure, Stage, isolate};
use caller::{Caller, Namespace};

/// What a call comes to: its result, or an error number.
type Outcome = Result<i64, i32>;

/// Calls at the same time.
const CHILDREN_MAX: usize = 8;
/// How long one may take, in seconds: loading a module that waits for its hardware takes a few.
const LIMIT: u32 = 20;

/// What this process keeps to do its work: CHOWN and MKNOD for new nodes, SYS_ADMIN to mount them and to enter the
/// container, DAC_OVERRIDE and SYS_PTRACE to read what callers hand over, KILL to end children that have become
/// the guest.
const KEPT: &[u32] = &[0, 1, 5, 19, 21, 27];
const SYS_MODULE: u32 = 16;
const SYS_TIME: u32 = 25;

/// The work of one container.
struct Emulation {
    plan: EmulatorPlan,
    /// Who tells it of devices.
    crier: Option<Crier>,
    home: Namespace,
    listeners: Vec<Listener>,
    children: Vec<Child>,
}

/// A child at work, and for whom.
struct Child {
    process: OwnedFd,
    call: Call,
    listener: usize,
}

/// Works until the last process of the container has gone.
pub(crate) fn run(channel: &Channel, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let Ok([plan]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err("a plan must come along").stage("emulate");
    };
    // The terminal that the daemon was started from ends the daemon, not us.
    rustix::process::setsid().stage("leave the session")?;
    let plan: EmulatorPlan = cml_sys::plan::unseal(plan).stage("read the plan")?;
    home::settle().stage("leave the daemon's mounts")?;
    let kept = |number: &u32| {
        KEPT.contains(number)
            || (*number == SYS_TIME && plan.set_time)
            || (*number == SYS_MODULE && !plan.modules.is_empty())
    };
    let dropped: Vec<u32> = (0..64).filter(|number| !kept(number)).collect();
    isolate::drop_privileges(&dropped).stage("drop capabilities")?;
    // Until here it ends with the daemon, or when the container does not come about.
    let fds = match channel.receive(None).stage("wait for the container")? {
        (ToInit::Attend, fds) => fds,
        _ => return Err("another order instead").stage("wait for the container"),
    };
    let Ok([listener, user_namespace, network, port]) = <[OwnedFd; 4]>::try_from(fds) else {
        return Err("four descriptors must come along").stage("emulate");
    };
    park(port)?;
    let crier = plan.news.then(|| home::crier_in(&network)).transpose();
    let crier = crier.stage("enter the container's network")?;
    drop(network);
    let mut emulation = Emulation {
        home: Namespace::of(&user_namespace).stage("identify the container")?,
        plan,
        crier,
        listeners: vec![listener.into()],
        children: Vec::new(),
    };
    drop(user_namespace);
    channel.send(&FromInit::Serving, &[]).stage("report")?;
    while !emulation.listeners.is_empty() {
        emulation.round(channel).stage("wait for system calls")?;
    }
    Ok(())
}

/// Keeps the daemon's end where the next daemon finds it. With it our own end never closes.
fn park(port: OwnedFd) -> Result<(), Failure> {
    // SAFETY: duplicates a descriptor that is open, to the first free number from this one on.
    let parked = unsafe { libc::fcntl(port.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PORT_FD) };
    match parked == PORT_FD {
        true => Ok(()),
        false => Err(format!("descriptor {PORT_FD} is taken")).stage("keep the channel"),
    }
}

/// Has the kernel end this child with its parent: its copy of the listener would keep callers waiting for somebody
/// who has gone. To be said again by a child that has changed what it is, as the kernel forgets it then.
fn die_with_parent(parent: Pid) {
    // SAFETY: a prctl with plain numbers; it cannot fail for a valid signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    if rustix::process::getppid() != Some(parent) {
        std::process::exit(1);
    }
}

impl Emulation {
    /// Waits for something to happen and deals with it.
    fn round(&mut self, channel: &Channel) -> rustix::io::Result<()> {
        let busy = self.children.len() >= CHILDREN_MAX;
        let wanted = match busy {
            true => PollFlags::empty(),
            false => PollFlags::IN,
        };
        let mut fds = vec![PollFd::new(channel, PollFlags::IN)];
        fds.extend(
            self.children
                .iter()
                .map(|child| PollFd::new(&child.process, PollFlags::IN)),
        );
        fds.extend(self.listeners.iter().map(|one| PollFd::new(one, wanted)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let seen: Vec<_> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        // First: what was forbidden before a call was made is forbidden to it.
        if !seen[0].is_empty()
            && let Ok((order, fds)) = channel.receive(None)
        {
            self.obey(&order, fds);
            return Ok(());
        }
        let (of_children, of_listeners) = seen[1..].split_at(self.children.len());
        for (place, events) in of_listeners.iter().enumerate() {
            if events.contains(PollFlags::IN) {
                self.take(place);
            }
        }
        // Backwards, so that the places of those that are left stay what they are.
        for (place, _) in of_children
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, events)| !events.is_empty())
        {
            self.collect(place);
        }
        for (place, events) in of_listeners.iter().enumerate().rev() {
            let over = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
            if over && !events.contains(PollFlags::IN) {
                self.forget(place);
            }
        }
        Ok(())
    }

    /// What the daemon has to say while the container runs.
    fn obey(&mut self, order: &ToInit, mut fds: Vec<OwnedFd>) {
        match order {
            ToInit::Serve => self.listeners.extend(fds.into_iter().map(Listener::from)),
            ToInit::Allow => {
                let rules = fds.pop().map(cml_sys::plan::unseal::<Rules>);
                // The daemon sealed them; if they cannot be read after all, nothing is what is certainly allowed.
                self.plan.devices = rules.and_then(Result::ok).unwrap_or_default();
            }
            // What nobody hears harms nobody.
            ToInit::Cry { text } => drop(self.crier.as_ref().map(|crier| crier.cry(text))),
            _ => {}
        }
    }

    /// Everybody who could call there is gone.
    fn forget(&mut self, place: usize) {
        // A child that still works for one of them has nobody to answer to; it is collected first.
        let mut idle = true;
        for child in self.children.iter().filter(|child| child.listener == place) {
            idle = false;
            let _ = pidfd::signal(&child.process, libc::SIGKILL);
        }
        if !idle {
            return;
        }
        self.listeners.remove(place);
        for child in &mut self.children {
            if child.listener > place {
                child.listener -= 1;
            }
        }
    }

    /// Takes one call, and has a child answer it.
    fn take(&mut self, place: usize) {
        let listener = &self.listeners[place];
        let Ok(Some(call)) = listener.receive() else {
            return;
        };
        let caller = match Caller::of(listener, &call) {
            Ok(caller) => caller,
            Err(errno) => return listener.answer(&call, Err(errno)),
        };
        let emulate: fn(&Self, &Caller<'_>, &Call) -> Outcome = match call.number {
            libc::SYS_sysinfo => sysinfo::emulate,
            libc::SYS_clock_settime
            | libc::SYS_settimeofday
            | libc::SYS_clock_adjtime
            | libc::SYS_adjtimex => clock::emulate,
            libc::SYS_finit_module => module::emulate,
            _ => node::emulate,
        };
        let parent = rustix::process::getpid();
        // SAFETY: this process has one thread, so the child may do anything.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: takes a number; the signal's default is to end the process.
            unsafe { libc::alarm(LIMIT) };
            die_with_parent(parent);
            listener.answer(&call, emulate(self, &caller, &call));
            std::process::exit(0);
        }
        let process = Pid::from_raw(child).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match process {
            Some(Ok(process)) => self.children.push(Child {
                process,
                call,
                listener: place,
            }),
            _ => listener.answer(&call, Err(libc::EAGAIN)),
        }
    }

    /// A child has ended. If it could not answer, its caller is told that the time was up.
    fn collect(&mut self, place: usize) {
        let child = self.children.remove(place);
        if pidfd::reap(&child.process).ok() != Some(pidfd::Ended::Exited(0)) {
            self.listeners[child.listener].answer(&child.call, Err(libc::ETIMEDOUT));
        }
    }

    /// Whether the caller has a capability where it counts: over the container, not over something nested in it.
    fn has(&self, caller: &Caller<'_>, capability: u32) -> Result<(), i32> {
        match caller.namespace("user")? == self.home && caller.status()?.has(capability) {
            true => Ok(()),
            false => Err(libc::EPERM),
        }
    }
}
