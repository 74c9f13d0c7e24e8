//! Limits of processors, memory and processes, on version 1 and version 2 of control groups.

use std::{fs, path::PathBuf};

use cml_integration::{Daemon, Groups, Setup, eventually, shows};
use serde_json::Value;

/// Lines of a container's configuration that limit everything.
const LIMITED: &str =
    "ram_limit: 64\nswap_limit: 16\npids_limit: 40\ncpu_weight: 50\nassign_cpus: \"0\"\n";

/// Where the kernel says that a container's init is, in the hierarchy with this controller.
fn group(daemon: &Daemon, uuid: &str, controller: &str) -> PathBuf {
    let pid = daemon.init_pid(uuid);
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let here = fields.next()?.split(',').any(|one| one == controller);
        here.then(|| fields.next().map(ToOwned::to_owned))?
    };
    match all.lines().find_map(of) {
        Some(path) => PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}")),
        None => {
            let path = all.lines().find_map(|line| line.strip_prefix("0::"));
            // Limits are one level above the part that is the container's own (docs/adr/0040).
            let path = path.unwrap().trim_end_matches("/child");
            PathBuf::from(format!("/sys/fs/cgroup{path}"))
        }
    }
}

/// The first of these files of a group that there is.
fn value(group: &std::path::Path, files: &[&str]) -> String {
    let found = files
        .iter()
        .find_map(|file| fs::read_to_string(group.join(file)).ok());
    found
        .unwrap_or_else(|| panic!("none of {files:?} in {group:?}"))
        .trim()
        .to_owned()
}

fn limits_are_kept(daemon: &mut Daemon) -> String {
    let uuid = daemon.create_with("web", "busybox", LIMITED);
    let started = daemon.control().ok(&["start", "web"]);
    assert!(!started.err.contains("warning"), "{started:?}");
    let check = |daemon: &Daemon| {
        let file =
            |controller: &str, files: &[&str]| value(&group(daemon, &uuid, controller), files);
        let memory = file("memory", &["memory.max", "memory.limit_in_bytes"]);
        assert_eq!(memory, (64 << 20).to_string());
        let swap = file(
            "memory",
            &["memory.swap.max", "memory.memsw.limit_in_bytes"],
        );
        assert!(
            swap == (16 << 20).to_string() || swap == (80 << 20).to_string(),
            "{swap}"
        );
        assert_eq!(file("pids", &["pids.max"]), "40");
        let weight = file("cpu", &["cpu.weight", "cpu.shares"]);
        assert!(weight == "50" || weight == "512", "{weight}");
        assert_eq!(file("cpuset", &["cpuset.cpus"]), "0");
    };
    check(daemon);
    // Nothing of a new configuration before the next start, and nothing is lost with the daemon.
    let conf = daemon.path("conf/web.conf");
    let new = format!(
        "name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n{}",
        LIMITED.replace("40", "50")
    );
    fs::write(&conf, new).unwrap();
    daemon
        .control()
        .ok(&["update_config", "web", conf.to_str().unwrap()]);
    check(daemon);
    daemon.crash();
    daemon.start();
    check(daemon);
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    daemon.control().ok(&["start", "web"]);
    assert_eq!(value(&group(daemon, &uuid, "pids"), &["pids.max"]), "50");
    // As many as there may be, and one more.
    let script = "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done";
    let refused = daemon
        .control()
        .run(&["run", "web", "nopty", "sh", "-c", script]);
    assert!(refused.err.contains("fork"), "{refused:?}");
    let stats = daemon.control().ok(&["--format", "json", "stats", "web"]);
    let stats: Value = serde_json::from_str(&stats.out).unwrap();
    assert_eq!(stats["containers"][0]["pids_limit"], 50);
    uuid
}

#[test]
fn limits_are_kept_by_the_groups_of_this_machine() {
    limits_are_kept(&mut Daemon::default());
}

#[test]
fn limits_are_kept_by_version_1_alone() {
    limits_are_kept(&mut Daemon::new(Setup {
        groups: Groups::OnlyV1,
        ..Setup::default()
    }));
}

fn has_all_in_version_2() -> bool {
    let text = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["memory", "pids", "cpu", "cpuset", "io"]
        .iter()
        .all(|one| text.split_whitespace().any(|word| word == *one))
}

#[test]
#[ignore = "needs the controllers of cgroup2; run by `make test-device`"]
fn limits_are_kept_by_version_2_alone() {
    assert!(has_all_in_version_2());
    let mut daemon = Daemon::default();
    let uuid = limits_are_kept(&mut daemon);
    let group = group(&daemon, &uuid, "memory");
    assert_eq!(value(&group, &["memory.oom.group"]), "1");
}

#[test]
fn a_hog_of_memory_hurts_itself_alone() {
    let daemon = Daemon::default();
    daemon.create_with("hog", "busybox", "ram_limit: 32\n");
    daemon.control().ok(&["start", "hog"]);
    daemon.running("other", "busybox");
    // A kernel has been seen to look for pages to take back for minutes, before it gave up.
    let hog = "head -c 200m /dev/zero | tail -c 200m >/dev/null";
    let script = format!("timeout -s KILL 60 sh -c '{hog}' || timeout -s KILL 60 sh -c '{hog}'");
    let hog = daemon
        .control()
        .run(&["run", "hog", "nopty", "sh", "-c", &script]);
    assert_ne!(hog.status, 0, "{hog:?}");
    daemon.answers("other");
    if has_all_in_version_2() {
        // All of it ends together, so that nothing goes on in half.
        daemon.wait_for("hog", "STOPPED");
    } else {
        let stats = daemon.control().ok(&["--format", "json", "stats", "hog"]);
        let stats: Value = serde_json::from_str(&stats.out).unwrap();
        assert!(
            stats["containers"][0]["oom_kills"].as_u64().unwrap() > 0,
            "{stats}"
        );
        assert_eq!(stats["containers"][0]["memory_limit"], 32 << 20);
    }
}

#[test]
fn a_limit_that_this_machine_cannot_keep_is_an_error_that_names_it() {
    // Without controllers of version 1, what is left here has none for memory.
    if !shows(!has_all_in_version_2(), "version 2 has all controllers") {
        return;
    }
    let daemon = Daemon::new(Setup {
        groups: Groups::OnlyV2,
        ..Setup::default()
    });
    daemon.create_with("limited", "busybox", "ram_limit: 64\n");
    let refused = daemon
        .control()
        .refused(&["start", "limited"], "CONTAINER_START_EINTERNAL");
    assert!(
        refused.err.contains("`ram_limit`") && refused.err.contains("`memory`"),
        "{refused:?}"
    );
    assert_eq!(daemon.state("limited"), "STOPPED");
    // What nobody asked for is told, and no more.
    daemon.create_with("web", "busybox", "");
    let started = daemon.control().ok(&["start", "web"]);
    assert!(
        started
            .err
            .contains("warning: this machine has no control group controller for memory and pids"),
        "{started:?}"
    );
    let started = daemon.control().ok(&["--format", "json", "state", "web"]);
    assert!(started.err.is_empty());
}

#[test]
fn processors_that_do_not_exist_are_refused() {
    let daemon = Daemon::default();
    daemon.create_with("web", "busybox", "assign_cpus: \"0-4000\"\n");
    let refused = daemon
        .control()
        .refused(&["start", "web"], "CONTAINER_START_EINTERNAL");
    assert!(
        refused.err.contains("this machine has the processors 0"),
        "{refused:?}"
    );
    let conf = daemon.path("conf/bad.conf");
    for bad in [
        "cpu_weight: 0",
        "swap_limit: 3",
        "assign_cpus: \"x\"",
        "allow_dev: \"all\"",
    ] {
        fs::write(
            &conf,
            format!("name: \"b\"\nguest_os: \"busybox\"\n{bad}\n"),
        )
        .unwrap();
        let refused = daemon.control().run(&["create", conf.to_str().unwrap()]);
        assert_eq!(refused.status, 1, "{bad}: {refused:?}");
        let field = bad.split(':').next().unwrap();
        assert!(refused.err.contains(field), "{refused:?}");
    }
}

#[test]
fn a_container_without_limits_gets_those_of_the_device() {
    let plain = Setup::default();
    let daemon = Daemon::new(Setup {
        device_conf: format!(
            "{}default_pids_limit: 77\ndefault_ram_limit: 48\n",
            plain.device_conf
        ),
        ..plain
    });
    let uuid = daemon.create_with("web", "busybox", "");
    daemon.control().ok(&["start", "web"]);
    assert_eq!(value(&group(&daemon, &uuid, "pids"), &["pids.max"]), "77");
    let memory = ["memory.max", "memory.limit_in_bytes"];
    assert_eq!(
        value(&group(&daemon, &uuid, "memory"), &memory),
        (48 << 20).to_string()
    );
    let uuid = daemon.create_with("free", "busybox", "pids_limit: 0\n");
    daemon.control().ok(&["start", "free"]);
    assert_eq!(value(&group(&daemon, &uuid, "pids"), &["pids.max"]), "max");
}

#[test]
fn what_containers_use_is_shown_once_and_again_and_again() {
    let mut daemon = Daemon::default();
    daemon.add_busy_guest();
    daemon.running("busy", "busy");
    daemon.running("idle", "busybox");
    daemon.create_with("never", "busybox", "");
    let control = daemon.control();
    let all = || -> Value {
        let output = control.ok(&["--format", "json", "stats"]);
        serde_json::from_str::<Value>(&output.out).unwrap()["containers"].clone()
    };
    let first = all();
    assert_eq!(
        first.as_array().unwrap().len(),
        2,
        "only what runs: {first}"
    );
    for one in first.as_array().unwrap() {
        for counter in [
            "cpu_usec",
            "memory",
            "pids",
            "taken",
            "net_received",
            "pids_limit",
        ] {
            assert!(one[counter].is_u64(), "{counter}: {one}");
        }
    }
    let busy = |all: &Value| all[0]["cpu_usec"].as_u64().unwrap();
    eventually("it counts", || {
        (busy(&all()) > busy(&first) + 10_000).then_some(())
    });
    let table = control.ok(&["--format", "table", "stats", "busy"]);
    let row = table.out.lines().nth(1).unwrap();
    assert!(row.starts_with("busy") && row.contains('%'), "{table:?}");
    let stopped = control.ok(&["--format", "json", "stats", "never"]);
    assert!(
        stopped.out.contains("\"state\": \"STOPPED\""),
        "{stopped:?}"
    );
    // Two documents, then its reader goes.
    let mut watch = control.command(&["--format", "json", "stats", "--watch=1"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line.as_array().unwrap().len(), 2);
    }
    drop(lines);
    assert_eq!(watch.wait().unwrap().code(), Some(141));
    let refused = control.run(&["stats", "nobody"]);
    assert_eq!(refused.status, 1, "{refused:?}");
}
