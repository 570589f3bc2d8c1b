//! What the images count beyond their [`ImagesSnapshot`](super::ImagesSnapshot).

use std::{
    array,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use crate::{
    engine::{EngineCounts, Meter},
    error::Error,
    keys::{KeyCounts, KeyMeter},
    measure::{Histogram, KindCounts, PerKind, Times, add, load},
    trust::Class,
};

/// Counters that every image shares.
#[derive(Debug, Default)]
pub(super) struct Measured {
    admitted: [AtomicU64; Class::ALL.len()],
    not_opened: PerKind,
    /// From a request for an image to its open indexes.
    pub(super) opened: Histogram,
    /// From the indexes to a directory that shows them.
    pub(super) mounted: Histogram,
    adopted: AtomicU64,
    adoptions_failed: AtomicU64,
    pub(super) keys: Arc<KeyMeter>,
    engines: Engines,
}

/// What was measured, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesCounts {
    /// Images that were admitted and opened, by their class.
    pub admitted: [(&'static str, u64); Class::ALL.len()],
    /// Images that were not opened, by the kind of error; refused ones are `Denied`.
    pub not_opened: KindCounts,
    /// From a request for an image to its open indexes.
    pub opened: Times,
    /// From the indexes to a directory that shows them.
    pub mounted: Times,
    /// Mounts of earlier daemons that are served on.
    pub adopted: u64,
    /// Attempts at that which failed.
    pub adoptions_failed: u64,
    /// Keys of layers.
    pub keys: KeyCounts,
    /// Reads of all mounts, also of those that are gone.
    pub engines: EngineCounts,
}

/// The counts of all engines that there are and were.
#[derive(Debug, Default)]
struct Engines(Mutex<AllEngines>);

#[derive(Debug, Default)]
struct AllEngines {
    live: Vec<Meter>,
    ended: EngineCounts,
}

// === impl Measured ===

impl Measured {
    pub(super) fn admitted(&self, class: Class) {
        add(&self.admitted[class as usize], 1);
    }

    pub(super) fn not_opened(&self, error: &Error) {
        self.not_opened.count(error);
    }

    pub(super) fn adopted(&self) {
        add(&self.adopted, 1);
    }

    pub(super) fn adoption_failed(&self) {
        add(&self.adoptions_failed, 1);
    }

    /// Counts what an engine does from now on, and what it did.
    pub(super) fn engine(&self, meter: Meter) {
        let mut engines = self
            .engines
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        engines.retire();
        engines.live.push(meter);
    }

    pub(super) fn counts(&self) -> ImagesCounts {
        ImagesCounts {
            admitted: array::from_fn(|i| (Class::ALL[i].as_str(), load(&self.admitted[i]))),
            not_opened: self.not_opened.counts(),
            opened: self.opened.times(),
            mounted: self.mounted.times(),
            adopted: load(&self.adopted),
            adoptions_failed: load(&self.adoptions_failed),
            keys: self.keys.counts(),
            engines: self.engines.counts(),
        }
    }
}

// === impl Engines ===

impl Engines {
    fn counts(&self) -> EngineCounts {
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retire();
        let mut all = engines.ended;
        engines.live.iter().for_each(|it| all.add(&it.counts()));
        all
    }
}

impl AllEngines {
    /// Adds up the engines that are gone. A meter that is the last sees every read that there was, so
    /// nothing is lost and nothing counted twice.
    fn retire(&mut self) {
        let ended = &mut self.ended;
        self.live.retain(|meter| {
            let gone = meter.is_last();
            if gone {
                ended.add(&meter.counts());
            }
            !gone
        });
    }
}
