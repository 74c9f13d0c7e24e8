//! Attempts that must fail.

use std::fs::{self, File, OpenOptions};

use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals};
use serde_json::{Value, json};

/// Tries to change the program behind every process that can be seen (SEC-01).
pub fn executables() -> Value {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Value::Array(numbers.map(executable).collect())
}

fn executable(pid: u32) -> Value {
    let path = format!("/proc/{pid}/exe");
    let link = fs::read_link(&path).ok();
    let opened = File::open(&path);
    let seals = opened
        .as_ref()
        .ok()
        .and_then(|file| fcntl_get_seals(file).ok());
    json!({
        "pid": pid,
        "link": link,
        "memfd": link.as_ref().is_some_and(|link| link.to_string_lossy().contains("memfd:")),
        "readable": opened.is_ok(),
        "sealed": seals.map(|seals| seals.contains(SealFlags::WRITE | SealFlags::SEAL)),
        "writable": OpenOptions::new().write(true).open(&path).is_ok(),
        "truncatable": OpenOptions::new().write(true).truncate(true).open(&path).is_ok(),
        "appendable": OpenOptions::new().append(true).open(&path).is_ok(),
        "seals_changed": opened.is_ok_and(|file| fcntl_add_seals(file, SealFlags::FUTURE_WRITE).is_ok()),
    })
}
