//! `make bench`: how long things take and how much memory they need, next to `crun` and `runc` on the same
//! root file system in the same run. Numbers of a busy machine say little; the ratios say something.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a measuring program: a panic is its error message
#![forbid(unsafe_code)]

mod install;
mod ours;
mod runtime;
mod table;

use std::env;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        // Run again by itself, in another mount namespace (`runtime::measure`).
        ["runtime", program, bundle] => runtime::report(program, bundle),
        ["install"] => table::print_install(&install::measure()),
        _ => {
            table::print(&ours::measure());
            table::print_install(&install::measure());
        }
    }
}
