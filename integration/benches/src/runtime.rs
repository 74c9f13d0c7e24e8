//! The reference: an OCI runtime doing the same with the same root file system.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cml_integration::{
    kit::{kit, run},
    median,
};
use serde_json::{Value, json};

use crate::ours::ROUNDS;

/// Medians of one runtime.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// `run --detach` until it returns: the container's process runs.
    pub start: Duration,
    /// `exec` of `true`.
    pub exec: Duration,
    /// `delete --force` until it returns.
    pub stop: Duration,
}

/// Lays out a bundle of the busybox guest with a user namespace, as our containers have.
pub fn bundle(dir: &Path) {
    let image = kit().store.join("busybox-1/root.img");
    run(Command::new("unsquashfs")
        .args(["-quiet", "-no-progress", "-d"])
        .arg(dir.join("rootfs"))
        .arg(image));
    run(Command::new("crun").arg("spec").current_dir(dir));
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/bin/probe", "init", "stubborn"]);
    config["root"] = json!({ "path": "rootfs", "readonly": true });
    let ids = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    config["linux"]["uidMappings"] = ids.clone();
    config["linux"]["gidMappings"] = ids;
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    fs::write(path, config.to_string()).unwrap();
}

/// Measures a runtime. `crun` refuses machines with both cgroup versions, so it runs where the unified
/// hierarchy is out of sight.
pub fn measure(program: &str, bundle: &Path) -> Times {
    let hide = "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", hide, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["runtime", program])
        .arg(bundle)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} could not be measured");
    let micros: Vec<u64> = serde_json::from_slice(&output.stdout).unwrap();
    let [start, exec, stop] = micros[..] else {
        panic!("three numbers expected, got {micros:?}");
    };
    Times {
        start: Duration::from_micros(start),
        exec: Duration::from_micros(exec),
        stop: Duration::from_micros(stop),
    }
}

/// Measures in this process and prints the medians as JSON, in microseconds.
pub fn report(program: &str, bundle: &str) {
    let name = format!("cml-bench-{}", std::process::id());
    let runtime = |args: &[&str]| {
        let start = Instant::now();
        // Not piped: a detached container would hold the pipe open.
        let status = Command::new(program)
            .args(args)
            .current_dir(bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{program} {args:?}");
        start.elapsed()
    };
    let (mut starts, mut execs, mut stops) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        starts.push(runtime(&["run", "--detach", "--bundle", ".", &name]));
        execs.push(runtime(&["exec", &name, "/bin/busybox", "true"]));
        stops.push(runtime(&["delete", "--force", &name]));
    }
    let medians = [starts, execs, stops].map(|mut times| median(&mut times).as_micros() as u64);
    println!("{}", json!(medians));
}
