//! Changes under the eyes of whoever looks at them (SEC-12, LIF-17).

use std::{
    ffi::CString,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{Report, call, machine::sysinfo, nodes::mknod};

/// How long a thread changes what pointers lead to.
const RACE: Duration = Duration::from_secs(2);

/// Changes the mode of adjtimex(2) between reading and writing while the call is looked at (SEC-12). Without the
/// right to write, no call may both be let through and write.
pub fn race_clock() -> Report {
    // SAFETY: all-zero is valid for numbers.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    call(libc::SYS_adjtimex, &[&raw mut state as u64]);
    let before = state.tick;
    state.tick += 1;
    state.modes = 0;
    static STOP: AtomicBool = AtomicBool::new(false);
    // SAFETY: the mode is the first field and aligned; the structure outlives the thread, which is joined.
    let modes = unsafe { AtomicU32::from_ptr(&raw mut state.modes) };
    let mut allowed = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !STOP.load(Ordering::Relaxed) {
                modes.store(libc::ADJ_TICK, Ordering::Relaxed);
                modes.store(0, Ordering::Relaxed);
            }
        });
        let end = Instant::now() + RACE;
        while Instant::now() < end {
            allowed += i64::from(call(libc::SYS_adjtimex, &[modes.as_ptr() as u64]) >= 0);
        }
        STOP.store(true, Ordering::Relaxed);
    });
    // SAFETY: as above.
    let mut after: libc::timex = unsafe { std::mem::zeroed() };
    call(libc::SYS_adjtimex, &[&raw mut after as u64]);
    [("allowed", allowed), ("changed by", after.tick - before)]
        .map(|(name, done)| (name.to_owned(), done))
        .into()
}

/// Changes the path of mknod(2) between two places while the call is looked at, and reports how often it
/// succeeded.
pub fn race_node(dir: &str) -> Report {
    let good = format!("{dir}/good\0").into_bytes();
    let evil = b"/proc/sys/kernel/core_pattern\0".to_vec();
    let mut path = vec![0_u8; 256];
    path[..good.len()].copy_from_slice(&good);
    let address = path.as_mut_ptr() as usize;
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut made = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !STOP.load(Ordering::Relaxed) {
                for text in [&evil, &good] {
                    for (place, byte) in text.iter().enumerate() {
                        // SAFETY: the buffer is longer than either text and outlives the thread.
                        unsafe { ((address + place) as *mut u8).write_volatile(*byte) };
                    }
                }
            }
        });
        let end = Instant::now() + RACE;
        while Instant::now() < end {
            let args = [
                libc::AT_FDCWD as u64,
                address as u64,
                (libc::S_IFCHR | 0o666).into(),
                libc::makedev(1, 3),
            ];
            made += i64::from(call(libc::SYS_mknodat, &args) == 0);
            let place = CString::new(format!("{dir}/good")).unwrap();
            // SAFETY: a text that ends.
            unsafe {
                libc::umount2(place.as_ptr(), libc::MNT_DETACH);
                libc::unlink(place.as_ptr());
            }
        }
        STOP.store(true, Ordering::Relaxed);
    });
    [("made".to_owned(), made)].into()
}

/// Makes nodes from many threads and processes that are killed meanwhile (LIF-17).
pub fn hang(dir: &str) -> Report {
    let mut killed = 0;
    for round in 0..100_u64 {
        // SAFETY: the child only makes system calls and ends; there is one thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let path = format!("{dir}/{round}");
            loop {
                mknod(&path, libc::S_IFCHR, 1, 3);
                sysinfo();
            }
        }
        thread::sleep(Duration::from_micros(round * 20));
        // SAFETY: our own child.
        unsafe {
            killed += i64::from(libc::kill(child, libc::SIGKILL) == 0);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    let mut report = sysinfo();
    report.insert("killed".into(), killed);
    report
}
