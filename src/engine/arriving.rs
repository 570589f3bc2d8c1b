//! An extent on its way: cuts its units out of the bytes as they come.

use std::{collections::VecDeque, ops::Range};

use bytes::{Buf, Bytes, BytesMut};

use super::plan::Extent;
use crate::index::ChunkTable;

/// What has come of an extent, and what is still to come.
pub(super) struct Arriving {
    extent: Extent,
    /// How many of the extent's units have been cut out.
    cut: usize,
    /// Those that have been cut out and not given: nobody may be able to decode them yet.
    whole: VecDeque<(u32, Bytes)>,
    /// Bytes of one run from `start` on that no unit has taken.
    buffer: BytesMut,
    /// Place of the buffer's first byte in the blob.
    start: u64,
}

// === impl Arriving ===

impl Arriving {
    pub(super) fn new(extent: Extent) -> Self {
        Self {
            start: 0,
            extent,
            cut: 0,
            whole: VecDeque::new(),
            buffer: BytesMut::new(),
        }
    }

    /// The bytes of the blob that are to come.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.extent.ranges
    }

    /// The next bytes, which belong at `at`.
    pub(super) fn push(&mut self, at: u64, piece: &[u8], table: &ChunkTable) {
        if at != self.start + self.buffer.len() as u64 {
            // A run begins. What may be left of the last one is behind its last unit.
            self.buffer = BytesMut::new();
            self.start = at;
        }
        if self.buffer.capacity() == 0 {
            let run = self.extent.ranges.iter().find(|run| run.contains(&at));
            let length = run.map_or(0, |run| run.end - at);
            self.buffer.reserve(usize::try_from(length).unwrap_or(0));
        }
        self.buffer.extend_from_slice(piece);
        // At once: what is in the buffer goes when the next run begins.
        while let Some(unit) = self.cut_out(table) {
            self.whole.push_back(unit);
        }
    }

    /// The next unit all of whose bytes are here.
    pub(super) fn whole_unit(&mut self) -> Option<(u32, Bytes)> {
        self.whole.pop_front()
    }

    /// The next unit out of the buffer, if it is whole.
    fn cut_out(&mut self, table: &ChunkTable) -> Option<(u32, Bytes)> {
        let &index = self.extent.units.get(self.cut)?;
        let unit = &table.units[index as usize];
        let length = unit.length as usize;
        // A run begins with a unit, and the units ascend.
        let before = usize::try_from(unit.offset.checked_sub(self.start)?).ok()?;
        if self.buffer.len() < before.checked_add(length)? {
            return None;
        }
        self.buffer.advance(before);
        self.start = unit.offset;
        self.cut += 1;
        let next = self.extent.units.get(self.cut);
        let next = next.map(|&next| table.units[next as usize].offset);
        let end = unit.offset + u64::from(unit.length);
        let bytes = if next.is_none_or(|next| next >= end) {
            self.start = end;
            self.buffer.split_to(length).freeze()
        } else {
            Bytes::copy_from_slice(&self.buffer[..length])
        };
        Some((index, bytes))
    }

    /// Units that have not been given.
    pub(super) fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        let given = self.cut - self.whole.len();
        self.extent.units[given..].iter().copied()
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

    #[test]
    fn units_come_out_as_soon_as_they_are_whole() {
        let unit = |offset, length| Unit {
            offset,
            length,
            codec: Codec::Raw,
        };
        // A gap behind the second, and the fourth begins inside the third.
        let table = ChunkTable {
            units: vec![unit(100, 3), unit(103, 2), unit(110, 6), unit(113, 4)],
            ..ChunkTable::default()
        };
        let blob: Vec<u8> = (0..200).collect();
        for (step, ranges) in [1, 2, 5, 17].into_iter().flat_map(|step| {
            [vec![100..117], vec![100..105, 110..117]].map(|ranges| (step, ranges))
        }) {
            let mut arriving = Arriving::new(Extent {
                ranges: ranges.clone(),
                units: vec![0, 1, 2, 3],
            });
            let mut got = Vec::new();
            let pieces = ranges.iter().flat_map(|run| {
                let place = |at| usize::try_from(at).expect("a small number");
                let bytes = &blob[place(run.start)..place(run.end)];
                (run.start..).step_by(step).zip(bytes.chunks(step))
            });
            for (at, piece) in pieces {
                arriving.push(at, piece, &table);
                while let Some((unit, bytes)) = arriving.whole_unit() {
                    got.push((unit, bytes.to_vec()));
                }
            }
            let want = |range: Range<usize>| blob[range].to_vec();
            let all = [
                want(100..103),
                want(103..105),
                want(110..116),
                want(113..117),
            ];
            assert_eq!(
                got,
                (0..).zip(all).collect::<Vec<_>>(),
                "step {step} {ranges:?}"
            );
            assert_eq!(arriving.missing().count(), 0);
        }
    }

    #[test]
    fn what_did_not_come_is_missing() {
        let table = ChunkTable {
            units: vec![
                Unit {
                    offset: 0,
                    length: 4,
                    codec: Codec::Raw,
                },
                Unit {
                    offset: 4,
                    length: 4,
                    codec: Codec::Raw,
                },
            ],
            ..ChunkTable::default()
        };
        let mut arriving = Arriving::new(Extent {
            ranges: vec![0..8],
            units: vec![0, 1],
        });
        arriving.push(0, b"abcdefg", &table);
        assert_eq!(arriving.missing().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(arriving.whole_unit().unwrap().1, "abcd");
        assert!(arriving.whole_unit().is_none());
        assert_eq!(arriving.missing().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn units_of_a_run_are_kept_when_the_next_run_begins() {
        let unit = |offset| Unit {
            offset,
            length: 4,
            codec: Codec::Raw,
        };
        let table = ChunkTable {
            units: vec![unit(0), unit(100)],
            ..ChunkTable::default()
        };
        let mut arriving = Arriving::new(Extent {
            ranges: vec![0..4, 100..104],
            units: vec![0, 1],
        });
        arriving.push(0, b"abcd", &table);
        arriving.push(100, b"efgh", &table);
        assert_eq!(arriving.whole_unit().unwrap(), (0, "abcd".into()));
        assert_eq!(arriving.whole_unit().unwrap(), (1, "efgh".into()));
        assert_eq!(arriving.missing().count(), 0);
    }
}
