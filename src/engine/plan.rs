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

/// Runs of blob bytes to fetch in one request, and the units inside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes of the blob, ascending and apart; usually one run.
    pub(super) ranges: Vec<Range<u64>>,
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

/// Joins units (ascending, no unit twice) into extents of one run each.
pub(super) fn extents(table: &ChunkTable, units: &[u32], joining: Joining) -> Vec<Extent> {
    let mut extents: Vec<(Range<u64>, Vec<u32>)> = Vec::new();
    for &index in units {
        let bytes = place(table, index);
        match extents.last_mut() {
            Some((last, units))
                if bytes.start <= last.end.saturating_add(joining.gap)
                    && bytes.end.saturating_sub(last.start) <= joining.max =>
            {
                last.end = last.end.max(bytes.end);
                units.push(index);
            }
            _ => extents.push((bytes, vec![index])),
        }
    }
    let extents = extents.into_iter();
    extents
        .map(|(bytes, units)| Extent {
            ranges: vec![bytes],
            units,
        })
        .collect()
}

/// How units from all over an image are gathered into few extents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    /// Two units of an extent with at most so many bytes between them are read in one run.
    pub(super) gap: u64,
    /// Bytes of the first extents; the next ones are twice as long, and so on.
    pub(super) first: u64,
    /// Bytes of the longest, unless a single unit is longer.
    pub(super) longest: u64,
}

/// Gathers units (layer and unit; the first needed first, none twice) into extents: what is needed at
/// about the same time of a layer is fetched in one request. What is needed first comes first, and
/// soon.
pub(super) fn gather(
    tables: &[&ChunkTable],
    units: &[(u16, u32)],
    gathering: Gathering,
) -> Vec<(u16, Extent)> {
    /// What is being gathered of a layer.
    struct Window {
        /// Which of all units it begins with.
        first: usize,
        layer: u16,
        units: Vec<u32>,
        length: u64,
    }
    let mut whole: Vec<Window> = Vec::new();
    let mut open: Vec<(Window, u64)> = Vec::new();
    for (order, &(layer, unit)) in units.iter().enumerate() {
        let new = || Window {
            first: order,
            layer,
            units: Vec::new(),
            length: 0,
        };
        let at = open.iter().position(|(window, _)| window.layer == layer);
        let at = at.unwrap_or_else(|| {
            open.push((new(), gathering.first));
            open.len() - 1
        });
        let (window, limit) = &mut open[at];
        let bytes = place(tables[usize::from(layer)], unit);
        let more = bytes.end - bytes.start;
        if window.length > 0 && window.length + more > *limit {
            whole.push(std::mem::replace(window, new()));
            *limit = (*limit * 2).min(gathering.longest);
        }
        window.length += more;
        window.units.push(unit);
    }
    whole.extend(open.into_iter().map(|(window, _)| window));
    whole.sort_unstable_by_key(|window| window.first);
    let extent = |it: Window| {
        let table = tables[usize::from(it.layer)];
        (it.layer, apart(table, it.units, gathering.gap))
    };
    whole.into_iter().map(extent).collect()
}

/// One extent of these units, in as many runs as it takes; only small gaps are fetched over.
pub(super) fn apart(table: &ChunkTable, mut units: Vec<u32>, gap: u64) -> Extent {
    units.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for bytes in units.iter().map(|&unit| place(table, unit)) {
        match ranges.last_mut() {
            Some(last) if bytes.start <= last.end.saturating_add(gap) => {
                last.end = last.end.max(bytes.end);
            }
            _ => ranges.push(bytes),
        }
    }
    Extent { ranges, units }
}

fn place(table: &ChunkTable, unit: u32) -> Range<u64> {
    let unit = &table.units[unit as usize];
    unit.offset..unit.offset + u64::from(unit.length)
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

// === impl Extent ===

impl Extent {
    /// Bytes of all its runs.
    pub(super) fn length(&self) -> u64 {
        self.ranges.iter().map(|run| run.end - run.start).sum()
    }
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
                .map(|e| (e.ranges[0].clone(), e.units))
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
    fn what_is_needed_together_comes_together() {
        let unit = |offset| Unit {
            offset,
            length: 10,
            codec: Codec::Raw,
        };
        let table = ChunkTable {
            units: [0, 15, 100, 1000, 5000].into_iter().map(unit).collect(),
            ..ChunkTable::default()
        };
        let tables = [&table, &table];
        let all = [(1, 4), (0, 1), (0, 0), (0, 3), (0, 2)];
        let gathered = |gap, first, longest| -> Vec<(u16, Vec<Range<u64>>, Vec<u32>)> {
            let gathering = Gathering {
                gap,
                first,
                longest,
            };
            let found = gather(&tables, &all, gathering).into_iter();
            let parts = |(layer, it): (u16, Extent)| (layer, it.ranges, it.units);
            found.map(parts).collect()
        };
        let last = (1, vec![5000..5010], vec![4]);
        assert_eq!(
            gathered(4, 1000, 1000),
            [
                last.clone(),
                (
                    0,
                    vec![0..10, 15..25, 100..110, 1000..1010],
                    vec![0, 1, 2, 3]
                )
            ],
            "one for each layer"
        );
        assert_eq!(
            gathered(5, 1000, 1000)[1].1,
            [0..25, 100..110, 1000..1010],
            "small gaps are read over"
        );
        assert_eq!(
            gathered(5, 10, 20),
            [
                last,
                (0, vec![15..25], vec![1]),
                (0, vec![0..10, 1000..1010], vec![0, 3]),
                (0, vec![100..110], vec![2])
            ],
            "the first one short, none too long"
        );
        assert_eq!(gathered(5, 0, 0).len(), 5, "at least a unit in each");
        let gathering = Gathering {
            gap: 0,
            first: 0,
            longest: 0,
        };
        assert_eq!(gather(&tables, &[], gathering), []);
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
