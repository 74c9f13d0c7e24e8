//! Tests that `make test` leaves out, because they need another kernel, more time or a quiet machine.

use std::{fs, process::Command};

use cml_integration::kit::project;

#[test]
fn every_test_that_is_left_out_says_which_target_runs_it() {
    let makefile = fs::read_to_string(project().join("Makefile")).unwrap();
    let sources = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(project())
        .output()
        .unwrap();
    let sources = String::from_utf8(sources.stdout).unwrap();
    let marker = concat!("#[", "ignore");
    let mut seen = 0;
    for path in sources.lines() {
        let text = fs::read_to_string(project().join(path)).unwrap_or_default();
        for line in text.lines().filter(|line| line.trim().starts_with(marker)) {
            let target = line.split_once("make ").map(|(_, rest)| {
                let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
                &rest[..end.unwrap_or(rest.len())]
            });
            let runs = target.is_some_and(|target| makefile.contains(&format!("\n{target}: ")));
            assert!(runs, "{path}: {line}");
            seen += 1;
        }
    }
    assert!(seen > 0, "no test is left out: this test looks at nothing");
}
