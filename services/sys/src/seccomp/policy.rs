//! The list: what no guest may do, and what is done for it (SEC-13, runtime.md 2.6 and 9, number 36).
//!
//! A guest is a whole operating system, so everything that a capability or a namespace confines is left to the
//! kernel. Refused is what acts on, or tells about, the whole machine, and what a guest can do without but that
//! has let many a guest out.

use serde::{Deserialize, Serialize};

use super::{Action, Rule, Test};

/// What a container's configuration says about system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allowances {
    /// Root in it is not the host's: what only the host's root may do can be done for it.
    pub user_namespace: bool,
    /// It may load kernel modules (`allow_module`).
    pub modules: bool,
    /// It may set the clock of the machine (`allow_system_time`).
    pub set_time: bool,
}

/// Refused as if the guest lacked the right. Most ask for a capability that no guest has in the kernel's eyes;
/// they are here as well, so that a mistake about that capability is not a way out.
const FORBIDDEN: &[libc::c_long] = &[
    // Another kernel, and code in this one.
    libc::SYS_kexec_load,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // The whole machine.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    SYS_QUOTACTL_FD,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    // The kernel's log: without `dmesg_restrict` the kernel shows it to everybody.
    libc::SYS_syslog,
];

/// The same number everywhere; not in every libc.
const SYS_QUOTACTL_FD: libc::c_long = 443;

/// Refused as if the kernel did not have it: programs then do without. Keyrings are not separated by
/// containers but only by users; the other two have let more guests out than anything else.
const ABSENT: &[libc::c_long] = &[
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
];

/// Families of sockets that do not exist for a guest: the kernel's crypto (CVE-2026-31431), and the machine's
/// hypervisor, whose addresses no namespace separates.
const ABSENT_FAMILIES: &[libc::c_int] = &[libc::AF_ALG, libc::AF_VSOCK];

/// Setting a clock.
const SET_TIME: &[libc::c_long] = &[
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// Calls that make a node, each with the place of its mode; the device number is behind it.
const MAKE_NODE: &[(libc::c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
];

fn number(call: libc::c_long) -> u32 {
    // Numbers of system calls are small and positive.
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn always(call: libc::c_long, action: Action) -> Rule {
    Rule {
        call: number(call),
        tests: Vec::new(),
        action,
    }
}

/// The rules for a container; commands in it get the same (runtime.md 9, number 25).
pub fn rules(allowances: Allowances) -> Vec<Rule> {
    let mut rules = vec![always(libc::SYS_sysinfo, Action::Notify)];
    if allowances.modules {
        rules.push(always(libc::SYS_finit_module, Action::Notify));
    }
    if allowances.set_time && allowances.user_namespace {
        rules.extend(SET_TIME.iter().map(|call| always(*call, Action::Notify)));
    }
    if allowances.user_namespace {
        rules.extend(
            MAKE_NODE
                .iter()
                .flat_map(|(call, mode)| nodes(*call, *mode)),
        );
    }
    if !allowances.user_namespace {
        rules.extend(no_user_namespaces());
    }
    let refuse = |errno| move |call: &libc::c_long| always(*call, Action::Refuse(errno));
    rules.extend(FORBIDDEN.iter().map(refuse(libc::EPERM)));
    rules.extend(ABSENT.iter().map(refuse(libc::ENOSYS)));
    rules.extend(ABSENT_FAMILIES.iter().map(|family| Rule {
        call: number(libc::SYS_socket),
        tests: vec![Test {
            argument: 0,
            mask: u32::MAX,
            value: family.cast_unsigned(),
        }],
        action: Action::Refuse(libc::EAFNOSUPPORT),
    }));
    rules
}

/// A user namespace would give the host's root all that it lacks (docs/adr/0005-capabilities.md): rights over mounts,
/// networks and filters of its own making, and with them that much more of the kernel to attack. The flags of clone3(2)
/// are in memory, where no filter sees them; programs then use clone(2).
fn no_user_namespaces() -> [Rule; 3] {
    let made_by = |call| Rule {
        call: number(call),
        tests: vec![Test {
            argument: 0,
            mask: libc::CLONE_NEWUSER.cast_unsigned(),
            value: libc::CLONE_NEWUSER.cast_unsigned(),
        }],
        action: Action::Refuse(libc::EPERM),
    };
    [
        made_by(libc::SYS_unshare),
        made_by(libc::SYS_clone),
        always(libc::SYS_clone3, Action::Refuse(libc::ENOSYS)),
    ]
}

/// Device nodes are made for the guest; everything else, sockets among it, it makes itself (runtime.md 9,
/// number 10), and so the mark of a deleted file in an overlay, which is device 0:0.
fn nodes(call: libc::c_long, mode: u8) -> [Rule; 3] {
    let of_kind = |kind: libc::mode_t| Test {
        argument: mode,
        mask: libc::S_IFMT,
        value: kind,
    };
    let rule = |tests, action| Rule {
        call: number(call),
        tests,
        action,
    };
    let whiteout = Test {
        argument: mode + 1,
        mask: u32::MAX,
        value: 0,
    };
    [
        rule(vec![of_kind(libc::S_IFCHR), whiteout], Action::Allow),
        rule(vec![of_kind(libc::S_IFCHR)], Action::Notify),
        rule(vec![of_kind(libc::S_IFBLK)], Action::Notify),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(allowances: Allowances, call: libc::c_long, args: &[u32]) -> Action {
        let fits = |rule: &&Rule| {
            let holds = |test: &Test| args[usize::from(test.argument)] & test.mask == test.value;
            rule.call == number(call) && rule.tests.iter().all(holds)
        };
        let rules = rules(allowances);
        rules
            .iter()
            .find(fits)
            .map_or(Action::Allow, |rule| rule.action)
    }

    const CONFINED: Allowances = Allowances {
        user_namespace: true,
        modules: false,
        set_time: false,
    };

    #[test]
    fn sockets_are_refused_by_family() {
        let socket =
            |family: i32| action(CONFINED, libc::SYS_socket, &[family.cast_unsigned(), 5, 0]);
        for family in [libc::AF_ALG, libc::AF_VSOCK] {
            assert_eq!(socket(family), Action::Refuse(libc::EAFNOSUPPORT));
        }
        for family in [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
        ] {
            assert_eq!(socket(family), Action::Allow);
        }
    }

    #[test]
    fn only_device_nodes_are_made_by_somebody_else() {
        let make =
            |mode: u32, device: u32| action(CONFINED, libc::SYS_mknodat, &[0, 0, mode, device]);
        for kind in [libc::S_IFCHR, libc::S_IFBLK] {
            assert_eq!(make(kind | 0o666, 0x103), Action::Notify);
        }
        for kind in [libc::S_IFREG, libc::S_IFSOCK, libc::S_IFIFO, 0] {
            assert_eq!(make(kind | 0o666, 0x103), Action::Allow);
        }
        assert_eq!(make(libc::S_IFCHR, 0), Action::Allow);
        assert_eq!(make(libc::S_IFBLK, 0), Action::Notify);
        let open = Allowances::default();
        let plain = action(open, libc::SYS_mknodat, &[0, 0, libc::S_IFCHR, 0x103]);
        assert_eq!(plain, Action::Allow);
    }

    #[test]
    fn the_hosts_root_gets_no_namespace_in_which_it_may_do_more() {
        let root = Allowances {
            user_namespace: false,
            ..CONFINED
        };
        let user = libc::CLONE_NEWUSER.cast_unsigned();
        let mounts = libc::CLONE_NEWNS.cast_unsigned();
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            for flags in [user, user | mounts] {
                assert_eq!(action(root, call, &[flags]), Action::Refuse(libc::EPERM));
                assert_eq!(action(CONFINED, call, &[flags]), Action::Allow);
            }
            assert_eq!(action(root, call, &[mounts]), Action::Allow);
        }
        assert_eq!(
            action(root, libc::SYS_clone3, &[]),
            Action::Refuse(libc::ENOSYS)
        );
        assert_eq!(action(CONFINED, libc::SYS_clone3, &[]), Action::Allow);
    }

    #[test]
    fn modules_and_clocks_are_for_those_who_may() {
        let may = Allowances {
            modules: true,
            set_time: true,
            ..CONFINED
        };
        let load = |allowances| action(allowances, libc::SYS_finit_module, &[]);
        assert_eq!(load(CONFINED), Action::Refuse(libc::EPERM));
        assert_eq!(load(may), Action::Notify);
        // Never the call that takes the module from the guest's own memory.
        for call in [libc::SYS_init_module, libc::SYS_delete_module] {
            assert_eq!(action(may, call, &[]), Action::Refuse(libc::EPERM));
        }
        for call in SET_TIME {
            // The kernel refuses it by itself.
            assert_eq!(action(CONFINED, *call, &[]), Action::Allow);
            assert_eq!(action(may, *call, &[]), Action::Notify);
        }
    }

    #[test]
    fn what_no_guest_needs_is_refused_to_all() {
        for user_namespace in [true, false] {
            let allowances = Allowances {
                user_namespace,
                ..CONFINED
            };
            for call in FORBIDDEN {
                assert_eq!(action(allowances, *call, &[]), Action::Refuse(libc::EPERM));
            }
            for call in ABSENT {
                assert_eq!(action(allowances, *call, &[]), Action::Refuse(libc::ENOSYS));
            }
        }
    }
}
