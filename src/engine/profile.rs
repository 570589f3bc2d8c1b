//! What a start reads: recorded while it happens, fetched ahead at the next one.
//!
//! A profile names runs of the layers' plain blobs in the order in which they were first needed, so
//! it does not depend on how an index numbers its chunks. It is a hint: what it names is verified as
//! everything else, and a wrong profile costs bytes, never correctness.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::plan::{Extent, Gathering, gather};
use crate::index::ChunkTable;

/// What a workload read at its start, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Runs of blobs, the first needed first; none twice.
    pub runs: Vec<Run>,
}

/// Neighbouring units of one layer that were needed one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the layer, counted from the lowest.
    pub layer: u16,
    /// Bytes of the plain blob.
    pub bytes: Range<u64>,
}

/// What is fetched ahead by a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowConfig {
    /// Bytes of blobs, at most.
    pub budget: u64,
    /// Requests for each layer, about.
    pub requests: usize,
}

/// Notes each unit when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    seen: HashSet<(u16, u32)>,
    order: Vec<(u16, u32)>,
}

/// Units that are recorded at most: no start needs more, and memory stays bounded.
const MAX_RECORDED: usize = 1_000_000;
/// Runs of an extent are joined over gaps up to this size: another run costs more.
pub(super) const GAP: u64 = 16 << 10;
/// Bytes of the first extents of a profile: they come soon.
const FIRST: u64 = 1 << 20;
/// Bytes of the longest, at least and at most. Their units are decoded as they arrive.
const LONGEST: (u64, u64) = (4 << 20, 32 << 20);

// === impl Profile ===

impl Profile {
    /// Bytes of blobs that it names.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| run.bytes.end.saturating_sub(run.bytes.start))
            .sum()
    }

    /// The extents to fetch, in the order in which they are needed first.
    pub(super) fn extents(
        &self,
        tables: &[&ChunkTable],
        config: FollowConfig,
    ) -> Vec<(u16, Extent)> {
        let mut units = Vec::new();
        let mut seen = HashSet::new();
        let mut left = config.budget;
        'runs: for run in &self.runs {
            let Some(table) = tables.get(usize::from(run.layer)) else {
                continue;
            };
            for unit in units_in(table, &run.bytes) {
                if !seen.insert((run.layer, unit)) {
                    continue;
                }
                let length = u64::from(table.units[unit as usize].length);
                let Some(rest) = left.checked_sub(length) else {
                    break 'runs;
                };
                left = rest;
                units.push((run.layer, unit));
            }
        }
        let bytes = config.budget - left;
        let gathering = Gathering {
            gap: GAP,
            first: FIRST,
            longest: (bytes / (config.requests as u64).max(1)).clamp(LONGEST.0, LONGEST.1),
        };
        gather(tables, &units, gathering)
    }
}

/// Units that begin in the run.
fn units_in(table: &ChunkTable, run: &Range<u64>) -> impl Iterator<Item = u32> + use<> {
    let at = |offset| table.units.partition_point(|unit| unit.offset < offset);
    let (first, end) = (at(run.start), at(run.end));
    (0..).take(end).skip(first)
}

// === impl FollowConfig ===

impl FollowConfig {
    /// What one start may cost.
    pub const RECOMMENDED: Self = Self {
        budget: 256 << 20,
        requests: 20,
    };
}

// === impl Recorder ===

impl Recorder {
    /// A unit is needed.
    pub(super) fn note(&self, layer: u16, unit: u32) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.order.len() < MAX_RECORDED && recorded.seen.insert((layer, unit)) {
            recorded.order.push((layer, unit));
        }
    }

    /// What was needed so far.
    pub(super) fn profile(&self, tables: &[&ChunkTable]) -> Profile {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut runs: Vec<Run> = Vec::new();
        for &(layer, unit) in &recorded.order {
            let unit = &tables[usize::from(layer)].units[unit as usize];
            let bytes = unit.offset..unit.offset + u64::from(unit.length);
            match runs.last_mut() {
                Some(last) if last.layer == layer && last.bytes.end == bytes.start => {
                    last.bytes.end = bytes.end;
                }
                _ => runs.push(Run { layer, bytes }),
            }
        }
        Profile { runs }
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
mod tests {
    use super::*;
    use crate::index::{Codec, Unit};

    fn table(lengths: &[u32]) -> ChunkTable {
        let mut offset = 0;
        let units = lengths.iter().map(|&length| {
            let unit = Unit {
                offset,
                length,
                codec: Codec::Raw,
            };
            offset += u64::from(length);
            unit
        });
        ChunkTable {
            units: units.collect(),
            ..ChunkTable::default()
        }
    }

    #[test]
    fn a_recording_is_found_again_in_the_tables() {
        let (low, high) = (table(&[10, 20, 30]), table(&[5, 5]));
        let tables = [&low, &high];
        let recorder = Recorder::default();
        for (layer, unit) in [(0, 1), (0, 2), (0, 1), (1, 0), (0, 0)] {
            recorder.note(layer, unit);
        }
        let profile = recorder.profile(&tables);
        let run = |layer, bytes| Run { layer, bytes };
        assert_eq!(profile.runs, [run(0, 10..60), run(1, 0..5), run(0, 0..10)]);
        assert_eq!(profile.bytes(), 65);
        let extents = |budget| {
            let config = FollowConfig {
                budget,
                requests: 10,
            };
            let found = profile.extents(&tables, config).into_iter();
            found
                .map(|(layer, extent)| (layer, extent.units))
                .collect::<Vec<_>>()
        };
        assert_eq!(extents(1000), [(0, vec![0, 1, 2]), (1, vec![0])]);
        assert_eq!(extents(50), [(0, vec![1, 2])], "what is needed first");
        assert_eq!(extents(0), []);
    }

    #[test]
    fn a_profile_of_another_image_is_harmless() {
        let only = table(&[10]);
        let profile = Profile {
            runs: vec![
                Run {
                    layer: 3,
                    bytes: 0..10,
                },
                Run {
                    layer: 0,
                    bytes: Range {
                        start: 500,
                        end: 10,
                    },
                },
                Run {
                    layer: 0,
                    bytes: 0..u64::MAX,
                },
            ],
        };
        let extents = profile.extents(&[&only], FollowConfig::RECOMMENDED);
        assert_eq!(extents.len(), 1);
        assert_eq!(extents[0].1.ranges, [0..10]);
    }
}
