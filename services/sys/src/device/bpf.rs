//! The device filter of version 2: a BPF program on the container's group, generated from [`Rules`].
//!
//! The program is replaced by one call, so that there is never a moment without a filter and never one with
//! two (SEC-11). It stays with the group when the daemon dies.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::{
    Kind, Rules, Verdict,
    rules::{Access, Rule},
};
use crate::error::{Context, Result};

/// One instruction, `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones, on every architecture that is little-endian.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn step(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    #[cfg(target_endian = "little")]
    let registers = to | from << 4;
    #[cfg(target_endian = "big")]
    let registers = to << 4 | from;
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

// Operations of linux/bpf_common.h and linux/bpf.h: class, operation, and source (K: the immediate, X: a
// register).
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_W | BPF_MEM
const MOVE_K: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_X: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const AND_K: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT_K: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const JUMP_EQUAL_K: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_UNEQUAL_K: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// Registers: 0 is the verdict, 1 the context, 2 for this and that.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const SCRATCH: u8 = 2;
const KIND: u8 = 6;
/// The rights that are asked for and not decided yet.
const OPEN: u8 = 7;
const MAJOR: u8 = 8;
const MINOR: u8 = 9;

/// The program for these rules. It goes from the last verdict to the first: what one allows is no longer
/// open, and as soon as nothing is, the request is granted; one that denies something open ends it.
pub fn program(rules: &Rules) -> Vec<Instruction> {
    // `struct bpf_cgroup_dev_ctx`: rights and kind in one word, major, minor.
    let mut program = vec![
        step(LOAD_WORD, KIND, CONTEXT, 0, 0),
        step(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        step(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        step(MOVE_X, OPEN, KIND, 0, 0),
        step(SHIFT_RIGHT_K, OPEN, 0, 0, 16),
        step(AND_K, KIND, 0, 0, 0xffff),
    ];
    for verdict in rules.verdicts().iter().rev() {
        let then = match verdict {
            Verdict::Allow(rule) => allow(rule.access),
            Verdict::Deny(rule) => deny(rule.access),
        };
        program.extend(only_for(verdict.rule(), then));
    }
    program.extend(answer(false));
    program
}

fn answer(granted: bool) -> [Instruction; 2] {
    [
        step(MOVE_K, VERDICT, 0, 0, granted.into()),
        step(EXIT, 0, 0, 0, 0),
    ]
}

fn allow(access: Access) -> Vec<Instruction> {
    let left = i32::from(Access::ALL.without(access).bits());
    let mut then = vec![
        step(AND_K, OPEN, 0, 0, left),
        // Over the answer.
        step(JUMP_UNEQUAL_K, OPEN, 0, 2, 0),
    ];
    then.extend(answer(true));
    then
}

fn deny(access: Access) -> Vec<Instruction> {
    let mut then = vec![
        step(MOVE_X, SCRATCH, OPEN, 0, 0),
        step(AND_K, SCRATCH, 0, 0, access.bits().into()),
        step(JUMP_EQUAL_K, SCRATCH, 0, 2, 0),
    ];
    then.extend(answer(false));
    then
}

/// Puts before the steps the comparisons that jump over them for other devices.
fn only_for(rule: &Rule, then: Vec<Instruction>) -> Vec<Instruction> {
    let kind = rule.kind.map(|kind| match kind {
        // BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR
        Kind::Block => 1,
        Kind::Char => 2,
    });
    let wanted = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)];
    let mut steps = then;
    for (register, number) in wanted.into_iter().rev() {
        if let Some(number) = number {
            // At most ten steps, and numbers of 20 bits.
            let over = i16::try_from(steps.len()).unwrap_or(i16::MAX);
            let number = number.cast_signed();
            steps.insert(0, step(JUMP_UNEQUAL_K, register, 0, over, number));
        }
    }
    steps
}

/// The name of our programs, as `bpftool prog` shows it.
const NAME: &[u8; 12] = b"cml_devices\0";

/// Whether this kernel has such filters, and this process may make them.
pub fn is_available() -> bool {
    load(&answer(true)).is_ok()
}

/// Makes this program the filter of a group: the first one, or instead of the one before.
///
/// # Errors
/// The kernel has no BPF for device groups, or refused.
pub fn attach(group: impl AsFd, program: &[Instruction]) -> Result<()> {
    let group = group.as_fd();
    let program = load(program)?;
    let earlier = ours(group)?;
    let attributes = Attach {
        target_fd: raw(group),
        attach_bpf_fd: raw(program.as_fd()),
        attach_type: CGROUP_DEVICE,
        // Those of groups above and below ours apply as well.
        attach_flags: match earlier {
            Some(_) => ALLOW_MULTI | REPLACE,
            None => ALLOW_MULTI,
        },
        replace_bpf_fd: earlier.as_ref().map_or(0, |earlier| raw(earlier.as_fd())),
    };
    bpf(COMMAND_ATTACH, &attributes).context("attach", "device filter")?;
    Ok(())
}

/// How many filters of ours a group has.
///
/// # Errors
/// The kernel refused.
pub fn count(group: impl AsFd) -> Result<usize> {
    Ok(programs(group.as_fd())?.iter().filter(|one| one.1).count())
}

fn ours(group: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let programs = programs(group)?;
    Ok(programs.into_iter().find(|one| one.1).map(|one| one.0))
}

/// The programs of a group, and whether they are ours.
fn programs(group: BorrowedFd<'_>) -> Result<Vec<(OwnedFd, bool)>> {
    // The kernel takes no more than 64 in one group (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target_fd: raw(group),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        _padding: 0,
    };
    bpf_mut(COMMAND_QUERY, &mut query).context("ask for", "device filters")?;
    let mut found = Vec::new();
    for id in ids.into_iter().take(query.prog_cnt as usize) {
        let attributes = ById {
            id,
            next_id: 0,
            open_flags: 0,
        };
        let fd = bpf(COMMAND_FD_BY_ID, &attributes).context("open", "device filter")?;
        // SAFETY: the kernel has just made this descriptor for us.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let ours = name(&program)?.starts_with(NAME);
        found.push((program, ours));
    }
    Ok(found)
}

fn name(program: &OwnedFd) -> Result<[u8; 16]> {
    // SAFETY: plain numbers, for which zeros are valid.
    let mut info: Info = unsafe { std::mem::zeroed() };
    let mut attributes = InfoByFd {
        bpf_fd: raw(program.as_fd()),
        info_len: u32::try_from(size_of::<Info>()).unwrap_or(0),
        info: (&raw mut info) as u64,
    };
    bpf_mut(COMMAND_INFO, &mut attributes).context("inspect", "device filter")?;
    Ok(info.name)
}

fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let mut name = [0_u8; 16];
    name[..NAME.len()].copy_from_slice(NAME);
    let attributes = Load {
        prog_type: PROGRAM_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        // It calls no function of the kernel, so the licence only informs.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: name,
    };
    let fd = bpf(COMMAND_LOAD, &attributes).context("load", "device filter")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const COMMAND_LOAD: libc::c_int = 5;
const COMMAND_ATTACH: libc::c_int = 8;
const COMMAND_FD_BY_ID: libc::c_int = 13;
const COMMAND_INFO: libc::c_int = 15;
const COMMAND_QUERY: libc::c_int = 16;
const PROGRAM_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
/// Linux 5.6.
const REPLACE: u32 = 4;

// The parts of `union bpf_attr`, and the beginning of `struct bpf_prog_info`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct Info {
    _before: [u64; 8],
    name: [u8; 16],
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the commands given to this function only read the attributes, whose pointers are to live
    // memory of the lengths that stand beside them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    outcome(done)
}

fn bpf_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: as above; what the kernel writes goes into the attributes and into memory that they point
    // at, of the lengths that they give.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    outcome(done)
}

fn outcome(done: libc::c_long) -> io::Result<i32> {
    match done {
        ..0 => Err(io::Error::last_os_error()),
        // Descriptors fit.
        fd => Ok(i32::try_from(fd).unwrap_or(i32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            Device,
            rules::tests::{model, requests, verdict},
        },
        *,
    };

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], device: Device, access: Access) -> bool {
        let kind = match device.kind {
            Kind::Block => 1,
            Kind::Char => 2,
        };
        let context = [
            u32::from(access.bits()) << 16 | kind,
            device.major,
            device.minor,
        ];
        let mut registers = [0_u64; 10];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let number = i64::from(immediate).cast_unsigned();
            at += 1;
            let mut jump = |taken: bool| at += if taken { offset as usize } else { 0 };
            match code {
                LOAD_WORD => registers[to] = context[offset as usize / 4].into(),
                MOVE_K => registers[to] = number,
                MOVE_X => registers[to] = registers[from],
                AND_K => registers[to] &= number,
                SHIFT_RIGHT_K => registers[to] >>= number,
                JUMP_EQUAL_K => jump(registers[to] == number),
                JUMP_UNEQUAL_K => jump(registers[to] != number),
                EXIT => return registers[0] == 1,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn without_rules_everything_is_denied() {
        let program = program(&Rules::default());
        assert!(requests().all(|(device, access)| !run(&program, device, access)));
    }

    proptest! {
        #[test]
        fn the_program_decides_every_class_of_requests_as_the_rules_say(
            verdicts in prop::collection::vec(verdict(), 0..12),
        ) {
            let program = program(&verdicts.iter().copied().collect());
            for (device, access) in requests() {
                prop_assert_eq!(
                    run(&program, device, access),
                    model(&verdicts, device, access),
                    "{} {}", device, access
                );
            }
        }
    }
}
