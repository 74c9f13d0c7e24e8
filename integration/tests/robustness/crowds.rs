//! Many containers, many starts, many commands (LIF-01, LIF-02).

use std::{collections::BTreeSet, thread};

use cml_integration::Daemon;

#[test]
fn containers_started_at_the_same_time_all_run_with_ids_of_their_own() {
    let daemon = Daemon::default();
    let uuids: Vec<_> = (0..32)
        .map(|index| {
            daemon.create(&format!(
                "name: \"c{index}\"\nguest_os: \"busybox\"\ntoken_type: NONE\n"
            ))
        })
        .collect();
    thread::scope(|scope| {
        for uuid in &uuids {
            scope.spawn(|| daemon.control().ok(&["start", uuid]));
        }
    });
    let slots: BTreeSet<_> = uuids
        .iter()
        .map(|uuid| daemon.record(uuid)["running"]["id_slot"].as_u64().unwrap())
        .collect();
    assert_eq!(slots.len(), uuids.len());
    for uuid in &uuids {
        daemon.wait_for(uuid, "RUNNING");
    }
    // One image, one mount for all of them.
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.pid())).unwrap();
    assert_eq!(mounts.matches("/images/busybox-1/root-").count(), 1);
}

#[test]
fn hundreds_of_starts_and_commands_never_hang() {
    let mut daemon = Daemon::default();
    daemon.add_guest("ends", |guest| {
        guest.init_path = Some("/bin/probe".into());
        guest.init_param = vec!["init".into(), "exit".into(), "0".into()];
    });
    let names = ["a", "b", "c", "d"];
    for name in names {
        daemon.create(&format!(
            "name: \"{name}\"\nguest_os: \"ends\"\ntoken_type: NONE\n"
        ));
    }
    daemon.running("web", "busybox");
    thread::scope(|scope| {
        for name in names {
            scope.spawn(|| {
                for _ in 0..75 {
                    daemon.control().ok(&["start", name]);
                    daemon.wait_for(name, "STOPPED");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..500 {
                daemon.control().ok(&["run", "web", "nopty", "true"]);
            }
        });
    });
    // Neither orphans, which process 1 collects, nor commands, which their helpers do.
    let zombies = "cat /proc/[0-9]*/stat | grep -c ') Z '";
    cml_integration::eventually("no zombie inside", || {
        let counted = daemon
            .control()
            .run(&["run", "web", "nopty", "sh", "-c", zombies]);
        (counted.out == "0\n").then_some(())
    });
}

#[test]
fn two_clients_that_start_the_same_container_get_one_success() {
    let daemon = Daemon::default();
    for _ in 0..5 {
        let uuid = daemon.create("name: \"x\"\nguest_os: \"busybox\"\ntoken_type: NONE\n");
        let outcomes: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| daemon.control().run(&["start", &uuid]).value("response")))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        let count = |wanted: &str| outcomes.iter().filter(|one| *one == wanted).count();
        assert_eq!(count("CONTAINER_START_OK"), 1, "{outcomes:?}");
        assert_eq!(count("CONTAINER_START_EEXIST"), 5, "{outcomes:?}");
        daemon.control().ok(&["remove", &uuid]);
    }
}
