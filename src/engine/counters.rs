//! What the engine did.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counts of one engine.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: AtomicU64,
    pub(super) extents: AtomicU64,
    pub(super) extent_bytes: AtomicU64,
    pub(super) chunks: AtomicU64,
    pub(super) mismatches: AtomicU64,
    pub(super) failed_reads: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EngineSnapshot {
    /// Reads asked for by the front end.
    pub reads: u64,
    /// Ranges fetched from sources.
    pub extents: u64,
    /// Bytes of those ranges.
    pub extent_bytes: u64,
    /// Chunks decoded and verified.
    pub chunks: u64,
    /// Chunks whose digest did not match.
    pub mismatches: u64,
    /// Reads answered with an error.
    pub failed_reads: u64,
}

// === impl Counters ===

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> EngineSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineSnapshot {
            reads: load(&self.reads),
            extents: load(&self.extents),
            extent_bytes: load(&self.extent_bytes),
            chunks: load(&self.chunks),
            mismatches: load(&self.mismatches),
            failed_reads: load(&self.failed_reads),
        }
    }
}
