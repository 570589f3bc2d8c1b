//! Pure planning: which chunks a read needs, and which runs of the blob to fetch for them.

use std::ops::Range;

use super::FileData;
use crate::index::{Chunk, ChunkTable, Place};

/// A piece of one chunk that a read needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Index into the layer's chunks.
    pub(super) chunk: u32,
    /// First byte needed, counted from the chunk's start.
    pub(super) start: u32,
    /// End of what is needed.
    pub(super) end: u32,
}

/// A contiguous run of blob bytes to fetch in one request, and the units inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes of the blob.
    pub(super) bytes: Range<u64>,
    /// Units to decode from it, in ascending order.
    pub(super) units: Vec<u32>,
}

/// How runs are joined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joining {
    /// Two units with at most so many bytes between them are fetched in one request.
    pub(super) gap: u64,
    /// No request is longer, unless a single unit is.
    pub(super) max: u64,
}

/// A layer's chunks by unit, so that a decoded unit gives all its chunks at once.
#[derive(Debug)]
pub(super) struct ByUnit {
    /// Chunk indices ordered by unit.
    chunks: Vec<u32>,
    /// Where each unit's run begins in `chunks`; one more than there are units.
    starts: Vec<u32>,
}

/// The file's chunks that cover `offset..offset + length`, cut to it and to the file's end. The
/// file's run of chunks covers it without gap or overlap (a verified index says so).
pub(super) fn parts(table: &ChunkTable, file: FileData, offset: u64, length: u32) -> Vec<Part> {
    let end = offset.saturating_add(length.into()).min(file.size);
    if offset >= end {
        return Vec::new();
    }
    let run = run(table, file);
    let first = run.partition_point(|c| c.file_offset + u64::from(c.length) <= offset);
    (file.first_chunk..)
        .zip(run)
        .skip(first)
        .take_while(|(_, chunk)| chunk.file_offset < end)
        .map(|(index, chunk)| {
            let within = |at: u64| {
                u32::try_from(at.saturating_sub(chunk.file_offset))
                    .unwrap_or(u32::MAX)
                    .min(chunk.length)
            };
            Part {
                chunk: index,
                start: within(offset),
                end: within(end),
            }
        })
        .collect()
}

/// The file's holes, neighbours joined.
pub(super) fn zeros(table: &ChunkTable, file: FileData) -> Vec<Range<u64>> {
    let mut holes: Vec<Range<u64>> = Vec::new();
    for chunk in run(table, file) {
        if chunk.place != Place::Zeros {
            continue;
        }
        let end = chunk.file_offset + u64::from(chunk.length);
        match holes.last_mut() {
            Some(last) if last.end == chunk.file_offset => last.end = end,
            _ => holes.push(chunk.file_offset..end),
        }
    }
    holes
}

/// The file's chunks; empty if the file does not fit the table.
fn run(table: &ChunkTable, file: FileData) -> &[Chunk] {
    let first = file.first_chunk as usize;
    table
        .chunks
        .get(first..first.saturating_add(file.chunk_count as usize))
        .unwrap_or(&[])
}

/// Joins units (ascending, no unit twice) into extents.
pub(super) fn extents(table: &ChunkTable, units: &[u32], joining: Joining) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for &index in units {
        let unit = &table.units[index as usize];
        let bytes = unit.offset..unit.offset + u64::from(unit.length);
        match extents.last_mut() {
            Some(last)
                if bytes.start <= last.bytes.end.saturating_add(joining.gap)
                    && bytes.end.saturating_sub(last.bytes.start) <= joining.max =>
            {
                last.bytes.end = last.bytes.end.max(bytes.end);
                last.units.push(index);
            }
            _ => extents.push(Extent {
                bytes,
                units: vec![index],
            }),
        }
    }
    extents
}

/// How units from all over an image are gathered into few extents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    /// Two units with at most so many bytes between them are always fetched in one request.
    pub(super) always: u64,
    /// Two units with more between them never are.
    pub(super) never: u64,
    /// No request is longer, unless a single unit is.
    pub(super) max: u64,
    /// So many extents are wanted at most; more if the other bounds leave no choice.
    pub(super) extents: usize,
}

/// Gathers units (layer and unit; the first needed first) into extents: the smallest gaps are
/// fetched over until there are few enough. An extent comes when the first of its units is needed.
pub(super) fn gather(
    tables: &[&ChunkTable],
    units: &[(u16, u32)],
    gathering: Gathering,
) -> Vec<(u16, Extent)> {
    let mut sorted: Vec<(u16, u32, usize)> = (0..)
        .zip(units)
        .map(|(order, &(layer, unit))| (layer, unit, order))
        .collect();
    sorted.sort_unstable();
    sorted.dedup_by_key(|it| (it.0, it.1));
    let place = |layer: u16, unit: u32| {
        let unit = &tables[usize::from(layer)].units[unit as usize];
        unit.offset..unit.offset + u64::from(unit.length)
    };
    let gap = |pair: &[(u16, u32, usize)]| {
        let (before, after) = (place(pair[0].0, pair[0].1), place(pair[1].0, pair[1].1));
        (pair[0].0 == pair[1].0).then(|| after.start.saturating_sub(before.end))
    };
    // Where to cut: between layers, and at the largest gaps, as far as there may be cuts.
    let mut gaps: Vec<u64> = sorted.windows(2).filter_map(gap).collect();
    let layers = sorted.windows(2).filter(|pair| pair[0].0 != pair[1].0);
    let cuts = gathering.extents.saturating_sub(1 + layers.count());
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    let widest_joined = gaps.get(cuts).copied().unwrap_or(0);
    let joined = widest_joined.clamp(gathering.always, gathering.never);
    let mut extents: Vec<(usize, u16, Extent)> = Vec::new();
    for &(layer, unit, order) in &sorted {
        let bytes = place(layer, unit);
        match extents.last_mut() {
            Some((first, of, last))
                if *of == layer
                    && bytes.start <= last.bytes.end.saturating_add(joined)
                    && bytes.end.saturating_sub(last.bytes.start) <= gathering.max =>
            {
                *first = order.min(*first);
                last.bytes.end = last.bytes.end.max(bytes.end);
                last.units.push(unit);
            }
            _ => extents.push((
                order,
                layer,
                Extent {
                    bytes,
                    units: vec![unit],
                },
            )),
        }
    }
    extents.sort_unstable_by_key(|&(first, ..)| first);
    let extents = extents.into_iter();
    extents.map(|(_, layer, extent)| (layer, extent)).collect()
}

/// The units after `unit` in the blob until `bytes` beyond its start are covered.
pub(super) fn following(
    table: &ChunkTable,
    unit: u32,
    bytes: u64,
) -> impl Iterator<Item = u32> + '_ {
    let end = table.units[unit as usize].offset.saturating_add(bytes);
    (unit + 1..)
        .zip(table.units.iter().skip(unit as usize + 1))
        .take_while(move |(_, next)| next.offset + u64::from(next.length) <= end)
        .map(|(index, _)| index)
}

// === impl ByUnit ===

impl ByUnit {
    /// Sorts the table's chunks by unit (counting sort).
    pub(super) fn new(table: &ChunkTable) -> Self {
        let unit_of = |chunk: &Chunk| match chunk.place {
            Place::Unit { unit, .. } => Some(unit as usize),
            Place::Zeros => None,
        };
        let mut starts = vec![0_u32; table.units.len() + 1];
        for unit in table.chunks.iter().filter_map(unit_of) {
            starts[unit + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut chunks = vec![0; *starts.last().unwrap_or(&0) as usize];
        for (index, chunk) in (0_u32..).zip(&table.chunks) {
            if let Some(unit) = unit_of(chunk) {
                chunks[next[unit] as usize] = index;
                next[unit] += 1;
            }
        }
        Self { chunks, starts }
    }

    /// The chunks in `unit`.
    pub(super) fn chunks(&self, unit: u32) -> &[u32] {
        let unit = unit as usize;
        &self.chunks[self.starts[unit] as usize..self.starts[unit + 1] as usize]
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

    fn table() -> ChunkTable {
        // Two files: one of chunks 10+10+5 in units 0, 1 and a hole, one of 4 in unit 1 behind that.
        let chunk = |file_offset, length, place| Chunk {
            file_offset,
            length,
            place,
            digest: [0; 32],
        };
        let at = |unit, offset| Place::Unit { unit, offset };
        let unit = |offset, length| Unit {
            offset,
            length,
            codec: Codec::Gzip,
        };
        ChunkTable {
            chunks: vec![
                chunk(0, 10, at(0, 0)),
                chunk(10, 10, at(1, 0)),
                chunk(20, 5, Place::Zeros),
                chunk(0, 4, at(1, 10)),
            ],
            units: vec![unit(0, 8), unit(8, 12), unit(100, 7), unit(107, 50)],
            ..ChunkTable::default()
        }
    }

    const FILE: FileData = FileData {
        layer: 0,
        first_chunk: 0,
        chunk_count: 3,
        size: 25,
    };

    #[test]
    fn parts_are_cut_to_the_read_and_the_file() {
        let part = |chunk, start, end| Part { chunk, start, end };
        for (offset, length, want) in [
            (0, 10, vec![part(0, 0, 10)]),
            (9, 2, vec![part(0, 9, 10), part(1, 0, 1)]),
            (5, 100, vec![part(0, 5, 10), part(1, 0, 10), part(2, 0, 5)]),
            (20, 1, vec![part(2, 0, 1)]),
            (25, 1, vec![]),
            (u64::MAX, u32::MAX, vec![]),
            (3, 0, vec![]),
        ] {
            assert_eq!(
                parts(&table(), FILE, offset, length),
                want,
                "{offset}+{length}"
            );
        }
        let beyond = FileData {
            first_chunk: 3,
            chunk_count: 9,
            ..FILE
        };
        assert_eq!(parts(&table(), beyond, 0, 10), vec![]);
    }

    #[test]
    fn holes_of_a_file_are_joined() {
        let mut table = table();
        assert_eq!(zeros(&table, FILE), [20..25]);
        table.chunks[1].place = Place::Zeros;
        assert_eq!(zeros(&table, FILE), [10..25]);
        table.chunks[2].place = table.chunks[3].place;
        assert_eq!(zeros(&table, FILE), [10..20]);
        let beyond = FileData {
            first_chunk: 9,
            ..FILE
        };
        assert!(zeros(&table, beyond).is_empty());
    }

    #[test]
    fn near_units_are_joined_up_to_the_limit() {
        let joined = |gap, max| -> Vec<(Range<u64>, Vec<u32>)> {
            extents(&table(), &[0, 1, 2, 3], Joining { gap, max })
                .into_iter()
                .map(|e| (e.bytes, e.units))
                .collect()
        };
        assert_eq!(
            joined(0, 1000),
            [(0..20, vec![0, 1]), (100..157, vec![2, 3])]
        );
        assert_eq!(joined(80, 1000), [(0..157, vec![0, 1, 2, 3])]);
        assert_eq!(
            joined(0, 12),
            [
                (0..8, vec![0]),
                (8..20, vec![1]),
                (100..107, vec![2]),
                (107..157, vec![3])
            ]
        );
    }

    #[test]
    fn the_smallest_gaps_are_fetched_over() {
        let unit = |offset| Unit {
            offset,
            length: 10,
            codec: Codec::Raw,
        };
        let table = ChunkTable {
            units: [0, 20, 100, 1000, 5000].into_iter().map(unit).collect(),
            ..ChunkTable::default()
        };
        let tables = [&table, &table];
        let all = [(1, 4), (0, 0), (0, 1), (0, 2), (0, 3), (0, 1)];
        let gathered = |extents, always, never| -> Vec<(u16, Vec<u32>)> {
            let gathering = Gathering {
                always,
                never,
                max: 10_000,
                extents,
            };
            let found = gather(&tables, &all, gathering).into_iter();
            found.map(|(layer, extent)| (layer, extent.units)).collect()
        };
        let last = (1, vec![4]);
        assert_eq!(
            gathered(3, 0, 10_000),
            [last.clone(), (0, vec![0, 1, 2]), (0, vec![3])]
        );
        assert_eq!(
            gathered(4, 0, 10_000),
            [last.clone(), (0, vec![0, 1]), (0, vec![2]), (0, vec![3])]
        );
        assert_eq!(
            gathered(1, 0, 10_000),
            [last.clone(), (0, vec![0, 1, 2, 3])]
        );
        assert_eq!(
            gathered(1, 0, 50),
            [last.clone(), (0, vec![0, 1]), (0, vec![2]), (0, vec![3])],
            "no gap above what is never joined"
        );
        assert_eq!(
            gathered(100, 80, 10_000),
            [last, (0, vec![0, 1, 2]), (0, vec![3])],
            "small gaps are joined even if there may be more requests"
        );
        assert_eq!(
            gather(
                &tables,
                &[],
                Gathering {
                    always: 0,
                    never: 0,
                    max: 0,
                    extents: 0
                }
            )
            .len(),
            0
        );
    }

    #[test]
    fn following_stops_at_the_window() {
        let after = |unit, bytes| following(&table(), unit, bytes).collect::<Vec<_>>();
        assert_eq!(after(0, 20), [1]);
        assert_eq!(after(0, 19), [] as [u32; 0]);
        assert_eq!(after(0, 1000), [1, 2, 3]);
        assert_eq!(after(3, 1000), [] as [u32; 0]);
    }

    #[test]
    fn chunks_by_unit() {
        let by_unit = ByUnit::new(&table());
        assert_eq!(by_unit.chunks(0), [0]);
        assert_eq!(by_unit.chunks(1), [1, 3]);
        assert_eq!(by_unit.chunks(2), [] as [u32; 0]);
    }
}
