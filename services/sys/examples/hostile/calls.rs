//! Calls that a filter refuses, and the other doors to the same kernel.

use std::os::fd::AsRawFd;

use libc::c_long;

use crate::{Report, call};

/// Every call of the list, and some of the neighbours that must go on working.
pub fn calls() -> Report {
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

/// Loads each of these files as a module, with a parameter, and one that is not open.
pub fn modules(files: &[&str]) -> Report {
    let load = |descriptor: i32| {
        let parameters = c"evil=1".as_ptr() as u64;
        call(
            libc::SYS_finit_module,
            &[descriptor.cast_unsigned().into(), parameters, 0],
        )
    };
    let opened = files.iter().map(|file| {
        let open = std::fs::File::open(file).unwrap();
        ((*file).to_owned(), load(open.as_raw_fd()))
    });
    opened.chain([("nothing".to_owned(), load(77))]).collect()
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
