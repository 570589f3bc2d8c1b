//! An index that was made here, as bytes (docs/formats/kept-index.md).
//!
//! One zstd frame of numbers in LEB128 and strings with their length. [`parse`] is bounded by the limits
//! of the index and gives only what [`LayerIndex::check`] passes.

use super::{
    Algorithm, Chunk, ChunkTable, Codec, Entry, EntryKind, LayerIndex, Place, Subject, Unit,
    limits::{MAX_CHUNKS, MAX_DOCUMENT, MAX_ENTRIES, MAX_UNITS, MAX_XATTR_LIST},
};
use crate::{
    codec::{Checkpoint, Checkpoints, MAX_PACKED_WINDOW},
    oci::Digest,
};

/// Version of the format.
const VERSION: u64 = 1;
/// Windows are packed already and the rest is small, so the fastest level does.
const LEVEL: i32 = 1;
/// Longest string: a value of an extended attribute, or a path.
const MAX_STRING: usize = 64 << 10;

/// The index and its layer as bytes.
pub(crate) fn encode(index: &LayerIndex, subject: &Subject) -> Vec<u8> {
    let mut to = Writer(Vec::new());
    to.number(VERSION);
    to.string(subject.blob.to_string().as_bytes());
    to.number(subject.blob_size);
    to.string(subject.diff_id.to_string().as_bytes());
    to.number(match index.table.algorithm {
        Algorithm::Sha256 => 0,
        Algorithm::Blake3 => 1,
    });
    to.number(index.prefetch);
    to.units(&index.table);
    to.number(index.table.chunks.len() as u64);
    for chunk in &index.table.chunks {
        to.chunk(chunk);
    }
    to.number(index.entries.len() as u64);
    for entry in &index.entries {
        to.entry(entry);
    }
    // It fails only for want of memory.
    zstd::bulk::compress(&to.0, LEVEL).unwrap_or_default()
}

/// Reads what [`encode`] gave.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(document: &[u8]) -> Result<(LayerIndex, Subject), String> {
    let size = zstd::zstd_safe::get_frame_content_size(document)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= MAX_DOCUMENT)
        .ok_or("not a document of a size that an index has")?;
    // No format expands by more than this; a lie about the size costs no memory.
    if size / MAX_RATIO > document.len() {
        return Err("its size is not true".into());
    }
    let bytes = zstd::bulk::decompress(document, size).map_err(|e| e.to_string())?;
    parse_plain(&bytes)
}

/// The same before compression.
pub(crate) fn parse_plain(bytes: &[u8]) -> Result<(LayerIndex, Subject), String> {
    let mut from = Reader(bytes);
    match from.number()? {
        VERSION => {}
        other => return Err(format!("version {other} is not known")),
    }
    let subject = Subject {
        blob: from.digest()?,
        blob_size: from.number()?,
        diff_id: from.digest()?,
    };
    let algorithm = match from.number()? {
        0 => Algorithm::Sha256,
        1 => Algorithm::Blake3,
        other => return Err(format!("algorithm {other} is not known")),
    };
    let prefetch = from.number()?;
    let (units, checkpoints) = from.units()?;
    let chunks = from.list(MAX_CHUNKS, Reader::chunk)?;
    let entries = from.list(MAX_ENTRIES, Reader::entry)?;
    if !from.0.is_empty() {
        return Err("something follows it".into());
    }
    let index = LayerIndex {
        entries,
        table: ChunkTable {
            chunks,
            units,
            algorithm,
            checkpoints,
            spans: Vec::new(),
        },
        prefetch,
    };
    index.check(subject.blob_size)?;
    Ok((index, subject))
}

/// More than zstd makes of any index: entries differ in their names.
const MAX_RATIO: usize = 4096;

struct Writer(Vec<u8>);

// === impl Writer ===

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0
                .push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or_default());
    }

    fn string(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Offsets ascend, so their differences are written.
    fn units(&mut self, table: &ChunkTable) {
        self.number(table.units.len() as u64);
        let mut last = 0;
        for unit in &table.units {
            self.number(unit.offset - last);
            last = unit.offset;
            self.number(unit.length.into());
            self.number(match unit.codec {
                Codec::Raw => 0,
                Codec::Gzip => 1,
                Codec::Zstd => 2,
                Codec::Deflate => 3,
            });
        }
        self.number(table.checkpoints.list.len() as u64);
        self.number(table.checkpoints.plain_size);
        let mut last = 0;
        for it in &table.checkpoints.list {
            self.number(it.bits.into());
            self.number(it.plain - last);
            last = it.plain;
            self.string(it.packed_window());
        }
    }

    fn chunk(&mut self, chunk: &Chunk) {
        self.number(chunk.file_offset);
        self.number(chunk.length.into());
        match chunk.place {
            Place::Zeros => self.number(0),
            Place::Unit { unit, offset } => {
                self.number(u64::from(unit) + 1);
                self.number(offset.into());
                self.0.extend_from_slice(&chunk.digest);
            }
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.string(&entry.path);
        match &entry.kind {
            EntryKind::Directory => self.number(0),
            EntryKind::Regular { size, chunks } => {
                self.number(1);
                self.number(*size);
                self.number(chunks.start.into());
                self.number((chunks.end - chunks.start).into());
            }
            EntryKind::Symlink(target) => {
                self.number(2);
                self.string(target);
            }
            EntryKind::Hardlink(target) => {
                self.number(3);
                self.string(target);
            }
            EntryKind::CharDevice { major, minor } => self.device(4, *major, *minor),
            EntryKind::BlockDevice { major, minor } => self.device(5, *major, *minor),
            EntryKind::Fifo => self.number(6),
        }
        self.number(entry.mode.into());
        self.number(entry.uid.into());
        self.number(entry.gid.into());
        // The sign in the lowest bit.
        self.number(((entry.mtime << 1) ^ (entry.mtime >> 63)).cast_unsigned());
        self.number(entry.mtime_nanos.into());
        self.number(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            self.string(name);
            self.string(value);
        }
    }

    fn device(&mut self, kind: u64, major: u32, minor: u32) {
        self.number(kind);
        self.number(major.into());
        self.number(minor.into());
    }
}

struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, String> {
        let number = self.number()?;
        T::try_from(number).map_err(|_| format!("{number} is too large"))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("it ends early")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn string(&mut self, most: usize) -> Result<&'a [u8], String> {
        let length: usize = self.small()?;
        if length > most {
            return Err(format!("a string of {length} bytes, at most {most}"));
        }
        self.bytes(length)
    }

    fn digest(&mut self) -> Result<Digest, String> {
        let text = std::str::from_utf8(self.string(MAX_STRING)?);
        let digest = text.ok().and_then(|text| text.parse().ok());
        digest.ok_or_else(|| "a digest is malformed".into())
    }

    /// Grows with what is really there, so that a lie about the count costs no memory.
    fn list<T>(
        &mut self,
        most: usize,
        item: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let count: usize = self.small()?;
        // Nothing takes less than a byte.
        if count > most || count > self.0.len() {
            return Err(format!("a list of {count}"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn units(&mut self) -> Result<(Vec<Unit>, Checkpoints), String> {
        let mut last = 0_u64;
        let units = {
            let count: usize = self.small()?;
            if count > MAX_UNITS || count > self.0.len() {
                return Err(format!("{count} units"));
            }
            let mut units = Vec::with_capacity(count);
            for _ in 0..count {
                last = last.checked_add(self.number()?).ok_or("an offset")?;
                units.push(Unit {
                    offset: last,
                    length: self.small()?,
                    codec: match self.number()? {
                        0 => Codec::Raw,
                        1 => Codec::Gzip,
                        2 => Codec::Zstd,
                        3 => Codec::Deflate,
                        other => return Err(format!("codec {other} is not known")),
                    },
                });
            }
            units
        };
        let count: usize = self.small()?;
        if count != 0 && count != units.len() {
            return Err(format!("{count} checkpoints"));
        }
        let plain_size = self.number()?;
        let mut list = Vec::with_capacity(count);
        let mut last = 0_u64;
        for unit in units.iter().take(count) {
            let bits = self.small()?;
            last = last.checked_add(self.number()?).ok_or("an offset")?;
            let window = self.string(MAX_PACKED_WINDOW)?.into();
            list.push(Checkpoint::packed(unit.offset, bits, last, window));
        }
        let checkpoints = Checkpoints {
            list,
            plain_size,
            ..Checkpoints::default()
        };
        Ok((units, checkpoints))
    }

    fn chunk(&mut self) -> Result<Chunk, String> {
        let mut chunk = Chunk {
            file_offset: self.number()?,
            length: self.small()?,
            place: Place::Zeros,
            digest: [0; 32],
        };
        if let Some(unit) = self.number()?.checked_sub(1) {
            chunk.place = Place::Unit {
                unit: u32::try_from(unit).map_err(|_| "a unit's number")?,
                offset: self.small()?,
            };
            chunk.digest.copy_from_slice(self.bytes(32)?);
        }
        Ok(chunk)
    }

    fn entry(&mut self) -> Result<Entry, String> {
        let path = self.string(MAX_STRING)?.into();
        let kind = match self.number()? {
            0 => EntryKind::Directory,
            1 => {
                let size = self.number()?;
                let (start, count): (u32, u32) = (self.small()?, self.small()?);
                let end = start.checked_add(count).ok_or("a file's chunks")?;
                EntryKind::Regular {
                    size,
                    chunks: start..end,
                }
            }
            2 => EntryKind::Symlink(self.string(MAX_STRING)?.into()),
            3 => EntryKind::Hardlink(self.string(MAX_STRING)?.into()),
            4 => EntryKind::CharDevice {
                major: self.small()?,
                minor: self.small()?,
            },
            5 => EntryKind::BlockDevice {
                major: self.small()?,
                minor: self.small()?,
            },
            6 => EntryKind::Fifo,
            other => return Err(format!("type {other} is not known")),
        };
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let mtime = self.number()?;
        let mtime_nanos = self.small()?;
        let xattrs = self.list(MAX_XATTR_LIST, |from| {
            let name = from.string(MAX_STRING)?.into();
            Ok((name, from.string(MAX_STRING)?.into()))
        })?;
        Ok(Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime: (mtime >> 1).cast_signed() ^ -(mtime & 1).cast_signed(),
            mtime_nanos,
            xattrs,
        })
    }
}
