//! A guest that tries system calls by their numbers, with whatever arguments: for the tests of
//! `integration/tests/security`, which run it inside containers. It lives here because it needs unsafe code.
//!
//! Prints one JSON document: for every attempt its result, or the number of its error as a negative one.
#![allow(clippy::unwrap_used, missing_docs)] // a test program: a panic is a failed test

mod calls;
mod machine;
mod mounts;
mod news;
mod nodes;
mod races;
mod swaps;

use std::collections::BTreeMap;

use libc::c_long;

fn call(number: c_long, args: &[u64]) -> i64 {
    let at = |place: usize| args.get(place).copied().unwrap_or(0);
    // SAFETY: the attempts below hand over null pointers, or live buffers of sufficient size.
    let done = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    match done {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()),
        done => done,
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let report = match words.as_slice() {
        ["calls"] => calls::calls(),
        ["modules", files @ ..] => calls::modules(files),
        ["nodes", dir] => nodes::nodes(dir),
        ["clocks"] => machine::clocks(),
        ["sysinfo"] => machine::sysinfo(),
        ["race", "clock"] => races::race_clock(),
        ["race", "node", dir] => races::race_node(dir),
        ["hang", dir] => races::hang(dir),
        ["mounts"] => mounts::mounts(),
        ["swaps", dir, victim] => swaps::swaps(dir, victim),
        ["news", until] => news::news(until),
        _ => panic!(
            "usage: hostile calls | modules FILE... | nodes DIR | clocks | sysinfo | race clock | race node DIR | hang DIR | mounts | swaps DIR VICTIM | news PATH"
        ),
    };
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}

type Report = BTreeMap<String, i64>;
