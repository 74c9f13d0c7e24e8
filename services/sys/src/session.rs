//! Sessions of processes: what a command has started and has not let go ends with it.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::proc;

/// How often is looked for what was started while the others were being killed. Each round kills all that the round
/// before has missed, so only what starts processes faster than we read names outlives so many.
const ROUNDS: usize = 100;

/// Kills every process of a session among those that are listed.
pub(crate) fn kill(session: i32, processes: impl Fn() -> Vec<i32>) {
    let belongs = |pid: &i32| proc::session(*pid) == Some(session);
    for _ in 0..ROUNDS {
        let members: Vec<_> = processes().into_iter().filter(belongs).collect();
        if members.is_empty() {
            return;
        }
        for pid in members {
            let handle = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
            // Looked at again through what cannot be somebody else's any more.
            if let Some(Ok(handle)) = handle
                && belongs(&pid)
            {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;

    /// Without the processes of others, which a test must not even look at.
    fn children_of(ancestor: i32) -> Vec<i32> {
        let mut all = vec![ancestor];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(
                text.split_whitespace()
                    .map(|pid| pid.parse::<i32>().unwrap()),
            );
            next += 1;
        }
        all
    }

    #[test]
    fn all_of_a_session_ends_and_nothing_else() {
        let script = "sleep 1000 & (sleep 1000 & exec sleep 1000) & setsid sleep 1000 & echo; wait";
        let mut shell = Command::new("setsid")
            .args(["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let leader = i32::try_from(shell.id()).unwrap();
        // Four in the shell's session, itself among them, and one that has left it by now.
        let is_set = |all: &[i32]| {
            let sessions: Vec<_> = all.iter().filter_map(|pid| proc::session(*pid)).collect();
            let inside = sessions.iter().filter(|session| **session == leader);
            (sessions.len(), inside.count()) == (5, 4)
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut all = children_of(leader);
        while !is_set(&all) && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
            all = children_of(leader);
        }
        kill(leader, || all.clone());
        shell.wait().unwrap();
        // Who is dead and not collected yet has a session still.
        let left: Vec<_> = all
            .into_iter()
            .filter(|pid| !proc::is_zombie(*pid))
            .filter_map(|pid| Some((pid, proc::session(pid)?)))
            .collect();
        assert!(
            matches!(left[..], [(pid, session)] if pid == session),
            "{left:?}"
        );
        rustix::process::kill_process(Pid::from_raw(left[0].0).unwrap(), Signal::KILL).unwrap();
    }
}
