//! The end of a guest: how it is asked for, and how it is noticed.

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cml_bus::blocking::Pool;
use cml_sys::{
    emulator::Emulator,
    pidfd::{self, Ended},
    plan::ChosenInit,
    proc,
    ready::watch_readable,
    signal,
};
use cml_wire::proto::ContainerEnd;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

/// How long a guest may take to shut down before it is killed (runtime.md 0.5).
pub const STOP_LIMIT: Duration = Duration::from_secs(45);
/// How long a guest that was told on its service socket may do nothing before init gets the signal too:
/// the existing client reads the message and ignores it (runtime.md 9, number 4).
const MESSAGE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between looks whether init listens to its signal yet; it may have been started a moment ago.
const SIGNAL_PAUSE: Duration = Duration::from_millis(20);
/// Who collects a process that is not our child does so at once; a second is for a machine that swaps.
const COLLECTED: Duration = Duration::from_secs(1);
/// A pause that bounds how late the end of a guest is noticed when the event loop cannot tell.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Sends init the signal that asks it to shut down, as soon as it listens.
pub async fn ask(init: ChosenInit, pid: i32, process: Arc<OwnedFd>, told: bool) {
    if told {
        sleep(MESSAGE_PATIENCE).await;
    }
    // `cml-init` as process 1 blocks its signals before anybody can know of it, and SIGKILL asks nobody.
    let patient = !init.supervised && init.stop_signal != Signal::KILL.as_raw();
    let end = Instant::now() + STOP_LIMIT;
    while patient && !signal::is_awaited(pid, init.stop_signal) && Instant::now() < end {
        sleep(SIGNAL_PAUSE).await;
    }
    // Fails when the guest has gone meanwhile.
    let _ = pidfd::signal(&*process, init.stop_signal);
}

/// Waits until the process that does a guest's system calls has ended, and tells why, unless it was because the
/// guest has ended.
pub async fn lost(emulator: Arc<Emulator>, init: Arc<OwnedFd>) -> Option<String> {
    // Without a descriptor for the event loop nobody learns of it; the guest is none the worse for that.
    let ready = watch_readable(emulator.process()).ok()?;
    let _ = ready.readable().await;
    drop(ready);
    let init = watch_readable(&*init).ok()?;
    // The kernel lets go of the calls of a process that ends before it tells of its end.
    match timeout(COLLECTED, init.readable()).await {
        Ok(_) => None,
        Err(_) => {
            emulator.end();
            let reason = emulator.last_words();
            Some(reason.unwrap_or_else(|| "it was killed".to_owned()))
        }
    }
}

/// Waits until the process with this number and start time has ended, and tells how.
pub async fn wait(process: Arc<OwnedFd>, pid: i32, start_time: u64, pool: Pool) -> Ended {
    loop {
        if let Ok(ready) = watch_readable(&*process) {
            let _ = ready.readable().await;
            break;
        }
        // No descriptor is free for the event loop. The guest must not count as ended for that.
        let waiting = process.clone();
        let ended = pool.run(move || pidfd::wait(&*waiting, LOOK_AGAIN)).await;
        if let Ok(Ok(ended)) = ended {
            return ended;
        }
        sleep(LOOK_AGAIN).await;
    }
    let end = Instant::now() + COLLECTED;
    loop {
        match pidfd::reap(&*process) {
            // Somebody else collects it: procfs tells before that, the descriptor afterwards.
            Ok(Ended::Unknown) => match proc::ended(pid, start_time) {
                Some(ended) => return ended,
                None if Instant::now() < end => sleep(SIGNAL_PAUSE).await,
                None => return Ended::Unknown,
            },
            ended => return ended.unwrap_or(Ended::Unknown),
        }
    }
}

/// Whether the guest asked for a reboot: reboot(2) inside a PID namespace ends its init by this signal
/// (pid_namespaces(7)).
pub fn is_reboot(ended: Ended) -> bool {
    ended == Ended::Signalled(Signal::HUP.as_raw())
}

/// Whether the guest ended for another reason than that it was done or was switched off inside: reboot(2) ends
/// init by SIGINT then.
pub fn is_failure(ended: Ended) -> bool {
    !matches!(ended, Ended::Exited(0)) && ended != Ended::Signalled(Signal::INT.as_raw())
}

/// The end of a guest for the operator: when, why, and with which status. So many processes of it were ended because memory
/// ran out, but perhaps long ago, and its init lived on.
pub fn told(ended: Ended, asked: bool, oom_kills: u64) -> ContainerEnd {
    let (reason, status) = match ended {
        Ended::Exited(status) if asked => {
            (format!("stopped, init returned {status}"), Some(status))
        }
        Ended::Exited(status) => (format!("init returned {status}"), Some(status)),
        _ if is_reboot(ended) => ("rebooted from inside".into(), None),
        Ended::Signalled(signal) if signal == Signal::INT.as_raw() => {
            ("switched off from inside".into(), None)
        }
        Ended::Signalled(signal) if asked && signal == Signal::KILL.as_raw() => {
            ("killed".into(), Some(128 + signal))
        }
        Ended::Signalled(signal) => (format!("signal {signal} ended init"), Some(128 + signal)),
        Ended::Unknown if asked => ("stopped".into(), None),
        Ended::Unknown => ("init ended, nobody knows how".to_owned(), None),
    };
    // Nobody in it can send its init SIGKILL, and of ours there was none.
    let out_of_memory = oom_kills > 0 && !asked && ended == Ended::Signalled(Signal::KILL.as_raw());
    ContainerEnd {
        reason: match oom_kills {
            _ if out_of_memory => format!("memory ran out: {reason}"),
            0 => reason,
            1 => format!("{reason}; 1 process had been ended for want of memory"),
            many => format!("{reason}; {many} processes had been ended for want of memory"),
        },
        status,
        out_of_memory: out_of_memory.then_some(true),
        ..came_to_nothing(String::new())
    }
}

/// A start that did not become a guest.
pub fn came_to_nothing(reason: String) -> ContainerEnd {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    ContainerEnd {
        time: now.map_or(0, |now| now.as_secs().cast_signed()),
        reason,
        status: None,
        out_of_memory: None,
    }
}

/// A guest that reboots again and again, and the pauses it gets.
#[derive(Debug, Default)]
pub struct RebootBrake {
    short_lives: u32,
}

/// A guest that lived this long has really been running, in seconds.
const REAL_LIFE: u64 = 10;

impl RebootBrake {
    /// How long to wait before the next launch of a guest that lived for so many seconds: nothing the first
    /// time, then growing from 0.2 s to 25 s (LIF-13).
    pub fn pause(&mut self, lived: u64) -> Duration {
        if lived >= REAL_LIFE {
            self.short_lives = 0;
            return Duration::ZERO;
        }
        let pause = match self.short_lives {
            0 => Duration::ZERO,
            lives => Duration::from_millis(100 << lives.min(8)),
        };
        self.short_lives = self.short_lives.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_what_an_operator_wants_to_know() {
        let kill = Ended::Signalled(Signal::KILL.as_raw());
        for (ended, asked, oom_kills, reason, status) in [
            (
                Ended::Exited(0),
                true,
                0,
                "stopped, init returned 0",
                Some(0),
            ),
            (Ended::Exited(3), false, 0, "init returned 3", Some(3)),
            (kill, true, 0, "killed", Some(137)),
            (kill, false, 0, "signal 9 ended init", Some(137)),
            (
                Ended::Signalled(2),
                false,
                0,
                "switched off from inside",
                None,
            ),
            (Ended::Signalled(1), true, 0, "rebooted from inside", None),
        ] {
            let end = told(ended, asked, oom_kills);
            assert_eq!((&*end.reason, end.status), (reason, status));
            assert!(!end.out_of_memory());
            assert!(end.time > 0);
        }
    }

    #[test]
    fn memory_ran_out_only_if_that_ended_init() {
        let kill = Ended::Signalled(Signal::KILL.as_raw());
        let starved = told(kill, false, 2);
        assert_eq!(starved.reason, "memory ran out: signal 9 ended init");
        assert!(starved.out_of_memory());
        for (ended, asked, oom_kills, reason) in [
            (
                Ended::Exited(1),
                false,
                1,
                "init returned 1; 1 process had been ended for want of memory",
            ),
            (
                kill,
                true,
                2,
                "killed; 2 processes had been ended for want of memory",
            ),
            (
                Ended::Unknown,
                false,
                2,
                "init ended, nobody knows how; 2 processes had been ended for want of memory",
            ),
        ] {
            let end = told(ended, asked, oom_kills);
            assert_eq!(end.reason, reason);
            assert!(!end.out_of_memory());
        }
    }

    #[test]
    fn a_reboot_loop_is_slowed_down_and_a_real_life_forgives() {
        let mut brake = RebootBrake::default();
        assert_eq!(brake.pause(0), Duration::ZERO);
        assert_eq!(brake.pause(0), Duration::from_millis(200));
        assert_eq!(brake.pause(9), Duration::from_millis(400));
        for _ in 0..1000 {
            assert!(brake.pause(1) <= Duration::from_secs(26));
        }
        assert_eq!(brake.pause(REAL_LIFE), Duration::ZERO);
        assert_eq!(brake.pause(0), Duration::ZERO);
    }
}
