//! Device nodes.

use std::ffi::CString;

use crate::{Report, call};

pub fn mknod(path: &str, mode: u32, major: u32, minor: u32) -> i64 {
    let path = CString::new(path).unwrap();
    let device = libc::makedev(major, minor);
    let args = [
        libc::AT_FDCWD as u64,
        path.as_ptr() as u64,
        mode.into(),
        device,
    ];
    call(libc::SYS_mknodat, &args)
}

/// Files of every kind in a directory, and whether the device that should work does.
pub fn nodes(dir: &str) -> Report {
    let attempts = [
        ("socket", libc::S_IFSOCK, 0, 0),
        ("pipe", libc::S_IFIFO, 0, 0),
        ("file", libc::S_IFREG, 0, 0),
        ("whiteout", libc::S_IFCHR, 0, 0),
        ("null", libc::S_IFCHR, 1, 3),
        ("zero", libc::S_IFCHR, 1, 5),
        ("memory", libc::S_IFCHR, 1, 1),
        ("log", libc::S_IFCHR, 1, 11),
        ("console", libc::S_IFCHR, 5, 1),
        ("block null", libc::S_IFBLK, 1, 3),
        ("loop", libc::S_IFBLK, 7, 0),
    ];
    let mut report: Report = attempts
        .into_iter()
        .map(|(name, kind, major, minor)| {
            let done = mknod(&format!("{dir}/{name}"), kind | 0o640, major, minor);
            (name.to_owned(), done)
        })
        .collect();
    let zero = std::fs::File::open(format!("{dir}/zero"));
    let read = zero.and_then(|mut zero| std::io::Read::read(&mut zero, &mut [1; 8]));
    report.insert(
        "bytes of zero".into(),
        read.map_or(-1, |count| count as i64),
    );
    report.insert(
        "null again".into(),
        mknod(&format!("{dir}/null"), libc::S_IFCHR, 1, 3),
    );
    report.insert(
        "nowhere".into(),
        mknod("/nowhere/null", libc::S_IFCHR, 1, 3),
    );
    report.insert(
        "no pointer".into(),
        call(
            libc::SYS_mknodat,
            &[
                libc::AT_FDCWD as u64,
                1,
                libc::S_IFCHR.into(),
                libc::makedev(1, 3),
            ],
        ),
    );
    // Relative to a descriptor, and by the older call.
    let open = std::fs::File::open(dir).unwrap();
    let args = |path: &CString| {
        let from = std::os::fd::AsRawFd::as_raw_fd(&open) as u64;
        [
            from,
            path.as_ptr() as u64,
            (libc::S_IFCHR | 0o600).into(),
            libc::makedev(1, 3),
        ]
    };
    let relative = CString::new("relative").unwrap();
    report.insert("relative".into(), call(libc::SYS_mknodat, &args(&relative)));
    let absent = CString::new("x").unwrap();
    report.insert(
        "bad descriptor".into(),
        call(
            libc::SYS_mknodat,
            &[
                77,
                absent.as_ptr() as u64,
                libc::S_IFCHR.into(),
                libc::makedev(1, 3),
            ],
        ),
    );
    report
}
