//! File systems that a guest mounts itself, by both ways that the kernel has.

use std::ffi::CString;

use crate::{Report, call};

/// What to mount, with its options.
const KINDS: &[(&str, &str)] = &[
    ("proc", ""),
    ("sysfs", ""),
    ("tmpfs", "size=64k"),
    ("ramfs", ""),
    ("devpts", "ptmxmode=0666"),
    ("mqueue", ""),
    ("cgroup2", ""),
    (
        "overlay",
        "lowerdir=/tmp/m/lower,upperdir=/tmp/m/upper,workdir=/tmp/m/work",
    ),
    // Those of the machine.
    ("devtmpfs", ""),
    ("debugfs", ""),
    ("tracefs", ""),
    ("securityfs", ""),
    ("configfs", ""),
    ("pstore", ""),
    ("cgroup", "none,name=guest"),
    // What the kernel would have to believe the guest's bytes for.
    ("ext4", ""),
    ("btrfs", ""),
    ("squashfs", ""),
    ("erofs", ""),
];

/// Mounts everything, by mount(2) and by fsopen(2), and takes it away again.
pub fn mounts() -> Report {
    for dir in ["at", "data"] {
        std::fs::create_dir_all(format!("/tmp/m/{dir}")).unwrap();
    }
    // An overlay takes no changes on another overlay, which the root is.
    let data = mount("tmpfs", "/tmp/m", "");
    for dir in ["at", "lower", "upper", "work", "tree/below"] {
        std::fs::create_dir_all(format!("/tmp/m/{dir}")).unwrap();
    }
    let mut report: Report = [("place".to_owned(), data)].into();
    for (kind, options) in KINDS {
        let done = mount(kind, "/tmp/m/at", options);
        if done == 0 {
            unmount("/tmp/m/at");
        }
        report.insert((*kind).to_owned(), done);
        report.insert(format!("{kind} by fsopen"), open(kind, options));
    }
    let bind = |flags| {
        let args = [
            c"/tmp/m/tree".as_ptr() as u64,
            c"/tmp/m/at".as_ptr() as u64,
            0,
            flags,
            0,
        ];
        call(libc::SYS_mount, &args)
    };
    report.insert("bind".into(), bind(libc::MS_BIND));
    report.insert(
        "bind, read-only".into(),
        bind(libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY),
    );
    unmount("/tmp/m/at");
    report
}

fn mount(kind: &str, at: &str, options: &str) -> i64 {
    let [kind, at, options] = [kind, at, options].map(|text| CString::new(text).unwrap());
    let args = [
        c"none".as_ptr() as u64,
        at.as_ptr() as u64,
        kind.as_ptr() as u64,
        0,
        options.as_ptr() as u64,
    ];
    call(libc::SYS_mount, &args)
}

fn unmount(at: &str) {
    let at = CString::new(at).unwrap();
    call(
        libc::SYS_umount2,
        &[at.as_ptr() as u64, libc::MNT_DETACH as u64],
    );
}

/// The file system by the newer calls, mounted nowhere; 0 or the first error.
fn open(kind: &str, options: &str) -> i64 {
    const SET_FLAG: u64 = 0;
    const SET_STRING: u64 = 1;
    const CREATE: u64 = 6;
    let text = CString::new(kind).unwrap();
    let context = call(libc::SYS_fsopen, &[text.as_ptr() as u64, 0]);
    if context < 0 {
        return context;
    }
    let context = context as u64;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let way = if value.is_empty() {
            SET_FLAG
        } else {
            SET_STRING
        };
        let [key, value] = [key, value].map(|text| CString::new(text).unwrap());
        let value = match way {
            SET_FLAG => 0,
            _ => value.as_ptr() as u64,
        };
        call(
            libc::SYS_fsconfig,
            &[context, way, key.as_ptr() as u64, value, 0],
        );
    }
    let made = call(libc::SYS_fsconfig, &[context, CREATE, 0, 0, 0]);
    let done = match made {
        0 => call(libc::SYS_fsmount, &[context, 0, 0]),
        error => error,
    };
    for descriptor in [done, context as i64] {
        if descriptor >= 0 {
            call(libc::SYS_close, &[descriptor as u64]);
        }
    }
    done.min(0)
}
