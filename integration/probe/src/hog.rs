//! Takes all of something, and goes on trying.

use std::{
    fs::File,
    process::{Command, Stdio},
};

/// As many processes as there may be.
pub fn forks() -> ! {
    loop {
        let mut sleep = Command::new("/bin/sleep");
        // What fails is tried again at once: that is what makes it a hog.
        let _ = sleep.arg("1000000").stdin(Stdio::null()).spawn();
    }
}

/// Memory, until this process is ended for it.
pub fn memory() -> ! {
    let mut all = Vec::new();
    loop {
        // Written to, or nothing would be taken.
        all.push(vec![1_u8; 1 << 20]);
    }
}

/// As many open files as there may be, again and again.
pub fn files() -> ! {
    loop {
        let mut all = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            all.push(file);
        }
    }
}

/// As many control groups as there may be.
pub fn groups() -> ! {
    let mut number = 0_u64;
    loop {
        number += 1;
        let _ = std::fs::create_dir(format!("/sys/fs/cgroup/hog{number}"));
    }
}
