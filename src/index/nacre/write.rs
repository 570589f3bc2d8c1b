//! Writing the table of one layer.

use std::collections::HashMap;

use super::{
    bytes::{put, put_bytes, put_signed},
    table::{Column, Kind, Layer, algorithm_byte, codec_byte},
};
use crate::index::{Chunk, Codec, Entry, EntryKind, Place};

/// The table before compression. `windows` are the lengths of the windows of its checkpoints, as they
/// are stored.
///
/// # Errors
/// What cannot be written: units of several kinds.
pub(super) fn write(layer: &Layer, windows: &[usize]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let index = &layer.index;
    put(&mut out, layer.tar_size);
    out.extend_from_slice(&layer.diff_id);
    if !index.table.spans.is_empty() {
        return Err("chunks without digests".into());
    }
    out.push(algorithm_byte(index.table.algorithm));
    let codec = index.table.units.first().map_or(Codec::Raw, |it| it.codec);
    if index.table.units.iter().any(|it| it.codec != codec) {
        return Err("units of several kinds".into());
    }
    out.push(codec_byte(codec));
    for count in [
        index.entries.len(),
        chunks_of(layer).count(),
        index.table.units.len(),
    ] {
        put(&mut out, count as u64);
    }
    let columns = columns(layer, codec, windows)?;
    for column in &columns {
        put(&mut out, column.len() as u64);
    }
    columns.iter().for_each(|it| out.extend_from_slice(it));
    Ok(out)
}

fn columns(
    layer: &Layer,
    codec: Codec,
    windows: &[usize],
) -> Result<[Vec<u8>; Column::COUNT], String> {
    let mut columns: [Vec<u8>; Column::COUNT] = Default::default();
    entries(layer, &mut columns);
    chunks(layer, &mut columns)?;
    let units = &mut columns[Column::Units as usize];
    match codec {
        Codec::Deflate => checkpoints(layer, windows, units),
        _ => self::units(layer, units),
    }
    Ok(columns)
}

fn entries(layer: &Layer, columns: &mut [Vec<u8>; Column::COUNT]) {
    let mut owners = Dictionary::default();
    let mut xattrs = Dictionary::default();
    // Number 0 is to have none.
    xattrs.number(vec![0]);
    let mut before: &[u8] = &[];
    let mut clock = 0;
    for entry in &layer.index.entries {
        let names = &mut columns[Column::Names as usize];
        let shared = before
            .iter()
            .zip(&*entry.path)
            .take_while(|(a, b)| a == b)
            .count();
        put(names, shared as u64);
        put_bytes(names, &entry.path[shared..]);
        before = &entry.path;
        let numbers = &mut columns[Column::Numbers as usize];
        put(numbers, owners.number(owner(entry)));
        put(numbers, xattrs.number(attributes(entry)));
        let times = &mut columns[Column::Times as usize];
        put_signed(times, entry.mtime.wrapping_sub(clock));
        put(times, entry.mtime_nanos.into());
        clock = entry.mtime;
        let details = &mut columns[Column::Details as usize];
        match &entry.kind {
            EntryKind::Regular { size, chunks } => {
                put(details, *size);
                put(details, chunks.len() as u64);
            }
            EntryKind::Symlink(target) | EntryKind::Hardlink(target) => put_bytes(details, target),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                put(details, u64::from(*major));
                put(details, u64::from(*minor));
            }
            EntryKind::Directory | EntryKind::Fifo => {}
        }
    }
    columns[Column::Owners as usize] = owners.written;
    columns[Column::Xattrs as usize] = xattrs.written;
}

/// Kind, mode, owner and group.
fn owner(entry: &Entry) -> Vec<u8> {
    let mut out = vec![Kind::of(&entry.kind) as u8];
    for number in [u32::from(entry.mode), entry.uid, entry.gid] {
        put(&mut out, number.into());
    }
    out
}

fn attributes(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(&mut out, name);
        put_bytes(&mut out, value);
    }
    out
}

/// Chunks in the order of the files, which is that of the layer.
fn chunks(layer: &Layer, columns: &mut [Vec<u8>; Column::COUNT]) -> Result<(), String> {
    let (mut unit_before, mut end) = (0, 0);
    for chunk in chunks_of(layer) {
        let places = &mut columns[Column::Places as usize];
        put(places, chunk.length.into());
        let Place::Unit { unit, offset } = chunk.place else {
            put(places, HOLE);
            continue;
        };
        let from = if unit == unit_before { end } else { 0 };
        let step = unit.checked_sub(unit_before).zip(offset.checked_sub(from));
        let (step, skipped) = step.ok_or("files in another order than in the layer")?;
        // One more, so that a hole has a number.
        put(places, u64::from(step) + 1);
        put(places, skipped.into());
        (unit_before, end) = (unit, offset + chunk.length);
        columns[Column::Digests as usize].extend_from_slice(&chunk.digest);
    }
    Ok(())
}

/// The chunks that files have: those of files that were replaced in the same layer are left out.
fn chunks_of(layer: &Layer) -> impl Iterator<Item = &Chunk> {
    let runs = layer.index.entries.iter().filter_map(|it| match &it.kind {
        EntryKind::Regular { chunks, .. } => Some(chunks.start as usize..chunks.end as usize),
        _ => None,
    });
    runs.flat_map(|run| layer.index.table.chunks.get(run).unwrap_or_default())
}

fn units(layer: &Layer, column: &mut Vec<u8>) {
    let mut end = 0_u64;
    for unit in &layer.index.table.units {
        put_signed(column, unit.offset.wrapping_sub(end).cast_signed());
        put(column, unit.length.into());
        end = unit.offset + u64::from(unit.length);
    }
}

/// Where units begin and end follows from the checkpoints.
fn checkpoints(layer: &Layer, windows: &[usize], column: &mut Vec<u8>) {
    let (mut offset, mut plain) = (0, 0);
    for (point, window) in layer.index.table.checkpoints.list.iter().zip(windows) {
        put(column, point.offset - offset);
        column.push(point.bits);
        put(column, point.plain - plain);
        put(column, *window as u64);
        (offset, plain) = (point.offset, point.plain);
    }
}

/// What was written before is named by its number.
#[derive(Default)]
struct Dictionary {
    numbers: HashMap<Vec<u8>, u64>,
    written: Vec<u8>,
}

// === impl Dictionary ===

impl Dictionary {
    fn number(&mut self, content: Vec<u8>) -> u64 {
        let next = self.numbers.len() as u64;
        match self.numbers.get(&content) {
            Some(number) => *number,
            None => {
                self.written.extend_from_slice(&content);
                self.numbers.insert(content, next);
                next
            }
        }
    }
}

/// Place of a chunk that is a hole.
pub(super) const HOLE: u64 = 0;
