//! Setting the clock of the machine, for containers with `allow_system_time`.

use cml_sys::seccomp::notify::Call;

use super::{
    Emulation, Outcome, SYS_TIME,
    caller::{Caller, last_error},
};

pub(crate) fn emulate(emulation: &Emulation, caller: &Caller<'_>, call: &Call) -> Outcome {
    // For reading, adjtimex(2) needs no right; then the kernel does not look at the mode either.
    let reads = match call.number {
        libc::SYS_adjtimex => call.args[0],
        libc::SYS_clock_adjtime => call.args[1],
        _ => return set(emulation, caller, call),
    };
    // SAFETY: all-zero is valid for numbers.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    caller.read(reads, bytes_of(&mut state))?;
    if state.modes != 0 {
        may(emulation, caller)?;
    }
    if call.number == libc::SYS_clock_adjtime && clock(call) != libc::CLOCK_REALTIME {
        return Err(libc::EPERM);
    }
    // SAFETY: a live structure, which is a copy that nobody else changes.
    let said = unsafe { libc::adjtimex(&raw mut state) };
    if said < 0 {
        return Err(last_error());
    }
    caller.write(reads, bytes_of(&mut state))?;
    Ok(said.into())
}

fn set(emulation: &Emulation, caller: &Caller<'_>, call: &Call) -> Outcome {
    may(emulation, caller)?;
    let mut pair = [0_i64; 2];
    let (from, to_nanoseconds) = match call.number {
        libc::SYS_clock_settime => (call.args[1], 1),
        _ => (call.args[0], 1000),
    };
    // The kernel's time zone is that of the machine.
    if call.number == libc::SYS_settimeofday && from == 0 {
        return Err(libc::EPERM);
    }
    if call.number == libc::SYS_clock_settime && clock(call) != libc::CLOCK_REALTIME {
        return Err(libc::EINVAL);
    }
    caller.read(from, bytes_of(&mut pair))?;
    let time = libc::timespec {
        tv_sec: pair[0],
        tv_nsec: pair[1].checked_mul(to_nanoseconds).ok_or(libc::EINVAL)?,
    };
    // SAFETY: a live structure; the kernel checks its values.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } {
        0 => Ok(0),
        _ => Err(last_error()),
    }
}

/// The kernel takes an `int`.
fn clock(call: &Call) -> libc::clockid_t {
    call.args[0] as libc::clockid_t
}

fn may(emulation: &Emulation, caller: &Caller<'_>) -> Result<(), i32> {
    match emulation.plan.set_time {
        true => emulation.has(caller, SYS_TIME),
        false => Err(libc::EPERM),
    }
}

fn bytes_of<T: Copy>(value: &mut T) -> &mut [u8] {
    // SAFETY: called with structures of numbers only, in which every byte may have every value.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}
