//! Reading the table of one layer, and refusing what does not fit together.

use super::{
    bytes::Rest,
    table::{Column, Kind, Layer, MAX_TEXT, algorithm_of, codec_of},
    write::HOLE,
};
use crate::{
    codec::{Checkpoint, Checkpoints, MAX_PACKED_WINDOW},
    index::{
        Chunk, ChunkTable, Codec, Entry, EntryKind, LayerIndex, MAX_CHUNK, MAX_UNIT, Place, Unit,
        Xattr,
        builder::refuse_duplicates,
        clean_path,
        files::check_xattrs,
        limits::{MAX_CHUNKS, MAX_ENTRIES, MAX_PATH, MAX_UNIT_PLAIN, MAX_UNITS},
    },
};

/// A table, and how long the windows of its checkpoints are as they are stored.
pub(super) struct Read {
    pub(super) layer: Layer,
    pub(super) windows: Vec<u32>,
}

/// A distinct kind, mode and owner.
#[derive(Clone, Copy)]
struct Owner {
    kind: Kind,
    mode: u16,
    uid: u32,
    gid: u32,
}

/// A distinct set of extended attributes.
struct Set {
    pairs: Vec<Xattr>,
    /// Bytes of all of them.
    length: usize,
}

type Columns<'a> = [Rest<'a>; Column::COUNT];

const CUT: &str = "it is cut short";

/// Reads a table of a layer whose plain blob has `blob` bytes. Pure, and bounded by
/// [`limits`](crate::index::limits).
pub(super) fn read(table: &[u8], blob: u64) -> Result<Read, String> {
    let mut rest = Rest::new(table);
    let tar_size = rest.number().ok_or(CUT)?;
    let diff_id = rest.array().ok_or(CUT)?;
    let algorithm = rest.byte().and_then(algorithm_of);
    let algorithm = algorithm.ok_or("what its digests are is not known")?;
    let codec = rest.byte().and_then(codec_of);
    let codec = codec.ok_or("what its units are is not known")?;
    let mut count = |most: usize, what: &str| {
        let count = rest.number().ok_or(CUT)?;
        let fits = usize::try_from(count).ok().filter(|it| *it <= most);
        fits.ok_or_else(|| format!("{count} {what}, at most {most}"))
    };
    let counts = (
        count(MAX_ENTRIES, "entries")?,
        count(MAX_CHUNKS, "chunks")?,
        count(MAX_UNITS, "units")?,
    );
    let mut lengths = [0; Column::COUNT];
    for length in &mut lengths {
        *length = rest
            .number()
            .and_then(|it| usize::try_from(it).ok())
            .ok_or(CUT)?;
    }
    let mut columns: Columns<'_> = [Rest::new(&[]); Column::COUNT];
    for (column, length) in columns.iter_mut().zip(lengths) {
        *column = Rest::new(rest.take(length).ok_or(CUT)?);
    }
    if !rest.is_empty() {
        return Err("bytes behind its end".into());
    }
    let column = &mut columns[Column::Units as usize];
    let mut windows = Vec::new();
    let (units, checkpoints) = match codec {
        Codec::Deflate => checkpoints(column, counts.2, blob, tar_size, &mut windows)?,
        codec => (
            units(column, counts.2, blob, codec)?,
            Checkpoints::default(),
        ),
    };
    let entries = entries(&mut columns, counts.0, counts.1)?;
    let chunks = chunks(&mut columns, &entries, counts.1, units.len())?;
    if columns.iter().any(|column| !column.is_empty()) {
        return Err("bytes behind the end of a column".into());
    }
    refuse_duplicates(&entries)?;
    let table = ChunkTable {
        chunks,
        units,
        algorithm,
        checkpoints,
        spans: Vec::new(),
    };
    Ok(Read {
        layer: Layer {
            index: LayerIndex {
                entries,
                table,
                prefetch: 0,
            },
            tar_size,
            diff_id,
        },
        windows,
    })
}

fn entries(columns: &mut Columns<'_>, count: usize, chunks: usize) -> Result<Vec<Entry>, String> {
    let owners = owners(&mut columns[Column::Owners as usize])?;
    let xattrs = xattrs(&mut columns[Column::Xattrs as usize])?;
    // An entry takes two bytes of names, two of numbers, two of times.
    if columns[Column::Names as usize].len() / 2 < count {
        return Err(CUT.into());
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let mut text = MAX_TEXT;
    let (mut clock, mut used) = (0_i64, 0_usize);
    for number in 0..count {
        let bad = |what: &str| format!("entry {number}: {what}");
        let before = entries.last().map_or(&[][..], |it| &it.path);
        let path = name(&mut columns[Column::Names as usize], before).map_err(|it| bad(&it))?;
        let numbers = &mut columns[Column::Numbers as usize];
        let mut next = || usize::try_from(numbers.number()?).ok();
        let owner = next().and_then(|it| owners.get(it));
        let owner = *owner.ok_or_else(|| bad("no kind and owner has its number"))?;
        let set = next().and_then(|it| xattrs.get(it));
        let set = set.ok_or_else(|| bad("no attributes have its number"))?;
        text = text
            .checked_sub(path.len() + set.length)
            .ok_or("its paths and attributes are too long")?;
        let times = &mut columns[Column::Times as usize];
        let step = times.signed().ok_or(CUT)?;
        clock = clock.wrapping_add(step);
        let nanos = times.u32().filter(|it| *it < 1_000_000_000);
        let details = &mut columns[Column::Details as usize];
        let kind = kind(owner.kind, details, &mut used, chunks).map_err(|it| bad(&it))?;
        if path.is_empty() && kind != EntryKind::Directory {
            return Err(bad("the root is not a directory"));
        }
        entries.push(Entry {
            path,
            kind,
            mode: owner.mode,
            uid: owner.uid,
            gid: owner.gid,
            mtime: clock,
            mtime_nanos: nanos.ok_or_else(|| bad("its modification time is malformed"))?,
            xattrs: set.pairs.to_vec(),
        });
    }
    if used != chunks {
        return Err(format!("its files have {used} chunks, there are {chunks}"));
    }
    Ok(entries)
}

/// The next path, given the one before.
fn name(names: &mut Rest<'_>, before: &[u8]) -> Result<Box<[u8]>, String> {
    let shared = names.number().and_then(|it| usize::try_from(it).ok());
    let shared = shared.and_then(|it| before.get(..it));
    let shared = shared.ok_or("it has more in common with the path before than that has")?;
    let own = names.bytes().ok_or(CUT)?;
    if shared.len() + own.len() > MAX_PATH {
        return Err(format!("a path of more than {MAX_PATH} bytes"));
    }
    let path = [shared, own].concat();
    match clean_path(&path)? {
        clean if *clean == path => Ok(clean),
        _ => Err("a path that is not clean".into()),
    }
}

fn kind(
    kind: Kind,
    details: &mut Rest<'_>,
    used: &mut usize,
    chunks: usize,
) -> Result<EntryKind, String> {
    Ok(match kind {
        Kind::Directory => EntryKind::Directory,
        Kind::Fifo => EntryKind::Fifo,
        Kind::Regular => {
            let size = details.number().ok_or(CUT)?;
            let count = details.number().and_then(|it| usize::try_from(it).ok());
            let end = count.and_then(|it| used.checked_add(it));
            let end = end
                .filter(|it| *it <= chunks)
                .ok_or("it has too many chunks")?;
            let number = |it: usize| u32::try_from(it).map_err(|e| e.to_string());
            let run = number(*used)?..number(end)?;
            *used = end;
            EntryKind::Regular { size, chunks: run }
        }
        Kind::Symlink => {
            let target = details.bytes().ok_or(CUT)?;
            if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) {
                return Err(format!("a link target of {} bytes", target.len()));
            }
            EntryKind::Symlink(target.into())
        }
        Kind::Hardlink => {
            let target = details.bytes().ok_or(CUT)?;
            match clean_path(target)? {
                clean if *clean == *target && !clean.is_empty() => EntryKind::Hardlink(clean),
                _ => return Err("a link target that is not clean".into()),
            }
        }
        Kind::CharDevice | Kind::BlockDevice => {
            let (major, minor) = (details.u32().ok_or(CUT)?, details.u32().ok_or(CUT)?);
            match kind {
                Kind::CharDevice => EntryKind::CharDevice { major, minor },
                _ => EntryKind::BlockDevice { major, minor },
            }
        }
    })
}

fn owners(column: &mut Rest<'_>) -> Result<Vec<Owner>, String> {
    let mut owners = Vec::new();
    while let Some(kind) = column.byte() {
        let mode = column.number().ok_or(CUT)?;
        owners.push(Owner {
            kind: Kind::from_byte(kind).ok_or_else(|| format!("kind {kind} is not known"))?,
            mode: u16::try_from(mode)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| format!("mode {mode:o} is none"))?,
            uid: column.u32().ok_or(CUT)?,
            gid: column.u32().ok_or(CUT)?,
        });
    }
    Ok(owners)
}

fn xattrs(column: &mut Rest<'_>) -> Result<Vec<Set>, String> {
    let mut sets = Vec::new();
    while !column.is_empty() {
        let count = column.count(2).ok_or(CUT)?;
        let mut pairs: Vec<Xattr> = Vec::with_capacity(count);
        let mut length = 0;
        for _ in 0..count {
            let name = column.bytes().ok_or(CUT)?;
            let value = column.bytes().ok_or(CUT)?;
            length += name.len() + value.len() + PAIR;
            pairs.push((name.into(), value.into()));
        }
        check_xattrs(&pairs).map_err(|what| format!("attributes {}: {what}", sets.len()))?;
        sets.push(Set { pairs, length });
    }
    Ok(sets)
}

/// The chunks, which cover every file without gap or overlap.
fn chunks(
    columns: &mut Columns<'_>,
    entries: &[Entry],
    count: usize,
    units: usize,
) -> Result<Vec<Chunk>, String> {
    // A chunk takes two bytes of its column at least.
    if columns[Column::Places as usize].len() / 2 < count {
        return Err(CUT.into());
    }
    let mut chunks = Vec::with_capacity(count);
    let (mut unit_before, mut end) = (0_u32, 0_u32);
    let files = entries.iter().filter_map(|entry| match &entry.kind {
        EntryKind::Regular { size, chunks } => Some((*size, chunks.len())),
        _ => None,
    });
    for (size, count) in files {
        let mut file_offset = 0_u64;
        for _ in 0..count {
            let number = chunks.len();
            let bad = |what: &str| format!("chunk {number}: {what}");
            let places = &mut columns[Column::Places as usize];
            let length = places.u32().filter(|it| (1..=MAX_CHUNK).contains(it));
            let length = length.ok_or_else(|| bad("no chunk has its length"))?;
            let place = match places.number().ok_or(CUT)? {
                HOLE => Place::Zeros,
                step => {
                    let unit = u64::from(unit_before).checked_add(step - 1);
                    let unit = unit.and_then(|it| u32::try_from(it).ok());
                    let unit = unit.filter(|it| (*it as usize) < units);
                    let unit = unit.ok_or_else(|| bad("no unit has its number"))?;
                    // Behind what the chunks before it take, so that no byte belongs to two.
                    let from = if unit == unit_before { end } else { 0 };
                    let offset = places.u32().and_then(|it| it.checked_add(from));
                    let until = |it: u32| it.checked_add(length).filter(|it| *it <= MAX_UNIT_PLAIN);
                    let place = offset.and_then(|it| Some((it, until(it)?)));
                    let place = place.ok_or_else(|| bad("it is beyond what a unit holds"))?;
                    (unit_before, end) = (unit, place.1);
                    Place::Unit {
                        unit,
                        offset: place.0,
                    }
                }
            };
            let digest = match place {
                Place::Zeros => [0; 32],
                Place::Unit { .. } => columns[Column::Digests as usize].array().ok_or(CUT)?,
            };
            chunks.push(Chunk {
                file_offset,
                length,
                place,
                digest,
            });
            file_offset += u64::from(length);
        }
        if file_offset != size {
            return Err(format!(
                "a file of {size} bytes, its chunks have {file_offset}"
            ));
        }
    }
    Ok(chunks)
}

fn units(
    column: &mut Rest<'_>,
    count: usize,
    blob: u64,
    codec: Codec,
) -> Result<Vec<Unit>, String> {
    if column.len() / 2 < count {
        return Err(CUT.into());
    }
    let mut units: Vec<Unit> = Vec::with_capacity(count);
    let mut end = 0_u64;
    for number in 0..count {
        let bad = |what: &str| format!("unit {number}: {what}");
        let offset = end.checked_add_signed(column.signed().ok_or(CUT)?);
        let length = column.u32().filter(|it| (1..=MAX_UNIT).contains(it));
        let length = length.ok_or_else(|| bad("no unit has its length"))?;
        let next = offset.and_then(|it| Some((it, it.checked_add(length.into())?)));
        let next = next.filter(|(_, end)| *end <= blob);
        let next = next.ok_or_else(|| bad("it is not inside the layer"))?;
        if units.last().is_some_and(|last| last.offset >= next.0) {
            return Err(bad("it does not follow the one before"));
        }
        end = next.1;
        units.push(Unit {
            offset: next.0,
            length,
            codec,
        });
    }
    Ok(units)
}

/// Checkpoints whose windows are elsewhere, and the units between them.
fn checkpoints(
    column: &mut Rest<'_>,
    count: usize,
    blob: u64,
    tar_size: u64,
    windows: &mut Vec<u32>,
) -> Result<(Vec<Unit>, Checkpoints), String> {
    // Three numbers and a byte.
    if column.len() / 4 < count {
        return Err(CUT.into());
    }
    let mut list = Vec::with_capacity(count);
    let (mut offset, mut plain) = (0_u64, 0_u64);
    for number in 0..count {
        let bad = |what: &str| format!("checkpoint {number}: {what}");
        let mut next = |before: u64| before.checked_add(column.number()?);
        offset = next(offset).ok_or_else(|| bad("it is beyond the layer"))?;
        let bits = column.byte().ok_or(CUT)?;
        let mut next = |before: u64| before.checked_add(column.number()?);
        plain = next(plain).ok_or_else(|| bad("it is beyond the tar"))?;
        let window = column.u32().filter(|it| *it as usize <= MAX_STORED_WINDOW);
        let window = window.ok_or_else(|| bad("no window has its length"))?;
        windows.push(window);
        list.push(match window {
            0 => Checkpoint::packed(offset, bits, plain, Box::default()),
            _ => Checkpoint::elsewhere(offset, bits, plain),
        });
    }
    let checkpoints = Checkpoints {
        list,
        plain_size: tar_size,
        ..Checkpoints::default()
    };
    checkpoints.check(blob)?;
    let mut units = Vec::with_capacity(count);
    for run in 0..count {
        let bad = |what: &str| format!("checkpoint {run}: {what}");
        let extent = checkpoints
            .extent(run, blob)
            .ok_or_else(|| bad("it has no end"))?;
        let length = extent
            .end
            .checked_sub(extent.start)
            .and_then(|it| u32::try_from(it).ok());
        let length = length.filter(|it| (1..=MAX_UNIT).contains(it));
        units.push(Unit {
            offset: extent.start,
            length: length.ok_or_else(|| bad("no unit has its length"))?,
            codec: Codec::Deflate,
        });
    }
    Ok((units, checkpoints))
}

/// Longest window as it is stored: sealed.
const MAX_STORED_WINDOW: usize = MAX_PACKED_WINDOW + 64;
/// What a pair of name and value takes in memory beside them.
const PAIR: usize = 32;
