//! What will probably be read next: what lies behind that which was just read, fetched while readers
//! compute or wait for something else.
//!
//! One request at a time, and no more bytes than readers asked for themselves: a guess may cost as
//! much as what is known, never more. What was guessed last comes first.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Layer, Shared,
    fetch::Why,
    plan::{self, ByUnit},
    profile,
    workers::{Queues, Task},
};
use crate::index::ChunkTable;

/// Neighbours of what was read that have not been fetched.
#[derive(Debug)]
pub(super) struct Neighbours {
    reach: Reach,
    state: Mutex<State>,
}

/// How far neighbours reach, in bytes of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// In the file that was read.
    pub same_file: u64,
    /// In the files behind it.
    pub next_files: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Units of layers, the latest guess first.
    runs: VecDeque<(u16, Range<u32>)>,
    /// Bytes that may be guessed.
    credit: u64,
    /// A request is on its way, or about to be.
    busy: bool,
}

/// Guesses that are kept; older ones are forgotten.
const KEPT: usize = 256;
/// Most that may be guessed at a stretch, without a reader asking for anything.
const MAX_CREDIT: u64 = 8 << 20;

// === impl Reach ===

impl Reach {
    /// Nothing is guessed.
    pub const NONE: Self = Self {
        same_file: 0,
        next_files: 0,
    };

    /// What was measured to be read with a probability of a half or more.
    pub const RECOMMENDED: Self = Self {
        same_file: 2 << 20,
        next_files: 64 << 10,
    };

    /// The neighbours behind `unit`.
    fn units(self, table: &ChunkTable, by_unit: &ByUnit, unit: u32) -> Range<u32> {
        let start = table.units[unit as usize].offset;
        let mut end = unit + 1;
        let mut reach = self.same_file;
        for next in table.units.iter().skip(end as usize) {
            let begins_file = by_unit
                .chunks(end)
                .first()
                .is_none_or(|&chunk| table.chunks[chunk as usize].file_offset == 0);
            if begins_file {
                reach = reach.min(self.next_files);
            }
            if next.offset + u64::from(next.length) > start + reach {
                break;
            }
            end += 1;
        }
        unit + 1..end
    }
}

// === impl Neighbours ===

impl Neighbours {
    pub(super) fn new(reach: Reach) -> Self {
        Self {
            reach,
            state: Mutex::default(),
        }
    }

    /// A reader needed these units, for which `bytes` are fetched. Whether somebody should look what
    /// can be fetched beside.
    fn note(&self, layer: u16, runs: Vec<Range<u32>>, bytes: u64) -> bool {
        let mut state = self.lock();
        state.credit = (state.credit + bytes).min(MAX_CREDIT);
        for run in runs {
            state.runs.push_front((layer, run));
        }
        state.runs.truncate(KEPT);
        !std::mem::replace(&mut state.busy, true)
    }

    /// The next unit to fetch, of that layer if one is given. If there is none of any layer, nobody
    /// looks again until a reader needs something.
    fn next(&self, of: Option<u16>) -> Option<(u16, u32)> {
        let mut state = self.lock();
        let next = state.next(of);
        if next.is_none() && of.is_none() {
            state.busy = false;
        }
        next
    }

    /// A request for so many bytes is made.
    fn spend(&self, bytes: u64) {
        let mut state = self.lock();
        state.credit = state.credit.saturating_sub(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn next(&mut self, of: Option<u16>) -> Option<(u16, u32)> {
        if self.credit == 0 {
            return None;
        }
        while self.runs.front().is_some_and(|(_, run)| run.is_empty()) {
            self.runs.pop_front();
        }
        let (layer, run) = self.runs.front_mut()?;
        if of.is_some_and(|of| of != *layer) {
            return None;
        }
        Some((*layer, run.next()?))
    }
}

// === impl Shared ===

impl Shared {
    /// Readers needed these units of the layer. Runs on a worker.
    pub(super) fn needed(&self, queues: &Queues, layer: u16, units: &[u32], bytes: u64) {
        let reach = self.neighbours.reach;
        if units.is_empty() || reach == Reach::NONE || !self.pending.is_over() {
            return;
        }
        let Layer { data, by_unit, .. } = &self.layers[usize::from(layer)];
        let runs = units.iter();
        let runs = runs.map(|&unit| reach.units(&data.table, by_unit, unit));
        if self.neighbours.note(layer, runs.collect(), bytes) {
            queues.send(Task::Neighbours);
        }
    }

    /// Makes one request for neighbours, and sees to the next one when it is done. Runs on a worker.
    pub(super) fn fetch_neighbours(self: &Arc<Self>, queues: &Queues) {
        let limit = self.pace.extent();
        let (mut units, mut bytes, mut of) = (Vec::new(), 0, None);
        // One unit, however long it is, and more as long as they are short.
        while (units.is_empty() || bytes < limit)
            && let Some((layer, unit)) = self.neighbours.next(of)
        {
            let data = &self.layers[usize::from(layer)];
            if self.begins_ahead(data, layer, unit) {
                of = Some(layer);
                bytes += u64::from(data.data.table.units[unit as usize].length);
                units.push(unit);
            }
        }
        let Some(layer) = of else { return };
        self.neighbours.spend(bytes);
        let table = &self.layers[usize::from(layer)].data.table;
        let extent = plan::apart(table, units, profile::GAP);
        let (shared, queues) = (Arc::clone(self), queues.clone());
        self.runtime.spawn(async move {
            shared.carry(&queues, layer, extent, Why::Ahead, None).await;
            queues.send(Task::Neighbours);
        });
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
mod tests {
    use super::*;
    use crate::index::{Chunk, Codec, Place, Unit};

    /// A file of three units, then files of one each; a unit is 10 bytes of the blob.
    fn table() -> ChunkTable {
        let chunk = |(unit, file_offset)| Chunk {
            file_offset,
            length: 5,
            place: Place::Unit { unit, offset: 0 },
            digest: [0; 32],
        };
        let unit = |i: u32| Unit {
            offset: u64::from(i) * 10,
            length: 10,
            codec: Codec::Raw,
        };
        ChunkTable {
            chunks: [(0, 0), (1, 5), (2, 10), (3, 0), (4, 0)].map(chunk).into(),
            units: (0..5).map(unit).collect(),
            ..ChunkTable::default()
        }
    }

    #[test]
    fn neighbours_reach_further_in_the_same_file() {
        let table = table();
        let by_unit = ByUnit::new(&table);
        for (same_file, next_files, unit, want) in [
            (100, 0, 0, 1..3),
            (29, 0, 0, 1..2),
            (100, 40, 0, 1..4),
            (100, 100, 0, 1..5),
            (0, 100, 0, 1..1),
            (100, 20, 2, 3..4),
            (100, 100, 4, 5..5),
        ] {
            let reach = Reach {
                same_file,
                next_files,
            };
            assert_eq!(
                reach.units(&table, &by_unit, unit),
                want,
                "{reach:?} behind {unit}"
            );
        }
    }

    #[test]
    fn the_latest_guess_comes_first_and_none_is_free() {
        let neighbours = Neighbours::new(Reach::RECOMMENDED);
        assert_eq!(neighbours.next(None), None);
        assert!(neighbours.note(0, vec![1..3], 10));
        assert!(
            !neighbours.note(1, vec![7..8], 10),
            "somebody looks already"
        );
        assert_eq!(neighbours.next(None), Some((1, 7)));
        assert_eq!(neighbours.next(Some(1)), None, "another layer");
        assert_eq!(neighbours.next(None), Some((0, 1)));
        neighbours.spend(25);
        assert_eq!(neighbours.next(None), None, "as much as was asked for");
        assert!(neighbours.note(0, vec![], 1), "nobody looks any more");
        assert_eq!(neighbours.next(None), Some((0, 2)), "and none is lost");
        assert_eq!(neighbours.next(None), None);
    }
}
