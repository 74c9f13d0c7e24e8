//! What `make install` puts where, for packagers and for the host itself.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use cml_integration::{
    eventually,
    kit::{kit, project},
};
use tempfile::TempDir;

/// The programs as `make programs` has built them, installed below a directory.
fn installed(prefix: &str) -> TempDir {
    let programs = tempfile::tempdir().unwrap();
    for program in [&kit().cmld, &kit().control, &kit().init] {
        let place = programs.path().join(program.file_name().unwrap());
        symlink(program, place).unwrap();
    }
    let dest = tempfile::tempdir().unwrap();
    let made = Command::new("make")
        .arg("-C")
        .arg(project())
        .arg("install")
        .arg(format!("DESTDIR={}", dest.path().display()))
        .arg(format!("PROGRAMS={}", programs.path().display()))
        .arg(format!("PREFIX={prefix}"))
        // Those of a make that runs the tests are not for this one.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    dest
}

/// Where a path of the installed system is before it is installed.
fn below(dest: &TempDir, path: &str) -> PathBuf {
    dest.path().join(path.trim_start_matches('/'))
}

/// The files of this name's end below a directory.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let found = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => files(&path, end),
        path => vec![path],
    });
    found
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect()
}

/// What the text links to, without other sites.
fn links(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1);
    let links = ends.filter_map(|rest| rest.split_once(')'));
    let links = links.map(|(link, _)| link.split('#').next().unwrap());
    links.filter(|link| !link.contains("://")).collect()
}

#[test]
fn a_daemon_finds_its_parts_below_the_prefix_it_was_installed_in() {
    let dest = installed("/usr/local");
    let at = |path: &str| below(&dest, &format!("/usr/local/{path}"));
    let dirs = tempfile::Builder::new().prefix("cml").tempdir().unwrap();
    let dir = |name: &str| dirs.path().join(name);
    fs::create_dir(dir("conf")).unwrap();
    fs::write(dir("conf/device.conf"), "hostedmode: true\n").unwrap();
    let mut daemon = Command::new("unshare");
    daemon.arg("--net").arg(at("sbin/cmld"));
    daemon.stderr(fs::File::create(dir("stderr")).unwrap());
    for part in ["base", "conf", "logs", "run"] {
        daemon.arg(format!("--{part}")).arg(dir(part));
    }
    let mut daemon = daemon.spawn().unwrap();
    let list = |program: &str| {
        let mut control = Command::new(at(program));
        control.arg("--socket").arg(dir("run/cml-control"));
        control.arg("list").output().unwrap().status.success()
    };
    eventually("an answer of the daemon", || {
        let ended = daemon.try_wait().unwrap();
        let said = || fs::read_to_string(dir("stderr"));
        assert!(ended.is_none(), "cmld has ended: {:?}", said());
        list("bin/control").then_some(())
    });
    assert!(list("bin/cml-control"), "by its other name");
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn the_unit_names_what_was_installed_and_lies_where_systemd_looks() {
    for (prefix, looked_into) in [("/usr", "/usr"), ("/opt/cml", "/usr/local")] {
        let dest = installed(prefix);
        let there = |path: &str| below(&dest, &format!("{looked_into}/lib/{path}"));
        assert!(there("sysusers.d/cml.conf").is_file());
        let unit = fs::read_to_string(there("systemd/system/cmld.service")).unwrap();
        assert!(!unit.contains('@'), "{unit}");
        for (setting, before) in [("ExecStart", ""), ("Documentation", "file:")] {
            let setting = format!("{setting}={before}");
            let value = unit.lines().find_map(|line| line.strip_prefix(&setting));
            let path = value.unwrap().split_whitespace().next().unwrap();
            assert!(path.starts_with(prefix), "{path}");
            assert!(below(&dest, path).is_file(), "{path} is not there");
        }
    }
}

#[test]
fn the_pages_lead_to_each_other() {
    let dest = installed("/usr");
    let pages = files(&below(&dest, "/usr/share/doc/cml"), ".md");
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let leads_to = page.with_file_name(link);
            assert!(leads_to.exists(), "{}: {link}", page.display());
        }
    }
}
