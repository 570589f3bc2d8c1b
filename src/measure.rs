//! What rooms count with: numbers that are read when somebody asks, and cost one relaxed addition
//! each when something happens. Nothing here knows how they are shown.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::error::{Error, Kind};

/// Upper bounds of a [`Histogram`]'s buckets in nanoseconds; above the last there is one more. One
/// scale for everything, so that times can be compared: from a read that is answered out of memory
/// to the longest deadline that is usual.
pub const BOUNDS: [u64; 21] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// How long things took. Without a lock: two relaxed additions for each.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How many fell into each bucket, those of others not included.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All of them together, in nanoseconds.
    pub nanos: u64,
}

/// A count for each [`Kind`] of error.
#[derive(Debug, Default)]
pub struct PerKind([AtomicU64; Kind::ALL.len()]);

/// [`PerKind`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounts([u64; Kind::ALL.len()]);

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Reads a counter.
pub(crate) fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

// === impl Histogram ===

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: array::from_fn(|_| AtomicU64::new(0)),
            nanos: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one that took so long.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanos);
        add(&self.buckets[bucket], 1);
        add(&self.nanos, nanos);
    }

    /// The counts so far.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            buckets: array::from_fn(|i| load(&self.buckets[i])),
            nanos: load(&self.nanos),
        }
    }
}

// === impl Times ===

impl Times {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (mine, its) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += its;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }
}

// === impl PerKind ===

impl PerKind {
    /// Counts an error.
    pub fn count(&self, error: &Error) {
        add(&self.0[error.kind() as usize], 1);
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> KindCounts {
        KindCounts(array::from_fn(|i| load(&self.0[i])))
    }
}

// === impl KindCounts ===

impl KindCounts {
    /// The errors of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// All errors.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().zip(self.0)
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (mine, its) in self.0.iter_mut().zip(other.0) {
            *mine += its;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        assert!(BOUNDS.is_sorted());
        let histogram = Histogram::default();
        for nanos in [0, 10_000, 10_001, 60_000_000_000, 60_000_000_001] {
            histogram.record(Duration::from_nanos(nanos));
        }
        let times = histogram.times();
        assert_eq!(times.count(), 5);
        assert_eq!(times.buckets[..2], [2, 1]);
        assert_eq!(times.buckets[BOUNDS.len() - 1..], [1, 1]);
        assert_eq!(times.nanos, 120_000_020_002);
        let mut twice = times;
        twice.add(&times);
        assert_eq!((twice.count(), twice.nanos), (10, 240_000_040_004));
    }

    #[test]
    fn every_kind_has_a_count_of_its_own() {
        let per_kind = PerKind::default();
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            for _ in 0..=n {
                per_kind.count(&Error::new(kind, "x"));
            }
        }
        let counts = per_kind.counts();
        for ((n, kind), (listed, count)) in Kind::ALL.into_iter().enumerate().zip(counts.iter()) {
            assert_eq!((kind, n as u64 + 1), (listed, count));
            assert_eq!(counts.of(kind), count);
        }
        assert_eq!(counts.total(), 45);
    }
}
