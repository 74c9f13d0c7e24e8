//! The audit log: what must stand in it, who gets it, and that it is found when it was changed.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::Stdio,
};

use cml_integration::{
    Daemon, Setup,
    encrypted::{persistent, setup},
    eventually,
};
use cml_wire::proto::controller_to_daemon::Command;
use serde_json::Value;

const DEVICE: &str = "00000000-0000-0000-0000-000000000000";

fn audited() -> Setup {
    let mut audited = setup();
    audited.device_conf += "audit_size: 1\n";
    audited
}

/// The records that `control` lists: log, type without its first two words, subject, facts.
fn records(daemon: &Daemon) -> Vec<(String, String, String, Value)> {
    let listed = daemon.control().ok(&["--format", "json", "audit", "list"]);
    let document: Value = serde_json::from_str(&listed.out).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let records = document["records"].as_array().unwrap().iter();
    records
        .map(|one| {
            let kind = text(&one["type"]).replace("CMLD.", "");
            (
                text(&one["log"]),
                kind,
                text(&one["subject_id"]),
                one["meta"].clone(),
            )
        })
        .collect()
}

fn log(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.base().join(format!("audit/{id}.log"))
}

/// The verdict about every log.
#[track_caller]
fn intact(daemon: &Daemon) -> Value {
    let output = daemon
        .control()
        .ok(&["--format", "json", "audit", "verify"]);
    let document: Value = serde_json::from_str(&output.out).unwrap();
    let logs = document["logs"].as_array().unwrap();
    assert!(logs.iter().all(|log| log["intact"] == true), "{output:?}");
    document
}

#[test]
fn every_deed_leaves_its_record_and_no_secret() {
    let mut daemon = Daemon::prepared(audited());
    daemon.add_guest("persistent", persistent);
    daemon.start();
    let control = daemon.control();
    let web = daemon.create("name: \"we\\\"b\"\nguest_os: \"persistent\"\n");
    let bad = daemon.path("bad.conf");
    fs::write(&bad, "name: \"x\"\nguest_os: \"absent\"\n").unwrap();
    let conf = daemon.path("new.conf");
    fs::write(&conf, "name: \"web\"\nguest_os: \"persistent\"\n").unwrap();
    let junk = daemon.path("junk");
    fs::write(&junk, "junk").unwrap();
    let [bad, conf, junk] = [&bad, &conf, &junk].map(|path| path.to_str().unwrap());
    let run = |args: &[&str]| control.run(args).status;
    assert_eq!(run(&["create", bad]), 1);
    assert_eq!(run(&["start", &web, "--key=Wr0ng-zq7"]), 1);
    let pins = b"trustme\nR1ght-xk9\nR1ght-xk9\n";
    assert_eq!(control.run_with(&["change_pin", &web], pins).status, 0);
    assert_eq!(run(&["start", &web, "--key=R1ght-xk9"]), 0);
    daemon.wait_for(&web, "RUNNING");
    assert_eq!(run(&["start", &web, "--key=R1ght-xk9"]), 1);
    assert_eq!(
        run(&["run", &web, "nopty", "sh", "-c", "echo s3cret-arg"]),
        0
    );
    assert_eq!(run(&["assign_iface", &web, "--iface", "nic9"]), 1);
    assert_eq!(run(&["freeze", &web]), 0);
    assert_eq!(run(&["unfreeze", &web]), 0);
    assert_eq!(run(&["stop", &web, "--key=R1ght-xk9"]), 0);
    daemon.wait_for(&web, "STOPPED");
    assert_eq!(run(&["start", &web, "--key=R1ght-xk9"]), 0);
    daemon.wait_for(&web, "RUNNING");
    assert_eq!(run(&["update_config", &web, conf]), 0);
    assert_eq!(run(&["wipe", &web]), 0);
    assert_eq!(run(&["remove", &web]), 0);
    let unknown = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";
    daemon
        .client()
        .ask_with_pin(Command::ContainerStart, unknown, "x");
    assert_eq!(run(&["reload"]), 0);
    assert_eq!(run(&["ca_register", junk]), 1);
    assert_eq!(run(&["ca_remove", "local"]), 1);
    assert_eq!(run(&["push_guestos_config", junk, junk, junk]), 1);
    assert_eq!(run(&["remove_guestos", "absent"]), 1);
    assert_eq!(run(&["push_cert", junk]), 1);
    assert_eq!(run(&["destroy_system"]), 1);
    assert_eq!(run(&["wipe_device"]), 0);
    assert_eq!(run(&["reboot"]), 0);

    let all = records(&daemon);
    let of = |id: &str| -> Vec<&str> {
        let own = all.iter().filter(|record| record.0 == id);
        own.map(|record| record.1.as_str()).collect()
    };
    // Two services tell of a wipe and of a stop; who is first is nobody's promise, so the order of these is none.
    let own = [
        "SSA.CONTAINER_MGMT.container-create",
        "FSA.TOKEN_MGMT.unlock-wrong-pin",
        "FSA.CONTAINER_MGMT.container-start",
        "SSA.CONTAINER_MGMT.container-change-pin",
        "SSA.TOKEN_MGMT.unlock-successful",
        "SSA.TOKEN_MGMT.gen-container-key",
        "SSA.TOKEN_MGMT.wrap-key",
        "SSA.TOKEN_MGMT.store-wrapped-key",
        "SSA.CONTAINER_MGMT.setup-crypted-volume",
        "SSA.CONTAINER_MGMT.container-start",
        "FSA.CONTAINER_MGMT.container-start-already-running",
        "SSA.CONTAINER_MGMT.container-exec",
        "FSA.CONTAINER_MGMT.container-assign-iface",
        "SSA.CONTAINER_MGMT.container-freeze",
        "SSA.CONTAINER_MGMT.container-unfreeze",
        "SSA.CONTAINER_MGMT.shutting-down",
        "SSA.CONTAINER_MGMT.request-clean-shutdown",
        "SSA.CONTAINER_MGMT.container-stop",
        "SSA.TOKEN_MGMT.read-wrapped-key",
        "SSA.TOKEN_MGMT.unwrap-container-key",
        "SSA.CONTAINER_MGMT.container-update-config",
        "SSA.CONTAINER_MGMT.force-stop",
        "SSA.CONTAINER_MGMT.container-remove-keyfile",
        "SSA.CONTAINER_MGMT.container-wipe",
        "SSA.CONTAINER_MGMT.container-remove",
    ];
    let found = of(&web);
    for expected in own {
        assert!(found.contains(&expected), "{expected} not in {found:#?}");
    }
    let begun = own[..6]
        .iter()
        .map(|event| found.iter().position(|found| found == event));
    assert!(begun.collect::<Vec<_>>().is_sorted(), "{found:#?}");
    let device = [
        "SSA.GENERIC.boot-time",
        "SSA.GUESTOS_MGMT.verify-good",
        "SSA.GUESTOS_MGMT.load-os",
        "SSA.CONTAINER_MGMT.verify-image",
        "FSA.CONTAINER_MGMT.container-create",
        "FSA.CONTAINER_MGMT.container-start-not-existing",
        "SSA.CONTAINER_MGMT.reload",
        "FSA.GENERIC.register-ca",
        "FSA.GENERIC.remove-ca",
        "FSA.GUESTOS_MGMT.verify-failed",
        "FSA.GUESTOS_MGMT.push-os",
        "FSA.GUESTOS_MGMT.remove-os",
        "FSA.GENERIC.push-cert",
        "FSA.GENERIC.destroy-system",
        "SSA.GENERIC.wipe-device",
        "SSA.GENERIC.reboot-device",
        "SSA.CONTAINER_MGMT.shutdown",
    ];
    let found = of(DEVICE);
    for expected in device {
        assert!(found.contains(&expected), "{expected} not in {found:#?}");
    }
    // Nothing has a log that was never a container.
    let logs: BTreeSet<_> = all.iter().map(|record| record.0.as_str()).collect();
    assert_eq!(logs, BTreeSet::from([DEVICE, &web]));
    intact(&daemon);
    for id in [DEVICE, &web] {
        let text = fs::read_to_string(log(&daemon, id)).unwrap();
        for secret in ["Wr0ng-zq7", "R1ght-xk9", "trustme", "s3cret-arg"] {
            assert!(!text.contains(secret), "{secret} in the log");
        }
    }
    // A name from outside stays within its quotes.
    assert!(
        fs::read_to_string(log(&daemon, &web))
            .unwrap()
            .contains("we\\\"b")
    );
}

#[test]
fn a_provisioned_device_notes_what_it_refuses_also_the_log_itself() {
    let mut daemon = Daemon::new(audited());
    daemon.control().ok(&["set_provisioned"]);
    for refused in [&["audit", "verify"][..], &["audit", "list"], &["reload"]] {
        daemon.control().refused(refused, "CMD_UNSUPPORTED");
    }
    assert!(daemon.stop().success());
    let text = fs::read_to_string(log(&daemon, DEVICE)).unwrap();
    for expected in [
        "set-provisioned",
        "AUDIT_VERIFY",
        "AUDIT_LIST",
        "RELOAD_CONTAINERS",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    // What was noted last is there, too.
    assert!(text.contains("GENERIC.daemon-end"), "{text}");
}

#[test]
fn a_log_that_somebody_has_changed_is_found_and_named() {
    let daemon = Daemon::new(audited());
    let web = daemon.running("web", "busybox");
    intact(&daemon);
    let before = fs::read_to_string(log(&daemon, &web)).unwrap();
    let records: Vec<_> = before.split_inclusive("-----\n").collect();
    let last = records.len();
    let without = |number: usize| {
        let kept = records
            .iter()
            .enumerate()
            .filter(|(at, _)| at + 1 != number);
        kept.map(|(_, record)| *record).collect::<String>()
    };
    for (changed, place) in [
        (
            before.replacen("container-create", "container-delete", 1),
            "record 1".to_owned(),
        ),
        (without(2), "record 2".to_owned()),
        (without(last), format!("record {last}")),
        (String::new(), "record".to_owned()),
        (format!("{before}-----\n"), format!("record {}", last + 1)),
    ] {
        fs::write(log(&daemon, &web), &changed).unwrap();
        let output = daemon.control().run(&["audit", "verify"]);
        assert_eq!(output.status, 1, "{output:?}");
        assert!(
            output.err.contains(&web) && output.err.contains(&place),
            "{place}: {output:?}"
        );
        let table = daemon
            .control()
            .run(&["--format", "table", "audit", "verify"]);
        assert!(
            table.out.contains("BROKEN") && table.out.contains("intact"),
            "{table:?}"
        );
    }
    fs::write(log(&daemon, &web), &before).unwrap();
    intact(&daemon);
    // What is recorded from now on tells of it as well.
    fs::write(log(&daemon, &web), without(1)).unwrap();
    daemon.control().ok(&["stop", "web"]);
    daemon.wait_for("web", "STOPPED");
    let found = self::records(&daemon);
    assert!(
        found
            .iter()
            .any(|record| record.0 == web && record.1 == "FSA.GENERIC.audit-altered")
    );
    assert_eq!(daemon.control().run(&["audit", "verify"]).status, 1);
}

#[test]
fn a_guest_fetches_its_own_records_and_nothing_else() {
    let daemon = Daemon::new(audited());
    let (a, b) = (
        daemon.running("a", "busybox"),
        daemon.running("b", "busybox"),
    );
    let probe = |container: &str, args: &[&str]| -> Value {
        let mut words = vec!["run", container, "nopty", "probe", "audit"];
        words.extend(args);
        serde_json::from_str(&daemon.control().ok(&words).out).unwrap()
    };
    assert_eq!(probe(&a, &["lie"])["different"], 1);
    let first = probe(&a, &["fetch", "1"]);
    assert_eq!(
        first["records"][0]["type"],
        "SSA.CMLD.CONTAINER_MGMT.container-create"
    );
    assert_eq!(first["complete"], false);
    let rest = probe(&a, &["fetch", "100"]);
    assert_eq!(rest["complete"], true);
    let got = [&first, &rest]
        .map(|got| got["records"].as_array().unwrap().clone())
        .concat();
    assert!(got.iter().all(|record| record["subject"] == a), "{got:#?}");
    assert!(
        got.iter()
            .any(|record| record["type"] == "SSA.CMLD.CONTAINER_MGMT.container-start")
    );
    assert_eq!(
        got.iter().filter(|record| record == &&got[0]).count(),
        1,
        "none comes twice"
    );
    // They are gone from this log, and from no other one; and the chain holds.
    let verdict = intact(&daemon);
    let delivered = |id: &str| {
        let logs = verdict["logs"].as_array().unwrap();
        let log = logs.iter().find(|log| log["log"] == id).unwrap();
        log["delivered"].as_u64().unwrap()
    };
    assert_eq!(delivered(&a), got.len() as u64);
    assert_eq!((delivered(&b), delivered(DEVICE)), (0, 0));
    let left = records(&daemon);
    assert!(
        !left
            .iter()
            .any(|(log, kind, ..)| *log == a && kind.ends_with("container-create"))
    );
}

#[test]
fn a_running_guest_that_listens_is_told_of_a_new_record() {
    let daemon = Daemon::new(audited());
    daemon.running("web", "busybox");
    let mut waits = daemon
        .control()
        .command(&["run", "web", "nopty", "probe", "audit", "wait"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(waits.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "waiting\n");
    daemon.answers("web");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let left: u64 = rest.trim().parse().unwrap();
    assert!((1..1 << 20).contains(&left), "{left}");
    assert!(waits.wait().unwrap().success());
}

#[test]
fn what_was_recorded_survives_a_crash_and_the_chain_goes_on() {
    let mut daemon = Daemon::new(audited());
    let web = daemon.running("web", "busybox");
    for round in 0..5 {
        // Commands leave records all the time; the daemon is killed in the middle of them.
        let busy: Vec<_> = (0..4)
            .map(|_| {
                let words = ["run", &web, "nopty", "true"];
                let mut command = daemon.control().command(&words);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                command.stdin(Stdio::null()).spawn().unwrap()
            })
            .collect();
        daemon.answers(&web);
        daemon.crash();
        for mut one in busy {
            one.wait().unwrap();
        }
        daemon.start();
        intact(&daemon);
        // The container service answers when it has adopted what runs.
        daemon.wait_for(&web, "RUNNING");
        let adopted = records(&daemon).into_iter();
        let adopted = adopted.filter(|(log, kind, ..)| *log == web && kind.ends_with("adopt"));
        assert_eq!(adopted.count(), round + 1);
    }
}

#[test]
fn a_full_log_drops_counts_and_goes_on_when_its_guest_has_made_room() {
    let mut daemon = Daemon::prepared(audited());
    let web = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";
    fs::create_dir_all(daemon.base().join("audit")).unwrap();
    // A log of the existing system that has room for a few records more.
    let record = "timestamp: 7\ntype: \"SSA.CMLD.CONTAINER_MGMT.container-start\"\nsubject_id: \"x\"\n\
        meta {\n  key: \"raw\"\n  value: \"";
    let record = format!("{record}{}\"\n}}\n-----\n", "x".repeat(19_900));
    fs::write(log(&daemon, web), record.repeat(52)).unwrap();
    let containers = daemon.base().join("containers");
    fs::create_dir_all(&containers).unwrap();
    let conf = "name: \"web\"\nguest_os: \"busybox\"\ntoken_type: NONE\n";
    fs::write(containers.join(format!("{web}.conf")), conf).unwrap();
    daemon.start();
    for _ in 0..3 {
        daemon.control().ok(&["start", web]);
        daemon.wait_for(web, "RUNNING");
        daemon.control().ok(&["stop", web]);
        daemon.wait_for(web, "STOPPED");
    }
    let of_web = |verdict: &Value| {
        let logs = verdict["logs"].as_array().unwrap().clone();
        logs.into_iter().find(|log| log["log"] == web).unwrap()
    };
    let full = of_web(&intact(&daemon));
    assert!(full["dropped"].as_u64().unwrap() > 0, "{full}");
    assert!(full["bytes"].as_u64().unwrap() <= 1 << 20, "{full}");
    daemon.control().ok(&["start", web]);
    daemon.wait_for(web, "RUNNING");
    let fetch = ["run", web, "nopty", "probe", "audit", "fetch", "20"];
    let got: Value = serde_json::from_str(&daemon.control().ok(&fetch).out).unwrap();
    assert_eq!(got["records"].as_array().unwrap().len(), 20);
    daemon.control().ok(&["stop", web]);
    eventually("a record that tells of the others", || {
        let told = records(&daemon).into_iter().find_map(|(log, _, _, meta)| {
            let facts = meta.as_array()?.clone();
            let dropped = facts.into_iter().find(|fact| fact["key"] == "dropped")?;
            (log == web).then(|| dropped["value"].as_str().unwrap().parse::<u64>().unwrap())
        });
        told.filter(|told| *told > 0)
    });
    daemon.wait_for(web, "STOPPED");
    intact(&daemon);
}

#[test]
fn without_an_audit_size_nothing_is_kept_and_that_is_said() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let verdict = daemon
        .control()
        .ok(&["--format", "table", "audit", "verify"]);
    assert!(verdict.out.contains("audit_size"), "{verdict:?}");
    assert!(!daemon.base().join("audit").exists());
    assert!(!daemon.base().join("keys/audit.key").exists());
}
