//! The programs as they were built.

use std::fs;

use cml_integration::kit::kit;

/// Type of a program header that names a dynamic loader (elf(5), PT_INTERP).
const PT_INTERP: u32 = 3;

/// Types of the program headers of a 64-bit little-endian ELF file.
fn headers(elf: &[u8]) -> Vec<u32> {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01");
    let word = |at: usize, length: usize| {
        let bytes = elf[at..at + length].iter().rev();
        bytes.fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, size, count) = (word(32, 8), word(54, 2), word(56, 2));
    (0..count)
        .map(|index| u32::try_from(word(table + index * size, 4)).unwrap())
        .collect()
}

#[test]
fn what_runs_in_a_container_needs_nothing_of_the_container() {
    let elf = fs::read(&kit().init).unwrap();
    assert!(!headers(&elf).contains(&PT_INTERP));
    let elf = fs::read(&kit().control).unwrap();
    assert!(headers(&elf).contains(&PT_INTERP), "the test itself works");
}
