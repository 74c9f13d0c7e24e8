//! What the kernel tells of devices in this network namespace.

use std::time::{Duration, Instant};

use crate::{Report, call};

/// How long news are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Listens until something happens to the device at this path of sysfs. Reports how often something happened to
/// each, by `action@path`, and how many of the messages were not the kernel's, or had no number.
pub fn news(until: &str) -> Report {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK;
    // NETLINK_KOBJECT_UEVENT
    let socket = call(
        libc::SYS_socket,
        &[libc::AF_NETLINK as u64, kind as u64, 15],
    );
    // SAFETY: all-zero is valid for numbers; the address is live for the call.
    let bound = unsafe {
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        // The group of the kernel itself.
        address.nl_groups = 1;
        let size = size_of::<libc::sockaddr_nl>();
        call(
            libc::SYS_bind,
            &[socket as u64, &raw const address as u64, size as u64],
        )
    };
    let mut report: Report = [("bound", bound), ("forged", 0), ("without a number", 0)]
        .map(|(name, done)| (name.to_owned(), done))
        .into();
    ready();
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0_u8; 8192];
    while Instant::now() < end {
        // SAFETY: all-zero is valid for numbers; both buffers are live for the call.
        let (length, from) = unsafe {
            let mut from: libc::sockaddr_nl = std::mem::zeroed();
            let mut size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            let args = [
                socket as u64,
                buffer.as_mut_ptr() as u64,
                buffer.len() as u64,
                0,
                &raw mut from as u64,
                &raw mut size as u64,
            ];
            (call(libc::SYS_recvfrom, &args), from.nl_pid)
        };
        let Ok(length) = usize::try_from(length) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let numbered = text.split('\0').any(|part| part.starts_with("SEQNUM="));
        let head = text.split('\0').next().unwrap_or_default().to_owned();
        let mut count = |name: &str| *report.entry(name.to_owned()).or_default() += 1;
        if from != 0 {
            count("forged");
        }
        if !numbered {
            count("without a number");
        }
        let over = head.ends_with(until);
        count(&head);
        if over {
            break;
        }
    }
    report
}

/// For who waits until somebody listens.
fn ready() {
    std::fs::write("/run/hostile.listens", "").unwrap();
}
