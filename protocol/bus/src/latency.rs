//! How long calls take: one histogram per message, in powers of two of a microsecond.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Buckets 0..=23: below 1 us, 2 us, 4 us … 8 s and more.
pub const BUCKETS: usize = 24;

static HISTOGRAMS: Mutex<BTreeMap<&'static str, [u64; BUCKETS]>> = Mutex::new(BTreeMap::new());

fn bucket(elapsed: Duration) -> usize {
    let micros = elapsed.as_micros().min(u128::from(u64::MAX)) as u64;
    (u64::BITS - micros.leading_zeros()).min(BUCKETS as u32 - 1) as usize
}

/// Counts one call of `message`.
pub fn record(message: &'static str, elapsed: Duration) {
    let mut all = HISTOGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(message).or_insert([0; BUCKETS])[bucket(elapsed)] += 1;
}

/// All histograms so far, by message name.
pub fn snapshot() -> BTreeMap<&'static str, [u64; BUCKETS]> {
    HISTOGRAMS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_a_bucket() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_micros(1)), 1);
        assert_eq!(bucket(Duration::from_micros(3)), 2);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
