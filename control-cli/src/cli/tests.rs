#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::ffi::OsString;

use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = line.split_whitespace().map(OsString::from);
    Cli::try_parse_from(normalise(words))
}

fn key(line: &str) -> Option<Option<String>> {
    match parse(line).unwrap().command {
        Command::Start { key, .. } | Command::Stop { key, .. } => key
            .key
            .map(|value| value.map(|Secret(text)| text.to_string())),
        other => panic!("{other:?}"),
    }
}

fn run(line: &str) -> Run {
    match parse(line).unwrap().command {
        Command::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_way_to_give_a_key_is_understood() {
    let given = Some(Some("x".to_owned()));
    assert_eq!(key("control start c --key=x"), given);
    assert_eq!(key("control start c -kx"), given);
    assert_eq!(key("control start c -k=x"), given);
    assert_eq!(key("control start -kx c"), given);
    assert_eq!(key("control stop --key=x c"), given);
    assert_eq!(key("control start c --key="), Some(Some(String::new())));
    assert_eq!(key("control start c --key --setup"), Some(None));
    assert_eq!(key("control start -k c"), Some(None));
    assert_eq!(key("control start c"), None);
}

#[test]
fn a_key_is_never_printed() {
    let parsed = parse("control start c --key=geheim").unwrap();
    assert!(!format!("{parsed:?}").contains("geheim"));
}

#[test]
fn setup_has_a_short_form_after_the_command() {
    let cli = parse("control -s /x start c -s").unwrap();
    assert_eq!(cli.socket(), PathBuf::from("/x"));
    assert!(matches!(cli.command, Command::Start { setup: true, .. }));
}

#[test]
fn command_words_have_any_case_and_either_separator() {
    for line in [
        "control LIST_GUESTOS",
        "control --socket LIST list-guestos",
        "control --format json List_GuestOS",
    ] {
        assert!(matches!(parse(line).unwrap().command, Command::ListGuestos));
    }
}

#[test]
fn what_old_scripts_pass_for_nothing_is_ignored() {
    for line in [
        "control remove c --key=pw",
        "control remove --key c",
        "control wipe c -kpw",
        "control freeze c --key=",
        "control unfreeze c -k=pw",
        "control ifaces c --key=pw",
        "control allow-audio c -kpw",
        "control deny_audio c --key=pw",
        "control list c",
        "control list -s c d",
    ] {
        parse(line).expect(line);
    }
    assert!(matches!(
        parse("control list -s").unwrap().command,
        Command::List { system: true, .. }
    ));
}

#[test]
fn nothing_else_is_ignored() {
    for line in [
        "control list --json",
        "control remove a b",
        "control remove a --force",
        "control remove a --key=pw b",
        "control wipe a b",
        "control freeze a b",
        "control state a --key=pw",
        "control config a b",
        "control set_provisioned --dry-run",
        "control wipe_device now",
        "control reboot --force",
        "control destroy_system x",
        "control reload now",
        "control list_guestos x",
        "control ca_list -x",
        "control device_stats x",
        "control get_provisioned x",
        "control audit verify x",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn the_socket_is_named_before_or_after_the_command() {
    for line in [
        "control -s /x state c",
        "control state -s /x c",
        "control state c --socket=/x",
        "control wipe_device --socket /x -y",
        "control list --socket /x",
        "control list -s --socket /x",
        "control start c -s --socket /x",
        "control audit list -s /x",
        "control run -s /x c ls -s /y",
    ] {
        assert_eq!(parse(line).expect(line).socket(), PathBuf::from("/x"));
    }
}

#[test]
fn an_interface_is_named_before_or_after_its_container() {
    for line in [
        "control assign_iface --iface eth1 c --persistent",
        "control assign_iface c --iface eth1 -p",
        "control assign-iface -p c -ieth1",
        "control ASSIGN_IFACE --iface=eth1 -p c",
    ] {
        match parse(line).unwrap().command {
            Command::AssignIface(given) => {
                assert_eq!((&*given.container, &*given.iface), ("c", "eth1"), "{line}");
                assert!(given.persistent);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn wrong_usage_is_status_2_and_help_is_0() {
    for line in [
        "control",
        "control bogus",
        "control start",
        "control start c --bogus",
        "control create",
        "control assign_iface c",
        "control unassign_iface --iface eth1",
        "control create c.conf c.sig",
        "control run c",
        "control run -e novalue c ls",
        "control run -t -T c ls",
        "control --format xml list",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let help = parse("control --help").unwrap_err();
    assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    assert_eq!(help.exit_code(), 0);
}

#[test]
fn the_command_of_run_keeps_its_own_options() {
    let run = run("control run -e A=1 -w /srv -u web -e B=2 c ls -e -T -u --pty x");
    assert_eq!(run.env, ["A=1", "B=2"]);
    assert_eq!(run.workdir.as_deref(), Some("/srv"));
    assert_eq!(run.user.as_deref(), Some("web"));
    let (wish, argv) = run.split();
    assert_eq!(wish, PtyWish::Unsaid);
    assert_eq!(argv, ["ls", "-e", "-T", "-u", "--pty", "x"]);
}

#[test]
fn nopty_counts_only_before_a_command() {
    let split = |line| {
        let run = run(line);
        let (wish, argv) = run.split();
        (wish, argv.join(" "))
    };
    assert_eq!(
        split("control run c nopty ls -l"),
        (PtyWish::No, "ls -l".into())
    );
    assert_eq!(
        split("control run c nopty"),
        (PtyWish::Unsaid, "nopty".into())
    );
    assert_eq!(
        split("control run c ls nopty"),
        (PtyWish::Unsaid, "ls nopty".into())
    );
    assert_eq!(split("control run -T c ls"), (PtyWish::No, "ls".into()));
    assert_eq!(split("control run -t c ls"), (PtyWish::Yes, "ls".into()));
}
