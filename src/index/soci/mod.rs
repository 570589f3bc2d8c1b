//! SOCI's index of one layer, a zTOC, read into the model. The format is described in
//! `docs/formats/soci.md`.
//!
//! A zTOC has digests of spans of the compressed blob, and none of files: a span is held against its
//! digest before it is decompressed, and the digests of chunks are learnt then.

mod flat;
mod ztoc;

#[cfg(test)]
mod tests;

use self::ztoc::{Compression, File, Span, Ztoc};
use super::{
    Algorithm, Chunk, ChunkTable, Codec, Entry, EntryKind, LayerIndex, MAX_UNIT, Place, Unit,
    builder::refuse_duplicates,
    clean_path,
    limits::{MAX_CHUNKS, MAX_UNIT_PLAIN},
    write::DEFAULT_CHUNK_SIZE,
};
use crate::codec::{Checkpoint, Checkpoints};

/// Reads the zTOC of a layer whose blob has `size` bytes. Pure, and bounded by
/// [`limits`](super::limits).
///
/// # Errors
/// What is wrong with it, or what it cannot describe.
pub(crate) fn parse(ztoc: &[u8], size: u64) -> Result<LayerIndex, String> {
    let ztoc = ztoc::parse(ztoc, size)?;
    let (units, checkpoints) = units(&ztoc)?;
    let mut chunks = Vec::new();
    let mut entries = Vec::with_capacity(ztoc.files.len());
    let mut end = 0;
    for file in &ztoc.files {
        let bad = |what: String| {
            let name = String::from_utf8_lossy(&file.name[..file.name.len().min(200)]);
            format!("entry {name:?}: {what}")
        };
        if file.offset < end {
            return Err(bad("it overlaps the one before".into()));
        }
        end = file.offset;
        let entry = entry(file, &ztoc.spans, &mut chunks).map_err(bad)?;
        if let EntryKind::Regular { size, .. } = entry.kind {
            end += size;
        }
        entries.push(entry);
    }
    refuse_duplicates(&entries)?;
    let index = LayerIndex {
        entries,
        table: ChunkTable {
            chunks,
            units,
            algorithm: Algorithm::Blake3,
            checkpoints,
            spans: ztoc.spans.iter().map(|it| it.digest).collect(),
        },
        prefetch: 0,
    };
    index.check(size)?;
    Ok(index)
}

fn units(ztoc: &Ztoc<'_>) -> Result<(Vec<Unit>, Checkpoints), String> {
    let mut units = Vec::with_capacity(ztoc.spans.len());
    let mut list = Vec::new();
    for (number, span) in ztoc.spans.iter().enumerate() {
        let length = u32::try_from(span.blob.end - span.blob.start).ok();
        let length = length.filter(|it| *it <= MAX_UNIT);
        let codec = match ztoc.compression {
            Compression::Gzip => {
                // It counts the bits that follow, we those before.
                let bits = (8 - span.bits) % 8;
                let point = Checkpoint::new(span.blob.start, bits, span.tar, span.window);
                list.push(point.map_err(|error| error.to_string())?);
                Codec::Deflate
            }
            Compression::None => Codec::Raw,
        };
        units.push(Unit {
            offset: span.blob.start,
            length: length.ok_or_else(|| format!("span {number}: too long"))?,
            codec,
        });
    }
    let plain_size = match list.is_empty() {
        true => 0,
        false => ztoc.plain,
    };
    let checkpoints = Checkpoints {
        list,
        plain_size,
        ..Checkpoints::default()
    };
    Ok((units, checkpoints))
}

fn entry(file: &File<'_>, spans: &[Span<'_>], chunks: &mut Vec<Chunk>) -> Result<Entry, String> {
    let (major, minor) = file.device;
    let kind = match file.kind {
        b"dir" => EntryKind::Directory,
        b"reg" => regular(file, spans, chunks)?,
        b"symlink" => EntryKind::Symlink(file.link.into()),
        b"hardlink" => EntryKind::Hardlink(clean_path(file.link)?),
        b"char" => EntryKind::CharDevice { major, minor },
        b"block" => EntryKind::BlockDevice { major, minor },
        b"fifo" => EntryKind::Fifo,
        other => {
            return Err(format!(
                "type {:?} is not known",
                other.escape_ascii().to_string()
            ));
        }
    };
    let mut xattrs = Vec::new();
    for (key, value) in &file.records {
        if key.starts_with(SPARSE) {
            return Err("it is sparse, which a zTOC does not describe".into());
        }
        if let Some(name) = key.strip_prefix(XATTR) {
            xattrs.push((name.into(), (*value).into()));
        }
    }
    xattrs.sort_unstable();
    Ok(Entry {
        path: clean_path(file.name)?,
        kind,
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
        mtime: file.time.0,
        mtime_nanos: file.time.1,
        xattrs,
    })
}

/// A file, cut where spans end and where chunks are long enough.
fn regular(
    file: &File<'_>,
    spans: &[Span<'_>],
    chunks: &mut Vec<Chunk>,
) -> Result<EntryKind, String> {
    let number = |it: usize| u32::try_from(it).map_err(|e| e.to_string());
    let first = number(chunks.len())?;
    let mut done = 0;
    while done < file.size {
        let at = file.offset + done;
        let unit = spans.partition_point(|it| it.tar <= at);
        let unit = unit.checked_sub(1).ok_or("it is in no span")?;
        let end = spans.get(unit + 1).map_or(u64::MAX, |next| next.tar);
        let left = (file.size - done).min(end - at);
        let length = left.min(DEFAULT_CHUNK_SIZE.into());
        let offset = at - spans[unit].tar;
        if offset + length > u64::from(MAX_UNIT_PLAIN) {
            return Err("it is beyond what a span holds".into());
        }
        if chunks.len() == MAX_CHUNKS {
            return Err(format!("more than {MAX_CHUNKS} chunks"));
        }
        chunks.push(Chunk {
            file_offset: done,
            length: u32::try_from(length).map_err(|e| e.to_string())?,
            place: Place::Unit {
                unit: number(unit)?,
                offset: u32::try_from(offset).map_err(|e| e.to_string())?,
            },
            digest: [0; 32],
        });
        done += length;
    }
    Ok(EntryKind::Regular {
        size: file.size,
        chunks: first..number(chunks.len())?,
    })
}

/// Before the name of an attribute among PAX records.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Before what says where the holes of a sparse file are.
const SPARSE: &[u8] = b"GNU.sparse.";
