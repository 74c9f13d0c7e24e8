//! The probe: runs inside a guest, tries what it is told to and reports as one JSON document.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test program: a panic is a failed test
#![forbid(unsafe_code)]

mod attack;
mod audit;
mod facts;
mod guest;
mod hog;
mod report;

use std::{env, process::exit};

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["facts"] => println!("{:#}", facts::all()),
        ["report"] => println!("{:#}", report::report()),
        ["attack", "exe"] => println!("{:#}", attack::executables()),
        ["init", "service"] => guest::serve(true),
        ["init", "silent"] => guest::serve(false),
        ["init", "stubborn"] => guest::ignore_everything(),
        ["init", "exit", status] => exit(status.parse().unwrap()),
        ["audit", "fetch", most] => audit::fetch(most.parse().unwrap()),
        ["audit", "lie"] => audit::lie(),
        ["audit", "wait"] => audit::wait(),
        ["flood", "service"] => guest::flood(),
        ["hog", "forks"] => hog::forks(),
        ["hog", "memory"] => hog::memory(),
        ["hog", "files"] => hog::files(),
        ["hog", "groups"] => hog::groups(),
        ["fill", bytes] => guest::fill(bytes.parse().unwrap()),
        _ => {
            eprintln!(
                "usage: probe facts | report | attack exe | init service|silent|stubborn | init exit N | audit fetch N|lie|wait | flood service | hog forks|memory|files|groups | fill N"
            );
            exit(2);
        }
    }
}
