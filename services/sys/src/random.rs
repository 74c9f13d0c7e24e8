//! Randomness for keys: the kernel's, and nothing before it is ready (crypto.md 9.2, number 16).

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Context, Result};

/// Fills the buffer; waits for a kernel that has just booted.
///
/// # Errors
/// The kernel has no such call.
pub fn fill(mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(length) => buffer = &mut buffer[length..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("get", "random bytes"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_byte_is_filled() {
        let mut sum = [0_u8; 64];
        // One byte stays zero in 16 rounds with a chance of 2^-128.
        for _ in 0..16 {
            let mut buffer = [0; 64];
            fill(&mut buffer).unwrap();
            sum.iter_mut()
                .zip(buffer)
                .for_each(|(sum, byte)| *sum |= byte);
        }
        assert!(sum.iter().all(|byte| *byte != 0));
    }
}
