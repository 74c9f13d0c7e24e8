//! Who a command runs as: a user of the guest, as its own files name them.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd},
};

use cml_sys::error::{Context, Error, Result};
use rustix::fs::{FileType, Mode, OFlags, fstat};

/// The most that is read of a file of the guest: enough for tens of thousands of users.
const FILE_MAX: u64 = 1 << 20;

/// A user with everything that becoming one takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// The home directory.
    pub(crate) home: String,
}

impl User {
    /// A user by `name` or `uid`, each with an optional `:group` or `:gid`, as in the guest's own files.
    pub(crate) fn find(wanted: &str) -> Result<Self> {
        let (users, groups) = (read("/etc/passwd")?, read("/etc/group")?);
        resolve(wanted, &users, &groups).map_err(|why| Error::invalid("become user", wanted, why))
    }

    /// Becomes the user, and gives it the streams, as login(1) does with a terminal: programs open `/dev/stderr` too.
    pub(crate) fn become_it(&self, streams: &[BorrowedFd<'_>]) -> Result<()> {
        for stream in streams {
            // SAFETY: an open descriptor and plain numbers; -1 keeps the group.
            let done = unsafe { libc::fchown(stream.as_raw_fd(), self.uid, libc::gid_t::MAX) };
            check(done == 0, "give its streams to", self.uid)?;
        }
        // SAFETY: the list is live and as long as said; plain numbers otherwise. The kernel takes all rights of
        // root away with the last call.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid) == 0
                && libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) == 0
        };
        check(done, "become user", self.uid)
    }
}

fn check(done: bool, action: &'static str, subject: u32) -> Result<()> {
    match done {
        true => Ok(()),
        false => Err(io::Error::last_os_error()).context(action, subject),
    }
}

/// A file of the guest; one that is missing is empty. Neither a pipe nor a device can hold us up.
fn read(path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        other => other.context("open", path)?,
    };
    let mode = fstat(&file).context("inspect", path)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Error::invalid("read", path, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    let mut file = File::from(file).take(FILE_MAX);
    file.read_to_end(&mut bytes).context("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve(wanted: &str, users: &str, groups: &str) -> std::result::Result<User, &'static str> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    // passwd(5): name, password, uid, gid, comment, home. A number that is somebody's name is that name.
    let entries = || users.lines().map(fields);
    let by_name = entries().find(|entry| !user.is_empty() && entry[0] == user);
    let uid = number(user);
    let entry = by_name.or_else(|| {
        let is = |entry: &[&str; 6]| uid.is_some() && number(entry[2]) == uid;
        entries().find(is)
    });
    let (uid, mut gid, home, name) = match (entry, uid) {
        (Some([name, _, uid, gid, _, home]), _) => (
            number(uid).ok_or("its entry in /etc/passwd has no number")?,
            number(gid).ok_or("its entry in /etc/passwd has no group")?,
            home,
            Some(name),
        ),
        (None, Some(uid)) => (uid, 0, "/", None),
        (None, None) => return Err("there is no such user in its /etc/passwd"),
    };
    // group(5): name, password, gid, members.
    let entries = || groups.lines().map(fields);
    if let Some(group) = group {
        let named = entries().find(|entry| !group.is_empty() && entry[0] == group);
        let text = named.map_or(group, |entry| entry[2]);
        gid = number(text).ok_or("there is no such group in its /etc/group")?;
    }
    let mut all = vec![gid];
    // Who names a group wants that one.
    if let (Some(name), None) = (name, group) {
        let member = |entry: &[&str; 6]| entry[3].split(',').any(|member| member == name);
        all.extend(
            entries()
                .filter(member)
                .filter_map(|entry| number(entry[2])),
        );
    }
    all.sort_unstable();
    all.dedup();
    Ok(User {
        uid,
        gid,
        groups: all,
        home: match home {
            "" => "/".to_owned(),
            home => home.to_owned(),
        },
    })
}

/// The number of a user or group. -1 is none: setresuid(2) and its like would leave root as it is (CVE-2019-14287).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn fields(line: &str) -> [&str; 6] {
    let mut fields = line.trim_end().split(':');
    std::array::from_fn(|_| fields.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/false\n42:x:7:8::/seven:\n\
                         broken\nnohome:x:50:50:::\n";
    const GROUPS: &str = "root:x:0:\nweb:x:34:\nmail:x:8:web,root\nlog:x:9:web\n:x:0:\n";

    fn found(wanted: &str) -> std::result::Result<User, &'static str> {
        resolve(wanted, USERS, GROUPS)
    }

    fn user(
        uid: u32,
        gid: u32,
        groups: &[u32],
        home: &str,
    ) -> std::result::Result<User, &'static str> {
        Ok(User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        })
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_its_groups() {
        assert_eq!(found("web"), user(33, 34, &[8, 9, 34], "/srv"));
        assert_eq!(found("33"), user(33, 34, &[8, 9, 34], "/srv"));
        assert_eq!(found("nohome"), user(50, 50, &[50], "/"));
        // A name that looks like a number is a name.
        assert_eq!(found("42"), user(7, 8, &[8], "/seven"));
    }

    #[test]
    fn a_group_can_be_said_and_a_number_need_not_be_known() {
        assert_eq!(found("web:log"), user(33, 9, &[9], "/srv"));
        assert_eq!(found("web:1000"), user(33, 1000, &[1000], "/srv"));
        assert_eq!(found("1000"), user(1000, 0, &[0], "/"));
        assert_eq!(found("1000:1000"), user(1000, 1000, &[1000], "/"));
    }

    #[test]
    fn nobody_is_nobody() {
        for wanted in [
            "",
            ":",
            "ghost",
            "-1",
            "broken",
            "web:ghost",
            ":0",
            "4294967295",
            "0:4294967295",
            "all",
            "4294967296",
        ] {
            assert!(found(wanted).is_err(), "{wanted:?}");
        }
    }
}
