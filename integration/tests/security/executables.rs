//! Nothing of ours that a guest can reach can be changed by it (SEC-01).

use std::fs;

use cml_integration::{Daemon, kit::kit};
use sha2::{Digest, Sha256};

fn hash() -> Vec<u8> {
    Sha256::digest(fs::read(&kit().init).unwrap()).to_vec()
}

#[test]
fn the_program_behind_process_one_is_out_of_the_guests_reach() {
    let mut daemon = Daemon::default();
    daemon.add_guest("supervised", |guest| {
        guest.init_path = Some("/bin/sh".into());
        guest.init_param = vec!["-c".into(), "while :; do sleep 1; done".into()];
    });
    let before = hash();
    for userns in [true, false] {
        let name = format!("x{userns}");
        let lines = format!("userns: {userns}\n");
        let uuid = daemon.running_with(&name, "supervised", &lines);
        // Seen from outside: process 1 is the sealed copy, not the file on disk.
        let program = fs::read_link(format!("/proc/{}/exe", daemon.init_pid(&uuid))).unwrap();
        assert!(
            program.to_str().unwrap().contains("memfd:cml-init"),
            "{program:?}"
        );
        let output = daemon
            .control()
            .ok(&["run", &name, "nopty", "probe", "attack", "exe"]);
        let report: serde_json::Value = serde_json::from_str(&output.out).unwrap();
        for process in report.as_array().unwrap() {
            if process["link"]
                .as_str()
                .is_some_and(|link| link.starts_with('/') && !process["memfd"].as_bool().unwrap())
            {
                // A program of the guest's own.
                continue;
            }
            for success in ["writable", "truncatable", "appendable", "seals_changed"] {
                assert_eq!(process[success], false, "userns {userns}: {process}");
            }
            assert!(
                process["readable"] == false || process["sealed"] == true,
                "{process}"
            );
        }
    }
    assert_eq!(hash(), before);
}

/// A script whose interpreter is whoever executes it runs our program as a process of the guest's, whose file root in it
/// may then reach, and owns without a user namespace. All containers have the same one.
#[test]
fn the_program_cannot_be_taken_away_from_other_containers() {
    let daemon = Daemon::default();
    daemon.running_with("x", "busybox", "userns: false\n");
    let sh = |script: &str| {
        daemon
            .control()
            .run(&["run", "-T", "x", "sh", "-c", script])
    };
    let watch = "printf '#!/proc/self/exe\\n' >/tmp/evil; chmod 755 /tmp/evil; \
                 setsid sh -c 'while :; do for p in /proc/[0-9]*; do \
                   case $(readlink $p/exe) in *memfd*) echo seen >>/tmp/seen; chmod 0 $p/exe;; esac; \
                 done; done' >/dev/null 2>&1 </dev/null &";
    assert_eq!(sh(watch).status, 0);
    for _ in 0..20 {
        daemon.control().run(&["run", "-T", "x", "/tmp/evil"]);
    }
    assert_eq!(sh("true").status, 0);
    daemon.running("other", "busybox");
    daemon.answers("other");
}
