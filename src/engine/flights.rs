//! Units on their way, each once, however many readers wait for it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ServedFrom, operation::Operation, plan::Part};
use crate::store::VerifiedChunk;

/// A part of a read that waits for its chunk.
pub(super) struct Waiter {
    pub(super) operation: Arc<Operation>,
    pub(super) slot: usize,
    pub(super) part: Part,
}

/// Units on their way, with who waits for them. A unit is fetched once, however many readers want
/// its chunks.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<(u16, u32), Vec<Waiter>>>);

// === impl Waiter ===

impl Waiter {
    pub(super) fn fill(&self, chunk: &VerifiedChunk, from: ServedFrom) {
        let range = self.part.start as usize..self.part.end as usize;
        let bytes = chunk.bytes().slice(range);
        self.operation.fill(self.slot, bytes, from);
    }
}

// === impl Flights ===

impl Flights {
    /// Adds who waits; says whether the unit was not on its way yet, so that the caller fetches it.
    pub(super) fn join(&self, layer: u16, unit: u32, waiter: Option<Waiter>) -> bool {
        match self.lock().entry((layer, unit)) {
            Entry::Occupied(mut flight) => {
                flight.get_mut().extend(waiter);
                false
            }
            Entry::Vacant(place) => {
                place.insert(waiter.into_iter().collect());
                true
            }
        }
    }

    /// Ends the flight and gives who waited.
    pub(super) fn land(&self, layer: u16, unit: u32) -> Vec<Waiter> {
        self.lock().remove(&(layer, unit)).unwrap_or_default()
    }

    /// A chunk of the unit that somebody waits for, other than these.
    pub(super) fn awaited(&self, layer: u16, unit: u32, but: &[u32]) -> Option<u32> {
        let flights = self.lock();
        let waiters = flights.get(&(layer, unit))?;
        waiters
            .iter()
            .map(|w| w.part.chunk)
            .find(|chunk| !but.contains(chunk))
    }

    /// Gives who waits for one chunk; the flight goes on.
    pub(super) fn leave(&self, layer: u16, unit: u32, chunk: u32) -> Vec<Waiter> {
        match self.lock().get_mut(&(layer, unit)) {
            Some(waiters) => waiters.extract_if(.., |w| w.part.chunk == chunk).collect(),
            None => Vec::new(),
        }
    }

    /// Ends the flight if nobody waits for it.
    pub(super) fn end_idle(&self, layer: u16, unit: u32) -> bool {
        match self.lock().entry((layer, unit)) {
            Entry::Occupied(flight) if flight.get().is_empty() => {
                flight.remove();
                true
            }
            Entry::Occupied(_) => false,
            Entry::Vacant(_) => true,
        }
    }

    pub(super) fn is_wanted(&self, layer: u16, unit: u32) -> bool {
        self.lock()
            .get(&(layer, unit))
            .is_some_and(|waiters| !waiters.is_empty())
    }

    pub(super) fn waits_for(&self, layer: u16, unit: u32, chunk: u32) -> bool {
        self.lock()
            .get(&(layer, unit))
            .is_some_and(|waiters| waiters.iter().any(|w| w.part.chunk == chunk))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u16, u32), Vec<Waiter>>> {
        // Nothing that can panic runs under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flights({})", self.lock().len())
    }
}
