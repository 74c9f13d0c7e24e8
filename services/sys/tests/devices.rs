//! The device filter against the real kernel: opened nodes in a group of its own (as root).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use cml_sys::device::{Rules, bpf};

/// A group of the unified hierarchy that goes with the test.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(path))
        });
        let name = format!("{name}-{}", std::process::id());
        let path = root.expect("cgroup2 is mounted").join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn filter(&self, texts: &[&str]) {
        let rules: Rules = texts.iter().map(|text| text.parse().unwrap()).collect();
        bpf::attach(File::open(&self.0).unwrap(), &bpf::program(&rules)).unwrap();
    }

    /// What a shell in the group says.
    fn sh(&self, script: &str) -> bool {
        let procs = self.0.join("cgroup.procs");
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stderr(std::process::Stdio::null());
        // SAFETY: one write of a path that was made before.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
        command.status().unwrap().success()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes leave it a moment after they were waited for.
        while fs::remove_dir(&self.0).is_err() {
            thread::yield_now();
        }
    }
}

const SHELL: &str = "allow c 1:3 rwm";

#[test]
fn the_kernel_grants_and_denies_right_by_right() {
    let group = Group::new("cml-test-rights");
    group.filter(&[SHELL, "allow c 1:5 r", "allow c 1:9 rw", "deny c 1:9 w"]);
    assert!(group.sh("exec 3</dev/zero"));
    assert!(!group.sh("exec 3>/dev/zero"));
    assert!(!group.sh("exec 3<>/dev/zero"));
    assert!(group.sh("exec 3</dev/urandom"));
    assert!(!group.sh("exec 3>/dev/urandom"));
    assert!(!group.sh("exec 3</dev/full"));
    let node = std::env::temp_dir().join(format!("cml-node-{}", std::process::id()));
    let mknod = format!("mknod {} c 1 7", node.display());
    assert!(!group.sh(&mknod));
    group.filter(&[SHELL, "allow c 1:7 m"]);
    assert!(group.sh(&mknod));
    assert!(!group.sh(&format!("exec 3<{}", node.display())));
    fs::remove_file(node).unwrap();
}

#[test]
fn a_filter_is_replaced_without_a_moment_without_one() {
    let group = Group::new("cml-test-replace");
    let odd = [SHELL, "allow c 1:5 rw"];
    let even = [SHELL, "allow c 1:5 r", "allow c 1:9 r"];
    group.filter(&odd);
    let (done, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let hammer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Neither list has it: a moment without a filter would.
                assert!(!group.sh("exec 3</dev/full"));
                tries.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..100 {
            group.filter(if round % 2 == 0 { &even } else { &odd });
            assert_eq!(bpf::count(File::open(&group.0).unwrap()).unwrap(), 1);
        }
        while tries.load(Ordering::Relaxed) < 20 && !hammer.is_finished() {
            group.filter(&even);
            group.filter(&odd);
        }
        done.store(true, Ordering::Relaxed);
        hammer.join().unwrap();
    });
}
