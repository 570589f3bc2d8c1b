//! Makes a [`LayerIndex`] of the entries of a table of contents, and refuses what does not fit
//! together: the one place where both formats and all dialects meet.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Chunk, ChunkTable, Codec, Entry, EntryKind, LayerIndex, MAX_CHUNK, MAX_UNIT, Place, Unit,
    Xattr,
    entry::JsonEntry,
    limits::{
        MAX_CHUNKS, MAX_ENTRIES, MAX_PATH, MAX_UNIT_PLAIN, MAX_XATTR_LIST, MAX_XATTR_NAME,
        MAX_XATTR_VALUE,
    },
    path::clean,
};

/// Collects entries in their order. Errors are text that names the entry; who calls adds the layer.
#[derive(Debug)]
pub(super) struct Builder {
    codec: Codec,
    /// End of the bytes that units can be in: where the table of contents begins.
    payload_end: u64,
    entries: Vec<Entry>,
    chunks: Vec<Chunk>,
    /// For every chunk the plain-blob offset of its unit; 0 for a hole.
    offsets: Vec<u64>,
    /// Every offset at which a unit is known to begin or end.
    boundaries: Vec<u64>,
    open: Option<OpenFile>,
    prefetch: u64,
}

/// The regular file that `chunk` entries may follow.
#[derive(Debug)]
struct OpenFile {
    entry: Entry,
    size: u64,
    covered: u64,
    first_chunk: usize,
    hidden: bool,
}

/// Marks the end of what is to be prefetched; not a file of the image.
pub(super) const PREFETCH_LANDMARK: &[u8] = b".prefetch.landmark";
/// Says that nothing is to be prefetched; not a file of the image.
pub(super) const NO_PREFETCH_LANDMARK: &[u8] = b".no.prefetch.landmark";
/// The table of contents itself.
pub(super) const TOC_NAME: &[u8] = b"stargz.index.json";

// === impl Builder ===

impl Builder {
    pub(super) fn new(codec: Codec, payload_end: u64) -> Self {
        Self {
            codec,
            payload_end,
            entries: Vec::new(),
            chunks: Vec::new(),
            offsets: Vec::new(),
            boundaries: Vec::new(),
            open: None,
            prefetch: 0,
        }
    }

    /// Adds the next entry of the list.
    pub(super) fn add(&mut self, json: &JsonEntry<'_>) -> Result<(), String> {
        self.add_inner(json)
            .map_err(|what| format!("entry {:?}: {what}", shown(&json.name)))
    }

    fn add_inner(&mut self, json: &JsonEntry<'_>) -> Result<(), String> {
        if json.kind == "chunk" {
            return self.add_chunk_entry(json);
        }
        self.close_file()?;
        if self.entries.len() == MAX_ENTRIES {
            return Err(format!("more than {MAX_ENTRIES} entries"));
        }
        let path = clean(&bytes_of(&json.name, json.name_bytes.as_deref())?)?;
        let kind = match &*json.kind {
            "reg" => return self.open_file(json, path),
            "dir" => EntryKind::Directory,
            "symlink" => EntryKind::Symlink(symlink_target(json)?),
            "hardlink" => EntryKind::Hardlink(hardlink_target(json)?),
            "char" => EntryKind::CharDevice {
                major: json.dev_major,
                minor: json.dev_minor,
            },
            "block" => EntryKind::BlockDevice {
                major: json.dev_major,
                minor: json.dev_minor,
            },
            "fifo" => EntryKind::Fifo,
            other => return Err(format!("type {other:?} is not known")),
        };
        if path.is_empty() && kind != EntryKind::Directory {
            return Err("the root is not a directory".into());
        }
        self.entries.push(metadata(json, path, kind)?);
        Ok(())
    }

    fn open_file(&mut self, json: &JsonEntry<'_>, path: Box<[u8]>) -> Result<(), String> {
        if path.is_empty() {
            return Err("the root is not a directory".into());
        }
        let hidden = [PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK, TOC_NAME].contains(&&*path);
        if &*path == PREFETCH_LANDMARK {
            self.prefetch = json.offset.min(self.payload_end);
        }
        let kind = EntryKind::Regular {
            size: json.size,
            chunks: 0..0,
        };
        self.open = Some(OpenFile {
            entry: metadata(json, path, kind)?,
            size: json.size,
            covered: 0,
            first_chunk: self.chunks.len(),
            hidden,
        });
        if json.size == 0 {
            return Ok(());
        }
        if json.chunk_offset != 0 {
            return Err("its first chunk is not at 0".into());
        }
        if json.end_offset != 0 {
            if json.end_offset <= json.offset || json.end_offset > self.payload_end {
                return Err(format!("end offset {} is out of place", json.end_offset));
            }
            self.boundaries.push(json.end_offset);
        }
        self.add_chunk(json)
    }

    fn add_chunk_entry(&mut self, json: &JsonEntry<'_>) -> Result<(), String> {
        let Some(file) = &self.open else {
            return Err("a chunk without a file".into());
        };
        if !json.name.is_empty() || json.name_bytes.is_some() {
            let path = clean(&bytes_of(&json.name, json.name_bytes.as_deref())?)?;
            if path != file.entry.path {
                let of = shown_path(&file.entry.path);
                return Err(format!("a chunk among those of {of:?}"));
            }
        }
        if json.chunk_offset != file.covered {
            return Err(format!(
                "a chunk at {} where {} is next: a gap or an overlap",
                json.chunk_offset, file.covered
            ));
        }
        self.add_chunk(json)
    }

    /// Adds the chunk that `json` tells of to the open file.
    fn add_chunk(&mut self, json: &JsonEntry<'_>) -> Result<(), String> {
        let file = self.open.as_mut().ok_or("a chunk without a file")?;
        let rest = file.size - file.covered;
        let length = match json.chunk_size {
            0 => rest,
            length => length,
        };
        if length == 0 || length > rest {
            return Err(format!("a chunk of {length} bytes where {rest} are left"));
        }
        let mut file_offset = file.covered;
        file.covered += length;
        match &*json.chunk_type {
            "zeros" => {
                if json.offset != 0 {
                    self.boundaries.push(json.offset);
                }
                while file_offset < file.covered {
                    let piece = (file.covered - file_offset).min(u64::from(MAX_CHUNK));
                    let length = u32::try_from(piece).map_err(|e| e.to_string())?;
                    push_chunk(
                        &mut self.chunks,
                        &mut self.offsets,
                        0,
                        Chunk {
                            file_offset,
                            length,
                            place: Place::Zeros,
                            digest: [0; 32],
                        },
                    )?;
                    file_offset += piece;
                }
                return Ok(());
            }
            "" => {}
            other => return Err(format!("chunk type {other:?} is not known")),
        }
        let whole = length == file.size;
        let digest = match &*json.chunk_digest {
            "" if whole && !json.digest.is_empty() => parse_digest(&json.digest)?,
            "" => return Err("a chunk without a digest cannot be verified".into()),
            digest => parse_digest(digest)?,
        };
        let length = u32::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_CHUNK)
            .ok_or_else(|| format!("a chunk of {length} bytes, at most {MAX_CHUNK}"))?;
        if json.offset == 0 || json.offset >= self.payload_end {
            return Err(format!(
                "offset {} is not among the {} bytes of data",
                json.offset, self.payload_end
            ));
        }
        let offset = u32::try_from(json.inner_offset)
            .ok()
            .filter(|inner| {
                inner
                    .checked_add(length)
                    .is_some_and(|end| end <= MAX_UNIT_PLAIN)
            })
            .ok_or_else(|| format!("inner offset {} is too large", json.inner_offset))?;
        push_chunk(
            &mut self.chunks,
            &mut self.offsets,
            json.offset,
            Chunk {
                file_offset,
                length,
                place: Place::Unit { unit: 0, offset },
                digest,
            },
        )
    }

    fn close_file(&mut self) -> Result<(), String> {
        let Some(mut file) = self.open.take() else {
            return Ok(());
        };
        if file.covered != file.size {
            let name = shown_path(&file.entry.path);
            return Err(format!(
                "its predecessor {name:?} has {} bytes, its chunks have {}",
                file.size, file.covered
            ));
        }
        if file.hidden {
            for offset in self.offsets.drain(file.first_chunk..) {
                self.boundaries.push(offset);
            }
            self.chunks.truncate(file.first_chunk);
            return Ok(());
        }
        file.entry.kind = EntryKind::Regular {
            size: file.size,
            chunks: to_u32(file.first_chunk)?..to_u32(self.chunks.len())?,
        };
        self.entries.push(file.entry);
        Ok(())
    }

    /// The index of all entries that were added.
    pub(super) fn finish(mut self) -> Result<LayerIndex, String> {
        self.close_file()?;
        refuse_duplicates(&self.entries)?;
        let units = self.place_chunks()?;
        self.entries.shrink_to_fit();
        self.chunks.shrink_to_fit();
        Ok(LayerIndex {
            entries: self.entries,
            table: ChunkTable {
                chunks: self.chunks,
                units,
                ..ChunkTable::default()
            },
            prefetch: self.prefetch,
        })
    }

    /// Makes the units and puts every chunk into its own.
    fn place_chunks(&mut self) -> Result<Vec<Unit>, String> {
        let mut begins: Vec<u64> = self.offsets.iter().copied().filter(|o| *o != 0).collect();
        begins.sort_unstable();
        begins.dedup();
        self.boundaries.extend_from_slice(&begins);
        self.boundaries.push(self.payload_end);
        self.boundaries.sort_unstable();
        self.boundaries.dedup();

        let mut needs = vec![0u32; begins.len()];
        let mut order = Vec::with_capacity(self.chunks.len());
        for (index, (chunk, begin)) in self.chunks.iter_mut().zip(&self.offsets).enumerate() {
            if let Place::Unit { unit, offset } = &mut chunk.place
                && let Ok(found) = begins.binary_search(begin)
            {
                *unit = to_u32(found)?;
                needs[found] = needs[found].max(*offset + chunk.length);
                order.push((*unit, *offset, to_u32(index)?));
            }
        }
        self.refuse_overlaps(order)?;

        let mut units = Vec::with_capacity(begins.len());
        for (begin, need) in begins.into_iter().zip(needs) {
            let next = self
                .boundaries
                .partition_point(|boundary| *boundary <= begin);
            let end = self
                .boundaries
                .get(next)
                .copied()
                .unwrap_or(self.payload_end);
            let need = u64::from(need);
            let most = (need + need / 64 + FRAMING).min(u64::from(MAX_UNIT));
            units.push(Unit {
                offset: begin,
                length: u32::try_from((end - begin).min(most)).map_err(|e| e.to_string())?,
                codec: self.codec,
            });
        }
        Ok(units)
    }

    /// No byte of a unit belongs to two chunks: nobody writes such a layer, but one could be made to
    /// blow up what is read.
    fn refuse_overlaps(&self, mut order: Vec<(u32, u32, u32)>) -> Result<(), String> {
        order.sort_unstable();
        for pair in order.windows(2) {
            let [(unit, begin, chunk), (next_unit, next, other)] = *pair else {
                continue;
            };
            if unit == next_unit && begin + self.chunks[chunk as usize].length > next {
                return Err(format!(
                    "chunks {chunk} and {other} overlap at offset {}",
                    self.offsets[other as usize]
                ));
            }
        }
        Ok(())
    }
}

fn push_chunk(
    chunks: &mut Vec<Chunk>,
    offsets: &mut Vec<u64>,
    offset: u64,
    chunk: Chunk,
) -> Result<(), String> {
    if chunks.len() == MAX_CHUNKS {
        return Err(format!("more than {MAX_CHUNKS} chunks"));
    }
    chunks.push(chunk);
    offsets.push(offset);
    Ok(())
}

/// A path may be there twice only as a directory (archives that were appended to have that).
pub(super) fn refuse_duplicates(entries: &[Entry]) -> Result<(), String> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    for pair in order.windows(2) {
        if pair[0].path == pair[1].path
            && pair.iter().any(|entry| entry.kind != EntryKind::Directory)
        {
            let name = shown_path(&pair[0].path);
            return Err(format!("entry {name:?}: is there twice"));
        }
    }
    Ok(())
}

fn metadata(json: &JsonEntry<'_>, path: Box<[u8]>, kind: EntryKind) -> Result<Entry, String> {
    let (mtime, mtime_nanos) = match json.modtime.as_deref() {
        None | Some("") => (0, 0),
        Some(text) => {
            let time = OffsetDateTime::parse(text, &Rfc3339)
                .map_err(|_| format!("modification time {:?} is malformed", shown(text)))?;
            (time.unix_timestamp(), time.nanosecond())
        }
    };
    Ok(Entry {
        path,
        kind,
        mode: u16::try_from(json.mode & 0o7777).map_err(|e| e.to_string())?,
        uid: json.uid,
        gid: json.gid,
        mtime,
        mtime_nanos,
        xattrs: xattrs(json)?,
    })
}

fn xattrs(json: &JsonEntry<'_>) -> Result<Vec<Xattr>, String> {
    let mut list = 0;
    let mut all: Vec<Xattr> = Vec::with_capacity(json.xattrs.len());
    for (name, value) in &json.xattrs {
        let bad = |what: &str| format!("extended attribute {:?}: {what}", shown(name));
        if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains('\0') {
            return Err(bad("not a name that Linux accepts"));
        }
        list += name.len() + 1;
        if list > MAX_XATTR_LIST {
            return Err(bad("the names are longer than 64 KiB together"));
        }
        let value = STANDARD
            .decode(value.as_deref().unwrap_or_default())
            .map_err(|_| bad("its value is not base64"))?;
        if value.len() > MAX_XATTR_VALUE {
            return Err(bad("its value is longer than 64 KiB"));
        }
        all.push((name.as_bytes().into(), value.into()));
    }
    all.sort_unstable();
    if all.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err("an extended attribute is there twice".into());
    }
    Ok(all)
}

fn symlink_target(json: &JsonEntry<'_>) -> Result<Box<[u8]>, String> {
    let target = bytes_of(&json.link_name, json.link_name_bytes.as_deref())?;
    if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) {
        return Err(format!("a link target of {} bytes", target.len()));
    }
    Ok(target.into())
}

fn hardlink_target(json: &JsonEntry<'_>) -> Result<Box<[u8]>, String> {
    let target = clean(&bytes_of(&json.link_name, json.link_name_bytes.as_deref())?)
        .map_err(|what| format!("link target: {what}"))?;
    if target.is_empty() {
        return Err("a hard link to the root".into());
    }
    Ok(target)
}

/// The bytes of a name: `bytes` (base64) if the name is not UTF-8, and then `text` is what is left of
/// it in UTF-8, so that every reader sees the same file.
fn bytes_of<'a>(text: &'a str, bytes: Option<&str>) -> Result<Cow<'a, [u8]>, String> {
    let Some(bytes) = bytes else {
        return Ok(Cow::Borrowed(text.as_bytes()));
    };
    let bytes = STANDARD
        .decode(bytes)
        .map_err(|_| "the bytes of its name are not base64")?;
    if String::from_utf8_lossy(&bytes) != text {
        return Err("the bytes of its name are another name".into());
    }
    Ok(Cow::Owned(bytes))
}

fn parse_digest(text: &str) -> Result<[u8; 32], String> {
    let mut digest = [0; 32];
    text.strip_prefix("sha256:")
        .filter(|digits| hex::decode_to_slice(digits, &mut digest).is_ok())
        .ok_or_else(|| format!("digest {:?} is not sha256", shown(text)))?;
    Ok(digest)
}

fn to_u32(number: usize) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("{number} is too large"))
}

/// The beginning of a text from outside, for a message.
fn shown(text: &str) -> &str {
    match text.char_indices().nth(200) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

fn shown_path(path: &[u8]) -> String {
    shown(&String::from_utf8_lossy(path)).to_owned()
}

/// Headers, stored blocks and flushes that a unit has beside its data, generously.
const FRAMING: u64 = 128 << 10;
