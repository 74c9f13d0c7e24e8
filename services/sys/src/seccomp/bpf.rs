//! From rules to the kernel's filter program.

use super::{Action, Rule};

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7; // AUDIT_ARCH_AARCH64
#[cfg(target_arch = "riscv64")]
const NATIVE: u32 = 0xC000_00F3; // AUDIT_ARCH_RISCV64

/// The newest call that was looked at for the list: file_setattr of Linux 6.17. What a later kernel invents does
/// not exist for a guest until somebody has thought about it. x32 calls, which carry the native architecture and
/// bit 30, are above as well.
pub const NEWEST_CALL: u32 = 469;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct seccomp_data` of linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Goes on with the next step if it holds, else skips this many.
fn unless(code: u16, k: u32, skip: usize) -> libc::sock_filter {
    libc::sock_filter {
        // A rule has at most six tests of three steps.
        jf: u8::try_from(skip).unwrap_or(u8::MAX),
        ..step(code, k)
    }
}

fn result(action: Action) -> u32 {
    match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
    }
}

/// Where the lower half of an argument is, on a machine that stores it first.
fn argument(number: u8) -> u32 {
    ARGUMENTS + u32::from(number) * 8
}

/// The program. Calls of another architecture have other numbers and are refused as a whole, as if this kernel
/// could not do them; so there is no second way to a refused call (runtime.md 9, number 36).
pub fn compile(rules: &[Rule]) -> Vec<libc::sock_filter> {
    let absent = step(RETURN, result(Action::Refuse(libc::ENOSYS)));
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        libc::sock_filter {
            jt: 1,
            ..step(EQUAL, NATIVE)
        },
        absent,
        step(LOAD, NUMBER),
        unless(ABOVE, NEWEST_CALL, 1),
        absent,
    ];
    for rule in rules {
        let tests = rule.tests.iter();
        let length = 3 * tests.len() + 1;
        // The number is loaded again behind a rule that has loaded an argument over it.
        let restore = usize::from(length > 1);
        program.push(unless(EQUAL, rule.call, length + restore));
        for (done, test) in tests.enumerate() {
            program.push(step(LOAD, argument(test.argument)));
            program.push(step(AND, test.mask));
            program.push(unless(EQUAL, test.value, length - 3 * (done + 1)));
        }
        program.push(step(RETURN, result(rule.action)));
        if restore == 1 {
            program.push(step(LOAD, NUMBER));
        }
    }
    program.push(step(RETURN, result(Action::Allow)));
    program
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::seccomp::Test;

    /// What the kernel would do, in a few lines.
    fn interpret(program: &[libc::sock_filter], arch: u32, call: u32, args: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => call,
            ARCHITECTURE => arch,
            _ => {
                let place = (offset - ARGUMENTS) as usize;
                let bytes = args[place / 8].to_le_bytes();
                u32::from_le_bytes(bytes[place % 8..place % 8 + 4].try_into().unwrap())
            }
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let now = program[at];
            let jump = |holds: bool| usize::from(if holds { now.jt } else { now.jf });
            at += 1;
            match now.code {
                LOAD => value = load(now.k),
                AND => value &= now.k,
                EQUAL => at += jump(value == now.k),
                ABOVE => at += jump(value > now.k),
                RETURN => return now.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn model(rules: &[Rule], call: u32, args: [u64; 6]) -> Action {
        if call > NEWEST_CALL {
            return Action::Refuse(libc::ENOSYS);
        }
        let fits = |rule: &&Rule| {
            rule.call == call
                && rule.tests.iter().all(|test| {
                    let low = args[usize::from(test.argument)] as u32;
                    low & test.mask == test.value
                })
        };
        rules
            .iter()
            .find(fits)
            .map_or(Action::Allow, |rule| rule.action)
    }

    fn a_test() -> impl Strategy<Value = Test> {
        (0..6_u8, 0..4_u32, 0..4_u32).prop_map(|(argument, mask, value)| Test {
            argument,
            mask,
            value,
        })
    }

    fn a_rule() -> impl Strategy<Value = Rule> {
        let action = prop_oneof![
            Just(Action::Allow),
            Just(Action::Notify),
            (1..200).prop_map(Action::Refuse),
        ];
        (0..6_u32, proptest::collection::vec(a_test(), 0..4), action).prop_map(
            |(call, tests, action)| Rule {
                call,
                tests,
                action,
            },
        )
    }

    proptest! {
        #[test]
        fn the_program_does_what_the_rules_say(
            rules in proptest::collection::vec(a_rule(), 0..20),
            call in 0..8_u32,
            low in proptest::array::uniform6(0..4_u64),
            high in any::<u32>(),
        ) {
            // What is above the lower half of an argument changes nothing.
            let args = low.map(|low| low | u64::from(high) << 32);
            let said = interpret(&compile(&rules), NATIVE, call, args);
            prop_assert_eq!(said, result(model(&rules, call, args)));
        }

        #[test]
        fn what_is_newer_than_the_list_and_what_is_x32_does_not_exist(call in NEWEST_CALL + 1..) {
            let absent = result(Action::Refuse(libc::ENOSYS));
            prop_assert_eq!(interpret(&compile(&[]), NATIVE, call, [0; 6]), absent);
        }

        #[test]
        fn nothing_of_another_architecture_exists(
            arch in any::<u32>(),
            call in any::<u32>(),
            rules in proptest::collection::vec(a_rule(), 0..5),
        ) {
            prop_assume!(arch != NATIVE);
            let absent = result(Action::Refuse(libc::ENOSYS));
            prop_assert_eq!(interpret(&compile(&rules), arch, call, [0; 6]), absent);
        }
    }
}
