//! A guest that tries system calls by their numbers, with whatever arguments: for the tests of
//! `integration/tests/security`, which run it inside containers. It lives here because it needs unsafe code.
//!
//! Prints one JSON document: for every attempt its result, or the number of its error as a negative one.
#![allow(clippy::unwrap_used, missing_docs)] // a test program: a panic is a failed test

use std::{
    collections::BTreeMap,
    ffi::CString,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use libc::c_long;

fn call(number: c_long, args: &[u64]) -> i64 {
    let at = |place: usize| args.get(place).copied().unwrap_or(0);
    // SAFETY: the attempts below hand over null pointers, or live buffers of sufficient size.
    let done = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    match done {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()),
        done => done,
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let report = match words.as_slice() {
        ["calls"] => calls(),
        ["nodes", dir] => nodes(dir),
        ["clocks"] => clocks(),
        ["sysinfo"] => sysinfo(),
        ["race", "clock"] => race_clock(),
        ["race", "node", dir] => race_node(dir),
        ["hang", dir] => hang(dir),
        _ => panic!(
            "usage: hostile calls | nodes DIR | clocks | sysinfo | race clock | race node DIR | hang DIR"
        ),
    };
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}

type Report = BTreeMap<String, i64>;

/// Every call of the list, and some of the neighbours that must go on working.
fn calls() -> Report {
    let mut buffer = [0_u8; 4096];
    let room = buffer.as_mut_ptr() as u64;
    let socket = |family: i32, high: u64| {
        call(
            libc::SYS_socket,
            &[
                family.cast_unsigned() as u64 | high << 32,
                libc::SOCK_DGRAM as u64,
            ],
        )
    };
    let mut report: Report = [
        ("kexec_load", libc::SYS_kexec_load, vec![]),
        (
            "kexec_file_load",
            libc::SYS_kexec_file_load,
            vec![u64::MAX, u64::MAX],
        ),
        ("init_module", libc::SYS_init_module, vec![room, 0, room]),
        ("finit_module", libc::SYS_finit_module, vec![0, room]),
        ("delete_module", libc::SYS_delete_module, vec![room]),
        ("bpf", libc::SYS_bpf, vec![0, room, 72]),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            vec![room, 0, u64::MAX, u64::MAX],
        ),
        ("swapon", libc::SYS_swapon, vec![room]),
        ("swapoff", libc::SYS_swapoff, vec![room]),
        ("acct", libc::SYS_acct, vec![]),
        ("quotactl", libc::SYS_quotactl, vec![]),
        ("quotactl_fd", 443, vec![]),
        ("syslog", libc::SYS_syslog, vec![3, room, 4096]),
        ("keyctl", libc::SYS_keyctl, vec![0, -3_i64 as u64]),
        ("add_key", libc::SYS_add_key, vec![room, room, room]),
        ("request_key", libc::SYS_request_key, vec![room, room]),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![1, room]),
        ("io_uring_enter", libc::SYS_io_uring_enter, vec![0]),
        ("io_uring_register", libc::SYS_io_uring_register, vec![0]),
        ("userfaultfd", libc::SYS_userfaultfd, vec![]),
        ("the next call", 470, vec![]),
        ("a far call", 100_000, vec![]),
        ("getpid", libc::SYS_getpid, vec![]),
        ("getppid", libc::SYS_getppid, vec![]),
        ("adjtimex", libc::SYS_adjtimex, vec![room]),
    ]
    .into_iter()
    .map(|(name, number, args)| (name.to_owned(), call(number, &args)))
    .collect();
    for (name, family) in [
        ("unix", libc::AF_UNIX),
        ("inet", libc::AF_INET),
        ("netlink", libc::AF_NETLINK),
        ("alg", libc::AF_ALG),
        ("vsock", libc::AF_VSOCK),
    ] {
        report.insert(format!("socket {name}"), socket(family, 0));
        // The kernel takes an `int`: what is above must be no way around.
        report.insert(
            format!("socket {name}, disguised"),
            socket(family, 0xdead_beef),
        );
    }
    report.extend(foreign());
    report
}

/// The same kernel by its other doors: getpid(2) and a call of the list by the numbers of i386 and of x32.
#[cfg(target_arch = "x86_64")]
fn foreign() -> Report {
    let i386 = |number: i64| {
        let done: i64;
        // SAFETY: a software interrupt that reads and writes registers only, with arguments of zero.
        unsafe {
            std::arch::asm!(
                "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
                inlateout("rax") number => done,
                in("rcx") 0, in("rdx") 0, in("rsi") 0, in("rdi") 0,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        i64::from(done as i32)
    };
    let x32 = |number: c_long| call(0x4000_0000 | number, &[]);
    [
        ("i386 getpid", i386(20)),
        ("i386 init_module", i386(128)),
        ("i386 mknod", i386(14)),
        ("x32 getpid", x32(libc::SYS_getpid)),
        ("x32 keyctl", x32(libc::SYS_keyctl)),
    ]
    .map(|(name, done)| (name.to_owned(), done))
    .into()
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign() -> Report {
    Report::new()
}

fn mknod(path: &str, mode: u32, major: u32, minor: u32) -> i64 {
    let path = CString::new(path).unwrap();
    let device = libc::makedev(major, minor);
    let args = [
        libc::AT_FDCWD as u64,
        path.as_ptr() as u64,
        mode.into(),
        device,
    ];
    call(libc::SYS_mknodat, &args)
}

/// Files of every kind in a directory, and whether the device that should work does.
fn nodes(dir: &str) -> Report {
    let attempts = [
        ("socket", libc::S_IFSOCK, 0, 0),
        ("pipe", libc::S_IFIFO, 0, 0),
        ("file", libc::S_IFREG, 0, 0),
        ("whiteout", libc::S_IFCHR, 0, 0),
        ("null", libc::S_IFCHR, 1, 3),
        ("zero", libc::S_IFCHR, 1, 5),
        ("memory", libc::S_IFCHR, 1, 1),
        ("log", libc::S_IFCHR, 1, 11),
        ("console", libc::S_IFCHR, 5, 1),
        ("block null", libc::S_IFBLK, 1, 3),
        ("loop", libc::S_IFBLK, 7, 0),
    ];
    let mut report: Report = attempts
        .into_iter()
        .map(|(name, kind, major, minor)| {
            let done = mknod(&format!("{dir}/{name}"), kind | 0o640, major, minor);
            (name.to_owned(), done)
        })
        .collect();
    let zero = std::fs::File::open(format!("{dir}/zero"));
    let read = zero.and_then(|mut zero| std::io::Read::read(&mut zero, &mut [1; 8]));
    report.insert(
        "bytes of zero".into(),
        read.map_or(-1, |count| count as i64),
    );
    report.insert(
        "null again".into(),
        mknod(&format!("{dir}/null"), libc::S_IFCHR, 1, 3),
    );
    report.insert(
        "nowhere".into(),
        mknod("/nowhere/null", libc::S_IFCHR, 1, 3),
    );
    report.insert(
        "no pointer".into(),
        call(
            libc::SYS_mknodat,
            &[
                libc::AT_FDCWD as u64,
                1,
                libc::S_IFCHR.into(),
                libc::makedev(1, 3),
            ],
        ),
    );
    // Relative to a descriptor, and by the older call.
    let open = std::fs::File::open(dir).unwrap();
    let args = |path: &CString| {
        let from = std::os::fd::AsRawFd::as_raw_fd(&open) as u64;
        [
            from,
            path.as_ptr() as u64,
            (libc::S_IFCHR | 0o600).into(),
            libc::makedev(1, 3),
        ]
    };
    let relative = CString::new("relative").unwrap();
    report.insert("relative".into(), call(libc::SYS_mknodat, &args(&relative)));
    let absent = CString::new("x").unwrap();
    report.insert(
        "bad descriptor".into(),
        call(
            libc::SYS_mknodat,
            &[
                77,
                absent.as_ptr() as u64,
                libc::S_IFCHR.into(),
                libc::makedev(1, 3),
            ],
        ),
    );
    report
}

/// Sets the clock to what it is now plus a little, looks whether it is, and sets it back.
fn clocks() -> Report {
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
    const STEP: i128 = 50_000_000;
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

fn sysinfo() -> Report {
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

/// How long a thread changes what pointers lead to.
const RACE: Duration = Duration::from_secs(2);

/// Changes the mode of adjtimex(2) between reading and writing while the call is looked at (SEC-12). Without the
/// right to write, no call may both be let through and write.
fn race_clock() -> Report {
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
fn race_node(dir: &str) -> Report {
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
fn hang(dir: &str) -> Report {
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
