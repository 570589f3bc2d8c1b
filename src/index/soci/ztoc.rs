//! A zTOC: files, spans and where a decompressor can begin, as SOCI writes them for one layer.
//!
//! Parsed into what it says, every number in bounds and every span inside its blob; see
//! `docs/formats/soci.md`.

use std::ops::Range;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::flat::{Budget, Buffer, Flaw, Table};
use crate::index::limits::{MAX_CHUNKS, MAX_ENTRIES};

/// What a zTOC says of a layer.
#[derive(Debug)]
pub(super) struct Ztoc<'a> {
    pub(super) compression: Compression,
    /// Bytes of the tar, up to its end mark.
    pub(super) plain: u64,
    /// In the order of the tar.
    pub(super) files: Vec<File<'a>>,
    /// In order; each ends where the next begins.
    pub(super) spans: Vec<Span<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    None,
}

/// One entry of the tar, as Go reads its header.
#[derive(Debug)]
pub(super) struct File<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: &'a [u8],
    /// Where its content begins in the tar.
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) link: &'a [u8],
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: (i64, u32),
    pub(super) device: (u32, u32),
    /// PAX records; the attributes are among them.
    pub(super) records: Vec<(&'a [u8], &'a [u8])>,
}

/// A run of the layer that is verified and decompressed as one.
#[derive(Debug)]
pub(super) struct Span<'a> {
    /// Bytes of the plain blob, all that the digest is of.
    pub(super) blob: Range<u64>,
    /// Where what it decompresses to begins in the tar.
    pub(super) tar: u64,
    /// How many bits of its first byte are not the last span's; 0 if all of the byte is its own.
    pub(super) bits: u8,
    /// What the decompressor looks back at; empty where it does not.
    pub(super) window: &'a [u8],
    /// SHA-256 of its bytes in the blob.
    pub(super) digest: [u8; 32],
}

/// What a file costs of a buffer at least: its offset, its table, six strings and their ends.
const FILE_COST: usize = 64;
/// What an attribute costs at least.
const RECORD_COST: usize = 24;
/// What a span costs at least: its offset and its digest as text.
const SPAN_COST: usize = 64;

/// Parses a zTOC of a plain blob of `size` bytes. Pure.
pub(super) fn parse(bytes: &[u8], size: u64) -> Result<Ztoc<'_>, String> {
    read(bytes, size).map_err(|flaw| format!("zTOC: {flaw}"))
}

fn read(bytes: &[u8], size: u64) -> Result<Ztoc<'_>, String> {
    let mut budget = Budget::new(bytes.len());
    let root = Buffer::root(bytes)?;
    let version = root.bytes(0, &mut budget)?;
    if version != VERSION {
        let version = String::from_utf8_lossy(version);
        return Err(format!("version {version:?} is not known"));
    }
    let whole = unsigned(root.i64(2)?)?;
    if whole != size {
        return Err(format!("of a blob of {whole} bytes, the layer has {size}"));
    }
    let plain = unsigned(root.i64(3)?)?;
    let toc = root.child(4)?.ok_or("no files")?;
    let info = root.child(5)?.ok_or("no spans")?;
    let (compression, spans) = spans(&info, size, plain, &mut budget)?;
    let list = toc.offsets(0)?;
    if list.count > MAX_ENTRIES {
        return Err(format!("{} entries, at most {MAX_ENTRIES}", list.count));
    }
    let mut files = Vec::new();
    for (number, table) in list.tables().enumerate() {
        let file = file(&table?, &mut budget).map_err(|flaw| format!("entry {number}: {flaw}"))?;
        if file.offset.checked_add(file.size).is_none() {
            return Err(format!("entry {number}: it ends beyond any tar"));
        }
        files.push(file);
    }
    Ok(Ztoc {
        compression,
        plain,
        files,
        spans,
    })
}

fn file<'a>(table: &Table<'a>, budget: &mut Budget) -> Result<File<'a>, Flaw> {
    budget.take(FILE_COST)?;
    let mut text = |field| table.bytes(field, budget);
    let (name, kind, link, time) = (text(0)?, text(1)?, text(4)?, text(10)?);
    let mut records = Vec::new();
    for record in table.offsets(13)?.tables() {
        let record = record?;
        budget.take(RECORD_COST)?;
        records.push((record.bytes(0, budget)?, record.bytes(1, budget)?));
    }
    let device = |field| u32::try_from(table.i64(field)?).map_err(|_| "no device has its number");
    Ok(File {
        name,
        kind,
        link,
        offset: unsigned(table.i64(2)?)?,
        size: unsigned(table.i64(3)?)?,
        mode: u16::try_from(table.i64(5)? & 0o7777).map_err(|_| "its mode is none")?,
        uid: table.u32(6)?,
        gid: table.u32(7)?,
        time: self::time(time)?,
        device: (device(11)?, device(12)?),
        records,
    })
}

/// Seconds since 1970 and nanoseconds of a time as RFC 3339 writes it.
fn time(text: &[u8]) -> Result<(i64, u32), Flaw> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let text = std::str::from_utf8(text).ok();
    let time = text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let time = time.ok_or("its modification time is malformed")?;
    Ok((time.unix_timestamp(), time.nanosecond()))
}

fn spans<'a>(
    info: &Table<'a>,
    size: u64,
    plain: u64,
    budget: &mut Budget,
) -> Result<(Compression, Vec<Span<'a>>), String> {
    let compression = match info.byte(0, GZIP)? {
        GZIP => Compression::Gzip,
        UNCOMPRESSED => Compression::None,
        other => return Err(format!("compression {other} is not known")),
    };
    let digests = info.offsets(2)?;
    let count = usize::try_from(info.i32(1)?)
        .ok()
        .and_then(|last| last.checked_add(1))
        .filter(|count| *count == digests.count && *count <= MAX_CHUNKS)
        .ok_or("its spans and their digests are not the same in number")?;
    let checkpoints = info.bytes(3, budget)?;
    let points = match compression {
        Compression::Gzip => gzip_points(checkpoints, count)?,
        Compression::None => raw_points(checkpoints, count, size)?,
    };
    let mut spans: Vec<Span<'a>> = Vec::with_capacity(count);
    for ((number, point), digest) in points.iter().enumerate().zip(digests.strings()) {
        budget.take(SPAN_COST)?;
        let bad = |what: &str| format!("span {number}: {what}");
        let end = points.get(number + 1).map_or(size, |next| next.blob);
        let start = point.blob.checked_sub(u64::from(point.bits != 0));
        let start = start.filter(|start| *start < end && end <= size);
        let start = start.ok_or_else(|| bad("it is not inside the layer"))?;
        let next = points.get(number + 1).map_or(u64::MAX, |next| next.tar);
        if point.bits > 7 || point.tar >= next || (number == 0 && point.tar != 0) {
            return Err(bad("it does not follow the one before"));
        }
        if point.tar > plain {
            return Err(bad("it begins beyond the end of the tar"));
        }
        spans.push(Span {
            blob: start..end,
            tar: point.tar,
            bits: point.bits,
            window: point.window,
            digest: sha256(digest?).ok_or_else(|| bad("its digest is not sha256"))?,
        });
    }
    Ok((compression, spans))
}

/// Where a decompressor can begin.
struct Point<'a> {
    /// The first byte that is not read by then.
    blob: u64,
    tar: u64,
    bits: u8,
    window: &'a [u8],
}

/// `zinfo`: count, span size, then for each point its offsets, bits and window. The first version
/// leaves the first point out.
fn gzip_points(bytes: &[u8], count: usize) -> Result<Vec<Point<'_>>, String> {
    let (head, rest) = bytes
        .split_at_checked(ZINFO_HEADER)
        .ok_or("its checkpoints are cut short")?;
    let said = head
        .first_chunk()
        .map(|it| i32::from_le_bytes(*it))
        .and_then(|it| usize::try_from(it).ok());
    let listed = rest.len() / ZINFO_POINT;
    let whole = rest.len() % ZINFO_POINT == 0;
    if said != Some(count) || !whole || (listed != count && listed + 1 != count) {
        return Err("its checkpoints and spans are not the same in number".into());
    }
    let mut points = Vec::with_capacity(count);
    if listed < count {
        points.push(Point {
            blob: PLAIN_GZIP_HEADER,
            tar: 0,
            bits: 0,
            window: &[],
        });
    }
    for point in rest.chunks_exact(ZINFO_POINT) {
        let number = |at: usize| -> Result<u64, String> {
            let bytes = point.get(at..at + 8).and_then(|it| it.try_into().ok());
            let number = i64::from_le_bytes(bytes.ok_or("its checkpoints are cut short")?);
            Ok(unsigned(number)?)
        };
        let (blob, tar, bits) = (number(0)?, number(8)?, point[16]);
        points.push(Point {
            blob,
            tar,
            bits,
            // Nothing lies before the first byte to look back at.
            window: if tar == 0 { &[] } else { &point[17..] },
        });
    }
    Ok(points)
}

/// A FlatBuffer of version, span size and size.
fn raw_points(bytes: &[u8], count: usize, size: u64) -> Result<Vec<Point<'static>>, String> {
    let table = Buffer::root(bytes)?;
    let span = unsigned(table.i64(1)?)?;
    let spans = size.checked_div(span).map(|whole| {
        let rest = u64::from(!size.is_multiple_of(span));
        whole + rest
    });
    if unsigned(table.i64(2)?)? != size || spans != Some(count as u64) {
        return Err("its spans do not cover the layer".into());
    }
    let at = |number: u64| Point {
        blob: number * span,
        tar: number * span,
        bits: 0,
        window: &[],
    };
    Ok((0..count as u64).map(at).collect())
}

fn unsigned(number: i64) -> Result<u64, Flaw> {
    u64::try_from(number).map_err(|_| "a number is negative")
}

fn sha256(text: &[u8]) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let hex = text.strip_prefix(b"sha256:")?;
    hex::decode_to_slice(hex, &mut digest).ok()?;
    Some(digest)
}

const VERSION: &[u8] = b"0.9";
const GZIP: u8 = 1;
const UNCOMPRESSED: u8 = 2;
/// Count and span size.
const ZINFO_HEADER: usize = 12;
/// Two offsets, the bits, the window of deflate.
const ZINFO_POINT: usize = 8 + 8 + 1 + (32 << 10);
/// Where the first version of `zinfo` takes the first block to begin.
const PLAIN_GZIP_HEADER: u64 = 10;
