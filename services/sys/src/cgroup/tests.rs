#![allow(clippy::unwrap_used)]
use super::*;

impl Group {
    fn none() -> Self {
        Hierarchies::default().group("x")
    }
}

#[test]
fn hybrid_machines_use_the_unified_core_and_the_v1_freezer() {
    let found = Hierarchies::parse(
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
         cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0\n\
         cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        true,
    );
    assert_eq!(found.unified.unwrap(), Path::new("/sys/fs/cgroup/unified"));
    assert_eq!(found.freezer.unwrap(), Path::new("/sys/fs/cgroup/freezer"));
    assert_eq!(found.pids, None);
    assert!(found.v1.is_empty());
}

#[test]
fn devices_are_up_to_version_1_where_version_2_can_have_no_filters() {
    let mounts = "cgroup /sys/fs/cgroup/devices cgroup rw,relatime,devices 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    let by_v1 = |filters| {
        let found = Hierarchies::parse(mounts, filters);
        found.v1.contains_key(&Controller::Devices)
    };
    assert!(by_v1(false) && !by_v1(true));
}

#[test]
fn a_machine_without_groups_gets_a_clear_answer() {
    let error = Hierarchies::default().create("x").unwrap_err();
    assert!(error.to_string().contains("mount cgroup2"));
}

/// A directory that plays cgroupfs: these files with these contents.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const ALL_LIMITS: &[Limit] = &[
    Limit::Memory(6 << 30),
    Limit::Swap {
        memory: 6 << 30,
        swap: 1 << 30,
    },
    Limit::EndTogether,
    Limit::Pids(100),
    Limit::CpuWeight(50),
];

#[test]
fn version_2_takes_every_limit_in_its_own_words() {
    let dir = tree(&[
        ("cgroup.controllers", "cpuset cpu io memory pids"),
        ("memory.max", ""),
        ("memory.swap.max", ""),
        ("memory.oom.group", ""),
        ("pids.max", ""),
        ("cpu.weight", ""),
        ("cpuset.cpus", ""),
    ]);
    let group = Group {
        unified: Some(dir.path().to_owned()),
        ..Group::none()
    };
    for limit in ALL_LIMITS.iter().chain(&[Limit::Cpus("0-1".into())]) {
        assert!(group.limit(limit).unwrap(), "{limit:?}");
    }
    let file = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    // More than 4 GiB, where the existing system wraps (runtime.md 9, number 53).
    assert_eq!(file("memory.max"), "6442450944");
    assert_eq!(file("memory.swap.max"), "1073741824");
    assert_eq!(file("memory.oom.group"), "1");
    assert_eq!(file("pids.max"), "100");
    assert_eq!(file("cpu.weight"), "50");
    assert_eq!(file("cpuset.cpus"), "0-1");
}

#[test]
fn version_1_takes_the_same_limits_and_says_what_it_cannot() {
    let dir = tree(&[
        ("memory/memory.limit_in_bytes", ""),
        ("memory/memory.memsw.limit_in_bytes", ""),
        ("pids/pids.max", ""),
        ("cpu/cpu.shares", ""),
    ]);
    let at = |name: &str| dir.path().join(name);
    let group = Group {
        pids: Some(at("pids")),
        v1: BTreeMap::from([
            (Controller::Memory, at("memory")),
            (Controller::Cpu, at("cpu")),
        ]),
        ..Group::none()
    };
    let taken: Vec<_> = ALL_LIMITS
        .iter()
        .map(|limit| group.limit(limit).unwrap())
        .collect();
    assert_eq!(taken, [true, true, false, true, true]);
    assert!(!group.limit(&Limit::Cpus("0".into())).unwrap(), "no cpuset");
    let file = |name: &str| fs::read_to_string(at(name)).unwrap();
    assert_eq!(file("memory/memory.limit_in_bytes"), "6442450944");
    // The sum of both.
    assert_eq!(file("memory/memory.memsw.limit_in_bytes"), "7516192768");
    assert_eq!(file("cpu/cpu.shares"), "512");
}

#[test]
fn a_controller_that_the_group_was_not_handed_down_is_missing() {
    let dir = tree(&[("cgroup.controllers", "pids"), ("pids.max", "")]);
    let group = Group {
        unified: Some(dir.path().to_owned()),
        ..Group::none()
    };
    assert!(group.has(Controller::Pids));
    assert!(!group.has(Controller::Memory));
    assert!(!group.limit(&Limit::Memory(1)).unwrap());
}

#[test]
fn controllers_are_handed_down_once_from_the_root_to_the_common_parent() {
    let dir = tree(&[
        ("cgroup.controllers", "cpuset cpu memory pids hugetlb"),
        ("cgroup.subtree_control", "cpuset cpu memory pids"),
        ("cml/cgroup.controllers", "cpuset cpu memory pids"),
        ("cml/cgroup.subtree_control", "cpuset cpu memory"),
    ]);
    v2::enable(&[dir.path().to_owned(), dir.path().join("cml")]);
    let file = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(file("cgroup.subtree_control"), "cpuset cpu memory pids");
    // A plain file is overwritten from its beginning.
    assert!(file("cml/cgroup.subtree_control").starts_with("+pids"));
}

#[test]
fn usage_is_read_in_both_versions() {
    let v2 = tree(&[
        ("cgroup.controllers", "cpu io memory pids"),
        ("cpu.stat", "usage_usec 1234567\nuser_usec 1\n"),
        ("memory.current", "1000\n"),
        (
            "memory.stat",
            "anon 600\ninactive_file 300\nactive_file 100\n",
        ),
        ("memory.peak", "2000\n"),
        ("memory.max", "max\n"),
        ("memory.swap.current", "7\n"),
        ("memory.events", "oom 3\noom_kill 2\noom_group_kill 1\n"),
        ("pids.current", "5\n"),
        ("pids.max", "100\n"),
        (
            "io.stat",
            "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n",
        ),
    ]);
    let group = Group {
        unified: Some(v2.path().to_owned()),
        ..Group::none()
    };
    let expected = Usage {
        cpu: Some(1_234_567),
        memory: Some(700),
        memory_peak: Some(2000),
        memory_limit: None,
        swap: Some(7),
        oom_kills: Some(2),
        pids: Some(5),
        pids_limit: Some(100),
        read: Some(11),
        written: Some(22),
    };
    assert_eq!(group.usage(), expected);
    let v1 = tree(&[
        ("cpuacct.usage", "1234567999\n"),
        ("memory.usage_in_bytes", "1000\n"),
        (
            "memory.stat",
            "inactive_file 1\ntotal_inactive_file 300\ntotal_swap 7\n",
        ),
        ("memory.max_usage_in_bytes", "2000\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        (
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
        ("pids.current", "5\n"),
        ("pids.max", "100\n"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\n8:16 Write 2\nTotal 33\n",
        ),
    ]);
    let here = v1.path().to_owned();
    let group = Group {
        pids: Some(here.clone()),
        v1: [Controller::Memory, Controller::Cpuacct, Controller::Io]
            .map(|controller| (controller, here.clone()))
            .into(),
        ..Group::none()
    };
    assert_eq!(group.usage(), expected);
    assert_eq!(Group::none().usage(), Usage::default());
}

#[test]
fn hierarchies_that_are_mounted_together_are_one_group() {
    let found = Hierarchies::parse(
        "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
         cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
         cgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\n",
        true,
    );
    let group = found.group("x");
    assert_eq!(group.v1.len(), 3);
    assert_eq!(group.paths().count(), 3);
}

#[test]
fn a_record_of_an_earlier_daemon_is_still_understood() {
    let text = r#"{"unified":"/u","freezer":null,"pids":"/p"}"#;
    let group: Group = serde_json::from_str(text).unwrap();
    assert_eq!(group.pids.as_deref(), Some(Path::new("/p")));
    assert!(group.v1.is_empty());
}

#[test]
fn a_freeze_that_the_kernel_does_not_manage_ends_with_an_error_and_is_taken_back() {
    // A task in a system call that cannot be interrupted never becomes frozen (LIF-03).
    let dir = tree(&[
        ("cgroup.freeze", "0"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
    ]);
    let group = Group {
        unified: Some(dir.path().to_owned()),
        ..Group::none()
    };
    let error = group.set_frozen(true).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::TimedOut);
    let left = fs::read_to_string(dir.path().join("cgroup.freeze")).unwrap();
    assert_eq!(left, "0");
}
