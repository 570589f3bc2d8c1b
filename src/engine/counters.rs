//! What the engine did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{
    error::Error,
    measure::{self, Histogram, KindCounts, PerKind, Times},
};

/// The slowest place that a part of a read came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServedFrom {
    /// The store's memory, or nowhere: zeros, the end of a file.
    Memory,
    /// The store's disk.
    Disk,
    /// Where the blob comes from.
    Source,
}

/// Counts of one engine.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) extents: AtomicU64,
    pub(super) extent_bytes: AtomicU64,
    pub(super) ahead_bytes: AtomicU64,
    pub(super) rest_bytes: AtomicU64,
    pub(super) chunks: AtomicU64,
    pub(super) mismatches: AtomicU64,
    pub(super) failed: PerKind,
    took: [Histogram; ServedFrom::ALL.len()],
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EngineSnapshot {
    /// Reads asked for by the front end.
    pub reads: u64,
    /// Bytes that reads were answered with.
    pub read_bytes: u64,
    /// Ranges fetched from sources.
    pub extents: u64,
    /// Bytes of those ranges.
    pub extent_bytes: u64,
    /// Of these, bytes of ranges that were fetched before anybody asked for them.
    pub ahead_bytes: u64,
    /// And bytes of ranges that nobody asked for and that were fetched to complete images.
    pub rest_bytes: u64,
    /// Chunks decoded and verified.
    pub chunks: u64,
    /// Chunks whose digest did not match.
    pub mismatches: u64,
    /// Reads answered with an error.
    pub failed_reads: u64,
}

/// The counts of one engine or several, with how long reads took and how they failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// The plain numbers.
    pub numbers: EngineSnapshot,
    /// How long successful reads took, by [`ServedFrom`].
    pub took: [Times; ServedFrom::ALL.len()],
    /// Reads answered with an error, by its kind.
    pub failed: KindCounts,
}

/// Reads an engine's counts, after its end too.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Counters>);

// === impl ServedFrom ===

impl ServedFrom {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Source];

    /// One word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Source => "source",
        }
    }
}

// === impl Counters ===

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        measure::add(counter, n);
    }

    /// Counts a read that was answered with so many bytes.
    pub(super) fn answered(&self, from: ServedFrom, bytes: usize, took: Duration) {
        measure::add(&self.read_bytes, bytes as u64);
        self.took[from as usize].record(took);
    }

    /// Counts a read that was answered with an error.
    pub(super) fn failed(&self, error: &Error) {
        self.failed.count(error);
    }

    pub(super) fn snapshot(&self) -> EngineSnapshot {
        let load = measure::load;
        EngineSnapshot {
            reads: load(&self.reads),
            read_bytes: load(&self.read_bytes),
            extents: load(&self.extents),
            extent_bytes: load(&self.extent_bytes),
            ahead_bytes: load(&self.ahead_bytes),
            rest_bytes: load(&self.rest_bytes),
            chunks: load(&self.chunks),
            mismatches: load(&self.mismatches),
            failed_reads: self.failed.counts().total(),
        }
    }
}

// === impl EngineCounts ===

impl EngineCounts {
    /// Adds those of another engine.
    pub fn add(&mut self, other: &Self) {
        let EngineSnapshot {
            reads,
            read_bytes,
            extents,
            extent_bytes,
            ahead_bytes,
            rest_bytes,
            chunks,
            mismatches,
            failed_reads,
        } = &mut self.numbers;
        *reads += other.numbers.reads;
        *read_bytes += other.numbers.read_bytes;
        *extents += other.numbers.extents;
        *extent_bytes += other.numbers.extent_bytes;
        *ahead_bytes += other.numbers.ahead_bytes;
        *rest_bytes += other.numbers.rest_bytes;
        *chunks += other.numbers.chunks;
        *mismatches += other.numbers.mismatches;
        *failed_reads += other.numbers.failed_reads;
        for (mine, its) in self.took.iter_mut().zip(&other.took) {
            mine.add(its);
        }
        self.failed.add(&other.failed);
    }
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(counters: &Arc<Counters>) -> Self {
        Self(Arc::clone(counters))
    }

    /// The plain numbers.
    #[must_use]
    pub fn snapshot(&self) -> EngineSnapshot {
        self.0.snapshot()
    }

    /// All counts.
    #[must_use]
    pub fn counts(&self) -> EngineCounts {
        EngineCounts {
            numbers: self.0.snapshot(),
            took: std::array::from_fn(|i| self.0.took[i].times()),
            failed: self.0.failed.counts(),
        }
    }

    /// Whether this is all that is left of the engine: then nothing is counted any more.
    #[must_use]
    pub fn is_last(&self) -> bool {
        let last = Arc::strong_count(&self.0) == 1;
        // What the others counted before they let go is to be seen.
        fence(Ordering::Acquire);
        last
    }
}
