//! What is the machine's: its clock, its figures.

use crate::{Report, call};

/// Sets the clock to what it is now plus a little, looks whether it is, and sets it back.
pub fn clocks() -> Report {
    let now = |clock| {
        // SAFETY: the structure is live for the call.
        unsafe {
            let mut time: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(clock, &raw mut time);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        }
    };
    let difference = || now(libc::CLOCK_REALTIME) - now(libc::CLOCK_MONOTONIC);
    let set = |nanoseconds: i128, timeval: bool| {
        let rest = nanoseconds % 1_000_000_000 / if timeval { 1000 } else { 1 };
        let pair = [(nanoseconds / 1_000_000_000) as i64, rest as i64];
        match timeval {
            true => call(libc::SYS_settimeofday, &[pair.as_ptr() as u64, 0]),
            false => call(libc::SYS_clock_settime, &[0, pair.as_ptr() as u64]),
        }
    };
    // Longer than a call takes on a machine that is busy, as that is lost of it.
    const STEP: i128 = 1_000_000_000;
    let before = difference();
    let settime = set(now(libc::CLOCK_REALTIME) + STEP, false);
    let moved = difference() - before;
    let settimeofday = set(
        now(libc::CLOCK_REALTIME) - if settime == 0 { STEP } else { 0 },
        true,
    );
    // SAFETY: all-zero is valid for numbers.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    let read = call(libc::SYS_adjtimex, &[&raw mut state as u64]);
    let tick = state.tick;
    state.modes = libc::ADJ_TICK;
    let write = call(libc::SYS_clock_adjtime, &[0, &raw mut state as u64]);
    let monotonic = [0_i64; 2];
    [
        ("clock_settime", settime),
        ("moved by ms", (moved / 1_000_000) as i64),
        ("settimeofday", settimeofday),
        ("read", read.min(0)),
        ("tick", tick),
        ("write", write.min(0)),
        (
            "monotonic",
            call(libc::SYS_clock_settime, &[1, monotonic.as_ptr() as u64]),
        ),
        ("no pointer", call(libc::SYS_clock_settime, &[0, 1])),
        (
            "time zone",
            call(libc::SYS_settimeofday, &[0, monotonic.as_ptr() as u64]),
        ),
    ]
    .map(|(name, done)| (name.to_owned(), done))
    .into()
}

pub fn sysinfo() -> Report {
    // SAFETY: the structure is live for the call and plain numbers.
    let (done, info) = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        (call(libc::SYS_sysinfo, &[&raw mut info as u64]), info)
    };
    [
        ("sysinfo", done),
        ("uptime", info.uptime),
        ("processes", info.procs.into()),
        ("total", info.totalram as i64),
        ("free", info.freeram as i64),
        ("unit", info.mem_unit.into()),
        ("no pointer", call(libc::SYS_sysinfo, &[1])),
        (
            "read-only pointer",
            call(libc::SYS_sysinfo, &[c"text".as_ptr() as u64]),
        ),
    ]
    .map(|(name, done)| (name.to_owned(), done))
    .into()
}
