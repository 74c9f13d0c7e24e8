//! Signals by name, and whether a process would notice one.

use std::fs;

/// The number of a signal as administrators write it: `SIGTERM`, `TERM`, `SIGRTMIN+3`, `37`.
pub fn by_name(name: &str) -> Option<i32> {
    let word = name.strip_prefix("SIG").unwrap_or(name);
    if let Ok(number) = word.parse() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    if let Some(offset) = word.strip_prefix("RTMIN") {
        let offset: i32 = match offset {
            "" => 0,
            offset => offset.strip_prefix('+')?.parse().ok()?,
        };
        let number = libc::SIGRTMIN().checked_add(offset)?;
        return (offset >= 0 && number <= libc::SIGRTMAX()).then_some(number);
    }
    Some(match word {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "KILL" => libc::SIGKILL,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "TERM" => libc::SIGTERM,
        "CONT" => libc::SIGCONT,
        "WINCH" => libc::SIGWINCH,
        "PWR" => libc::SIGPWR,
        _ => return None,
    })
}

/// Whether a process has a handler for a signal, or waits for it. The first process of a PID namespace
/// never gets a signal that it does neither for (pid_namespaces(7)).
pub fn is_awaited(pid: i32, signal: i32) -> bool {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}"));
    read("status").is_ok_and(|status| awaits(&status, signal))
        || read("syscall").is_ok_and(|call| is_waiting(&call))
}

/// sigwait(3) and its relatives: the kernel shows the signals that are waited for as neither blocked nor
/// caught meanwhile.
fn is_waiting(call: &str) -> bool {
    let number = call.split(' ').next().and_then(|word| word.parse().ok());
    number == Some(libc::SYS_rt_sigtimedwait)
}

fn awaits(status: &str, signal: i32) -> bool {
    let mask = |field: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigCgt:") | mask("SigBlk:")) & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        assert_eq!(by_name("SIGTERM"), Some(15));
        assert_eq!(by_name("USR2"), Some(12));
        assert_eq!(by_name("9"), Some(9));
        assert_eq!(by_name("SIGRTMIN+4"), Some(libc::SIGRTMIN() + 4));
        assert_eq!(by_name("SIGRTMIN"), Some(libc::SIGRTMIN()));
        for bad in ["", "SIG", "SIGRTMIN+99", "SIGRTMIN-1", "0", "65", "KILLALL"] {
            assert_eq!(by_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn handled_and_blocked_signals_are_awaited() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n\
            SigCgt:\t0000000000004000\n";
        assert!(awaits(status, 1) && awaits(status, 15));
        assert!(!awaits(status, 13) && !awaits(status, 2));
        assert!(!awaits("", 15));
        let call = format!("{} 0x7ffd 0x0", libc::SYS_rt_sigtimedwait);
        assert!(is_waiting(&call) && !is_waiting("running\n") && !is_waiting("0 0x0"));
    }
}
