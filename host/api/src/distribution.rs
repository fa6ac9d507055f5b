//! Histograms of durations. Adding a duration is cheap for busy threads; reading may be slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; another bucket follows the last bound. They range from a sync of a
/// fast disk to the deadline of a built-in size.
pub const BOUNDS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The number of durations in each bucket, and their sum. Adding one takes two atomic additions.
#[derive(Debug, Default)]
pub struct Distribution {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Distribution {
    /// Counts a duration.
    pub fn add(&self, duration: Duration) {
        let bucket = BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < duration);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Returns the counts so far. A duration that is added meanwhile may be in the sum and not yet in a bucket, or the
    /// reverse.
    #[must_use]
    pub fn read(&self) -> Spread {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed));
        Spread { buckets, sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)) }
    }
}

/// The counts of a [`Distribution`] at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// The number of durations up to each of [`BOUNDS_US`] and above the bound before it; the last bucket has the
    /// longer ones.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// The sum of all durations.
    pub sum: Duration,
}

impl Spread {
    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_bucket_that_it_does_not_exceed() {
        let distribution = Distribution::default();
        assert_eq!(distribution.read(), Spread::default());
        for us in [0, 50, 51, 10_000_000, 10_000_001, 60_000_000] {
            distribution.add(Duration::from_micros(us));
        }
        let spread = distribution.read();
        assert_eq!((spread.count(), spread.sum), (6, Duration::from_micros(80_000_102)));
        assert_eq!((spread.buckets[0], spread.buckets[1]), (2, 1));
        assert_eq!(spread.buckets[BOUNDS_US.len() - 1..], [1, 2]);
        assert!(BOUNDS_US.is_sorted());
    }
}
