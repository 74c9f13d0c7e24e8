//! Loading kernel modules, for containers with `allow_module` (runtime.md 2.5, 2.6).
//!
//! The guest says which one by its file; what is loaded is the host's own file of that name, without parameters,
//! and only where the kernel insists on signed modules.

use std::{ffi::CStr, fs, os::fd::AsRawFd, path::Path};

use cml_sys::seccomp::notify::Call;
use rustix::fs::OFlags;

use super::{
    Emulation, Outcome, SYS_MODULE,
    caller::{Caller, last_error},
};

/// `Y` where the kernel loads nothing that is not signed.
const SIGNATURES: &str = "/sys/module/module/parameters/sig_enforce";
/// MODULE_INIT_COMPRESSED_FILE of linux/module.h.
const COMPRESSED: libc::c_int = 4;
const SUFFIXES: [&str; 3] = [".gz", ".xz", ".zst"];

pub(crate) fn emulate(emulation: &Emulation, caller: &Caller<'_>, call: &Call) -> Outcome {
    emulation.has(caller, SYS_MODULE)?;
    if !fs::read_to_string(SIGNATURES).is_ok_and(|text| text.starts_with('Y')) {
        return Err(libc::EPERM);
    }
    // The kernel takes an `int`.
    let file = caller.open(&format!("fd/{}", call.args[0] as i32), OFlags::PATH)?;
    let shown = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let shown = shown.map_err(|_| libc::EBADF)?;
    let wanted = module_name(&shown.to_string_lossy());
    let release = rustix::system::uname();
    let modules = Path::new("/lib/modules").join(&*release.release().to_string_lossy());
    let list = fs::read_to_string(modules.join("modules.dep")).map_err(|_| libc::ENOENT)?;
    let file = find(&list, &emulation.plan.modules, &wanted).ok_or(libc::EPERM)?;
    let flags = match SUFFIXES.iter().any(|suffix| file.ends_with(suffix)) {
        true => COMPRESSED,
        false => 0,
    };
    let file = fs::File::open(modules.join(file)).map_err(|_| libc::ENOENT)?;
    let parameters: &CStr = c"";
    // SAFETY: an open file and a text that ends; nothing else is handed over.
    let done = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            flags,
        )
    };
    match done {
        0 => Ok(0),
        _ => Err(last_error()),
    }
}

/// The name of a module by its file, as the kernel shows it: `-` and `_` are the same.
fn module_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.split(".ko").next().unwrap_or_default();
    name.replace('-', "_")
}

/// The host's file of a module that is allowed, or needed by one that is: `modules.dep` has on each line a
/// module and everything it needs.
fn find<'a>(list: &'a str, allowed: &[String], wanted: &str) -> Option<&'a str> {
    let allowed: Vec<_> = allowed.iter().map(|name| module_name(name)).collect();
    list.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(file, _)| allowed.contains(&module_name(file)))
        .flat_map(|(file, needs)| std::iter::once(file).chain(needs.split_whitespace()))
        .find(|file| module_name(file) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "kernel/fs/ext-four.ko.xz: kernel/lib/crc16.ko kernel/fs/mbcache.ko\n\
                        kernel/lib/crc16.ko:\nkernel/fs/mbcache.ko:\nkernel/net/other.ko: kernel/lib/crc16.ko\n";

    #[test]
    fn an_allowed_module_brings_what_it_needs_and_nothing_else() {
        let allowed = ["ext_four".to_owned()];
        let find = |wanted| find(LIST, &allowed, wanted);
        assert_eq!(find("ext_four"), Some("kernel/fs/ext-four.ko.xz"));
        assert_eq!(find("crc16"), Some("kernel/lib/crc16.ko"));
        assert_eq!(find("other"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn the_guest_names_a_module_by_any_path_that_ends_in_it() {
        let names = [
            "/lib/modules/6.1/kernel/fs/ext-four.ko.zst",
            "ext_four.ko",
            "ext-four",
        ];
        assert!(names.iter().all(|name| module_name(name) == "ext_four"));
        assert_eq!(module_name("/"), "");
    }
}
