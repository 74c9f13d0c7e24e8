//! `run`: commands in a container, byte for byte.

use std::process::Stdio;

use cml_integration::{Daemon, cycles, eventually};
use cml_wire::proto::{
    ControllerToDaemon, controller_to_daemon::Command, daemon_to_controller::Code,
};

#[test]
fn status_output_and_complaints_come_back_apart() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let run = |script: &str| {
        daemon
            .control()
            .run(&["run", "web", "nopty", "sh", "-c", script])
    };
    let output = run("echo out; echo err >&2; exit 42");
    assert_eq!(
        (output.out.as_str(), output.err.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(output.status, 42);
    assert_eq!(run("kill -TERM $$").status, 128 + 15);
    let absent = daemon
        .control()
        .run(&["run", "web", "nopty", "no-such-program"]);
    assert_eq!(absent.status, 127);
    assert!(absent.err.contains("no-such-program"), "{absent:?}");
    // Something that is there and cannot be run, and a place to run it in that is not there.
    for words in [
        &["/etc/passwd"][..],
        &["/etc"],
        &["-w", "/nowhere", "web", "true"],
    ] {
        let run = match words {
            [one] => vec!["run", "-T", "web", one],
            words => [&["run", "-T"], words].concat(),
        };
        assert_eq!(daemon.control().run(&run).status, 126, "{run:?}");
    }
}

#[test]
fn every_byte_value_passes_unchanged_both_ways() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let echoed = daemon
        .control()
        .run_with(&["run", "-T", "web", "cat"], &bytes);
    assert_eq!(echoed.status, 0);
    assert!(
        echoed.raw == bytes,
        "{} of {} bytes",
        echoed.raw.len(),
        bytes.len()
    );
}

#[test]
fn a_short_command_loses_no_byte() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    for _ in 0..100 {
        let output = daemon
            .control()
            .ok(&["run", "web", "nopty", "echo", "complete"]);
        assert_eq!(output.out, "complete\n");
    }
}

#[test]
fn a_command_gets_environment_directory_and_nothing_of_the_daemon() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let args = [
        "run",
        "-T",
        "-e",
        "COLOUR=blue",
        "-w",
        "/etc",
        "web",
        "probe",
        "facts",
    ];
    let output = daemon.control().ok(&args);
    let facts: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(facts["cwd"], "/etc");
    assert_eq!(facts["env"]["COLOUR"], "blue");
    assert_eq!(facts["session_leader"], true);
    let names: Vec<_> = facts["env"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["COLOUR", "HOME", "PATH"]);
    let strange = ["run", "-T", "-w", "/proc/self/fd/3", "web", "pwd"];
    assert_eq!(daemon.control().run(&strange).status, 126);
}

#[test]
fn a_command_runs_as_the_user_that_it_is_told() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let run = |user: &str, script: &str| {
        let words = ["run", "-T", "-u", user, "web", "sh", "-c", script];
        daemon.control().run(&words)
    };
    let nobody = run("nobody", "id -u; id -g; echo $HOME");
    assert_eq!(nobody.out, "65534\n65534\n/nonexistent\n", "{nobody:?}");
    let by_number = run(
        "1234:567",
        "id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status",
    );
    assert_eq!(
        by_number.out, "1234\n567\n567\n/\nCapEff:\t0000000000000000\n",
        "{by_number:?}"
    );
    let root = run("root", "id -u; echo $HOME");
    assert_eq!(root.out, "0\n/root\n", "{root:?}");
    let said = [
        "run",
        "-T",
        "-u",
        "1234",
        "-e",
        "HOME=/x",
        "web",
        "sh",
        "-c",
        "echo $HOME",
    ];
    assert_eq!(daemon.control().ok(&said).out, "/x\n");
    // What root alone may read, it may not.
    let secret = run("1234", "cat /etc/shadow /proc/1/environ");
    assert_ne!(secret.status, 0);
    for nobody in ["ghost", "nobody:ghost", "4294967294", "4294967295"] {
        let refused = run(nobody, "true");
        assert_eq!(refused.status, 126, "{nobody}: {refused:?}");
        assert!(refused.err.contains("user"), "{nobody}: {refused:?}");
    }
}

#[test]
fn pipes_belong_to_the_user_and_can_be_opened_by_name() {
    let daemon = Daemon::default();
    for userns in [true, false] {
        let name = format!("x{userns}");
        daemon.running_with(&name, "busybox", &format!("userns: {userns}\n"));
        for user in ["root", "1234"] {
            let script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin";
            let words = ["run", "-T", "-u", user, &name, "sh", "-c", script];
            let said = daemon.control().run_with(&words, b"in");
            assert_eq!(
                (&*said.out, &*said.err),
                ("out\nin", "err\n"),
                "{name} {user}: {said:?}"
            );
        }
    }
}

#[test]
fn the_terminal_belongs_to_the_user() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let mut client = daemon.client();
    let mut request = exec(
        &uuid,
        true,
        &["sh", "-c", "stat -c %u $(tty); echo x >$(tty)"],
    );
    request.exec_user = Some("1234".into());
    client.send(&request);
    let (bytes, status) = finish(&mut client);
    assert_eq!(String::from_utf8_lossy(&bytes), "1234\r\nx\r\n");
    assert_eq!(status, 0);
}

#[test]
fn long_arguments_arrive() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let long = "x".repeat(100_000);
    let output = daemon.control().ok(&["run", "web", "nopty", "echo", &long]);
    assert_eq!(output.out.trim_end(), long);
}

fn exec(uuid: &str, pty: bool, words: &[&str]) -> ControllerToDaemon {
    ControllerToDaemon {
        command: Command::ContainerExecCmd.into(),
        container_uuids: vec![uuid.to_owned()],
        exec_command: Some(words[0].to_owned()),
        exec_args: words.iter().map(ToString::to_string).collect(),
        exec_pty: Some(pty),
        exec_cols: pty.then_some(132),
        exec_rows: pty.then_some(43),
        exec_extended: Some(true),
        ..Default::default()
    }
}

/// Reads to the end of the command: its output and its status.
fn finish(client: &mut cml_integration::Client) -> (Vec<u8>, i32) {
    let mut bytes = Vec::new();
    loop {
        let reply = client.reply().expect("the connection stays open");
        match reply.code() {
            Code::ExecOutput => bytes.extend(reply.exec_output.unwrap_or_default()),
            Code::ExecEnd => return (bytes, reply.exec_status.unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_terminal_has_the_clients_size_and_is_the_commands_own() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let mut client = daemon.client();
    client.send(&exec(
        &uuid,
        true,
        &["sh", "-c", "tty; stty size; probe facts"],
    ));
    let (bytes, status) = finish(&mut client);
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(status, 0);
    assert!(text.starts_with("/dev/pts/0\r\n43 132\r\n"), "{text}");
    assert!(text.contains("\"cols\": 132"), "{text}");
}

#[test]
fn typed_input_control_characters_and_a_new_size_reach_the_terminal() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let mut client = daemon.client();
    client.send(&exec(&uuid, true, &["sh"]));
    let input = |bytes: &[u8]| ControllerToDaemon {
        command: Command::ContainerExecInput.into(),
        container_uuids: vec![uuid.clone()],
        exec_input: Some(bytes.to_vec()),
        ..Default::default()
    };
    client.send(&ControllerToDaemon {
        command: Command::ContainerExecResize.into(),
        container_uuids: vec![uuid.clone()],
        exec_cols: Some(99),
        exec_rows: Some(11),
        ..Default::default()
    });
    client.send(&input(b"stty size; sleep 1000\r"));
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("11 99\r\n") {
        seen.extend(client.reply().unwrap().exec_output.unwrap_or_default());
    }
    // Ctrl-C ends the sleep, Ctrl-D the shell.
    eventually("sleep", || {
        let output = daemon.control().ok(&["run", "web", "nopty", "ps"]);
        output.out.contains("sleep 1000").then_some(())
    });
    client.send(&input(b"\x03"));
    client.send(&input(b"echo interrup''ted\r"));
    // With the next prompt: before it the terminal is in another mode, in which Ctrl-D would get lost.
    let prompted = |seen: &[u8]| {
        let seen = String::from_utf8_lossy(seen);
        let rest = seen.split_once("interrupted\r\n");
        rest.is_some_and(|(_, rest)| rest.contains("# "))
    };
    while !prompted(&seen) {
        seen.extend(client.reply().unwrap().exec_output.unwrap_or_default());
    }
    client.send(&input(b"\x04"));
    finish(&mut client);
}

#[test]
fn a_session_ends_when_its_client_is_gone() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    for pty in [true, false] {
        let mut client = daemon.client();
        client.send(&exec(&uuid, pty, &["sleep", "4242"]));
        let sleeping = || {
            let output = daemon.control().ok(&["run", "web", "nopty", "ps"]);
            output.out.contains("sleep 4242")
        };
        eventually("the command", || sleeping().then_some(()));
        drop(client);
        eventually("its end", || (!sleeping()).then_some(()));
    }
}

#[test]
fn what_a_command_has_started_ends_with_its_client_too() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    for pty in [true, false] {
        for script in [
            "sleep 4242; true",
            "sleep 4242 & sleep 4243; true",
            // Becoming somebody else makes the kernel forget who is to die with whom.
            "su -s /bin/sh nobody -c 'sleep 4242; true'",
        ] {
            let mut client = daemon.client();
            client.send(&exec(&uuid, pty, &["sh", "-c", script]));
            let sleeping = || {
                let output = daemon.control().ok(&["run", "web", "nopty", "ps"]);
                output.out.contains("sleep 424")
            };
            eventually("the command", || sleeping().then_some(()));
            drop(client);
            eventually("its end", || (!sleeping()).then_some(()));
        }
    }
}

#[test]
fn the_end_of_input_at_a_terminal_is_heard_behind_an_unfinished_line() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    for line in ["abc", "abc\n"] {
        let words = ["run", "-t", "web", "sh", "-c", "stty -echo; cat; echo end"];
        let said = daemon.control().run_with(&words, line.as_bytes());
        assert!(said.out.ends_with("end\r\n"), "{said:?}");
    }
}

#[test]
fn several_sessions_of_a_container_do_not_wait_for_each_other() {
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let mut waiting = daemon
        .control()
        .command(&["run", "-T", "web", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.answers("web");
    drop(waiting.stdin.take());
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn a_stop_ends_the_sessions_of_its_container() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let mut client = daemon.client();
    client.send(&exec(&uuid, false, &["sleep", "1000"]));
    eventually("the command", || {
        let output = daemon.control().ok(&["run", "web", "nopty", "ps"]);
        output.out.contains("sleep 1000").then_some(())
    });
    daemon.control().ok(&["stop", "web"]);
    let (_, status) = finish(&mut client);
    assert!(status > 128, "{status}");
    daemon.wait_for("web", "STOPPED");
}

#[test]
fn a_stopped_container_runs_nothing() {
    let daemon = Daemon::default();
    daemon.create("name: \"web\"\nguest_os: \"busybox\"\n");
    let output = daemon.control().run(&["run", "web", "nopty", "true"]);
    assert_eq!(output.status, 126);
    assert!(output.err.contains("not running"), "{output:?}");
}

#[test]
fn a_hundred_megabytes_arrive_complete_and_a_reader_that_stops_costs_no_memory() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let bytes = 100_000_000;
    let mut reader = daemon.client();
    reader.send(&exec(&uuid, false, &["probe", "fill", &bytes.to_string()]));
    // It has begun.
    let mut first = reader.reply().unwrap().exec_output.unwrap();
    let before = daemon.resident_kib();
    // Nobody reads for a while; the command must be held back, not its output be collected.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let grown = daemon.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "grew by {grown} KiB");
    daemon.answers("web");
    let (rest, status) = finish(&mut reader);
    first.extend(rest);
    let received = first;
    assert_eq!((received.len(), status), (bytes, 0));
    let wrong = received
        .iter()
        .zip((0..=255_u8).cycle())
        .position(|(got, sent)| *got != sent);
    assert_eq!(wrong, None);
}

#[test]
fn a_hundred_megabytes_go_in_unchanged() {
    use sha2::{Digest, Sha256};
    let daemon = Daemon::default();
    daemon.running("web", "busybox");
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(100_000_000).collect();
    let sum = daemon
        .control()
        .run_with(&["run", "-T", "web", "sha256sum"], &bytes);
    let expected = hex::encode(Sha256::digest(&bytes));
    assert_eq!(sum.out.split(' ').next(), Some(expected.as_str()));
}

#[test]
fn a_terminal_that_nobody_reads_holds_its_command_back() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let mut client = daemon.client();
    client.send(&exec(&uuid, true, &["probe", "fill", "100000000"]));
    client.reply().unwrap().exec_output.unwrap();
    let before = daemon.resident_kib();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let grown = daemon.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "grew by {grown} KiB");
    daemon.answers("web");
    // Nor does it go on when its reader has gone.
    drop(client);
    eventually("its end", || {
        let output = daemon.control().ok(&["run", "web", "nopty", "ps"]);
        (!output.out.contains("fill 100000000")).then_some(())
    });
}

/// Sessions whose client goes without a word: LIF-12 asks for 1,000 (`CML_CYCLES`), which take half a minute here.
const ABORTED: usize = 200;

#[test]
fn aborted_sessions_leave_no_descriptor_anywhere() {
    let daemon = Daemon::default();
    let uuid = daemon.running("web", "busybox");
    let emulator = daemon.record(&uuid)["running"]["emulator"]["pid"].clone();
    let open = |pid: &str| {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    let all = || (open(&daemon.pid().to_string()), open(&emulator.to_string()));
    let abort = |round: usize| {
        let mut client = daemon.client();
        client.send(&exec(&uuid, round.is_multiple_of(2), &["sleep", "4343"]));
        if round.is_multiple_of(3) {
            daemon.answers("web");
        }
    };
    abort(0);
    daemon.answers("web");
    let before = all();
    (0..cycles(ABORTED)).for_each(abort);
    eventually("as many descriptors as before", || {
        let now = all();
        (now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
    let left = daemon.control().ok(&["run", "web", "nopty", "ps"]);
    assert!(!left.out.contains("sleep 4343"), "{left:?}");
}
