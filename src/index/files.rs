//! Entries and chunks of an ordinary layer, as its tar goes by.
//!
//! A chunk is a stretch of one file's stored bytes inside one run; holes of sparse files are holes.
//! What is refused is what [`Builder`](super::builder) refuses of tables of contents, but that a later
//! entry replaces an earlier one of the same name, as it does when the tar is unpacked.

use std::{cell::LazyCell, collections::HashSet, ops::Range};

use bytes::Bytes;

use super::{
    Algorithm, Chunk, ChunkTable, Entry, EntryKind, LayerIndex, MAX_CHUNK, Place, Xattr,
    build::{Decoded, KeepChunk},
    limits::{
        MAX_CHUNKS, MAX_ENTRIES, MAX_PATH, MAX_UNIT_PLAIN, MAX_XATTR_LIST, MAX_XATTR_NAME,
        MAX_XATTR_VALUE,
    },
    path::clean,
};
use crate::{
    codec::Runs,
    error::{Error, Result},
    tar::{TarEntry, TarKind, TarReader},
};

/// What has gone by.
pub(super) struct Files {
    entries: Vec<Entry>,
    chunks: Vec<Chunk>,
    keep: KeepChunk,
    /// Bytes of the chunk that is growing, and behind them what was read last.
    buffer: Vec<u8>,
}

/// The chunk that is growing.
#[derive(Clone, Copy)]
struct Growing {
    file_offset: u64,
    run: u32,
    offset: u64,
    length: usize,
}

/// Most bytes in a chunk: that of lazy images (`index::write::DEFAULT_CHUNK_SIZE`), since a read from the
/// store verifies a whole one.
const CHUNK: usize = super::write::DEFAULT_CHUNK_SIZE as usize;
/// Most bytes of one read: a chunk, and what turns out to begin the next.
const READ: usize = 64 << 10;

// === impl Files ===

impl Files {
    pub(super) fn new(keep: KeepChunk) -> Self {
        Self {
            entries: Vec::new(),
            chunks: Vec::new(),
            keep,
            buffer: vec![0; CHUNK + READ],
        }
    }

    /// Adds the entry that `tar` is at.
    pub(super) fn add(&mut self, tar: &mut TarReader<Decoded>, entry: &TarEntry) -> Result<()> {
        if self.entries.len() == MAX_ENTRIES {
            return Err(Error::unsupported(format!(
                "more than {MAX_ENTRIES} entries"
            )));
        }
        let path = clean(&entry.name).map_err(Error::invalid)?;
        if path.is_empty() && entry.kind != TarKind::Directory {
            return Err(Error::invalid("the root is not a directory"));
        }
        let (major, minor) = entry.device;
        let kind = match entry.kind {
            TarKind::Directory => EntryKind::Directory,
            TarKind::Regular => EntryKind::Regular {
                size: entry.size,
                chunks: self.file(tar, entry.size)?,
            },
            TarKind::Symlink => {
                let target = &*entry.link;
                if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) {
                    let message = format!("a link target of {} bytes", target.len());
                    return Err(Error::invalid(message));
                }
                EntryKind::Symlink(target.into())
            }
            TarKind::Hardlink => {
                let target = clean(&entry.link).map_err(Error::invalid)?;
                if target.is_empty() {
                    return Err(Error::invalid("a hard link to the root"));
                }
                EntryKind::Hardlink(target)
            }
            TarKind::CharDevice => EntryKind::CharDevice { major, minor },
            TarKind::BlockDevice => EntryKind::BlockDevice { major, minor },
            TarKind::Fifo => EntryKind::Fifo,
        };
        self.entries.push(Entry {
            path,
            kind,
            mode: entry.permissions(),
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.seconds,
            mtime_nanos: entry.mtime.nanos.min(999_999_999),
            xattrs: xattrs(&entry.xattrs)?,
        });
        Ok(())
    }

    /// Cuts the file that `tar` is at into chunks.
    fn file(&mut self, tar: &mut TarReader<Decoded>, size: u64) -> Result<Range<u32>> {
        let first = number(self.chunks.len())?;
        let mut growing: Option<Growing> = None;
        let mut covered = 0;
        loop {
            let length = growing.map_or(0, |it| it.length);
            let most = (CHUNK - length).min(READ);
            let buffer = &mut self.buffer[length..length + most];
            let Some((file_offset, count)) = tar.read_stored(buffer)? else {
                break;
            };
            let (run, end) = tar.input().place();
            let offset = end - count as u64;
            match &mut growing {
                Some(it) if it.run == run && file_offset == covered => it.length += count,
                other => {
                    if let Some(done) = other.take() {
                        self.close(done)?;
                        self.buffer.copy_within(length..length + count, 0);
                    }
                    self.hole(covered, file_offset)?;
                    growing = Some(Growing {
                        file_offset,
                        run,
                        offset,
                        length: count,
                    });
                }
            }
            covered = file_offset + count as u64;
            if let Some(full) = growing.take_if(|it| it.length == CHUNK) {
                self.close(full)?;
            }
        }
        if let Some(last) = growing {
            self.close(last)?;
        }
        self.hole(covered, size)?;
        Ok(first..number(self.chunks.len())?)
    }

    /// Hands over the chunk at the beginning of the buffer.
    fn close(&mut self, chunk: Growing) -> Result<()> {
        let length = number(chunk.length)?;
        let offset = u32::try_from(chunk.offset)
            .ok()
            .filter(|it| {
                it.checked_add(length)
                    .is_some_and(|end| end <= MAX_UNIT_PLAIN)
            })
            .ok_or_else(|| Error::internal(format!("offset {} in a run", chunk.offset)))?;
        let digest = (self.keep)(Bytes::copy_from_slice(&self.buffer[..chunk.length]));
        if digest.algorithm() != Algorithm::Blake3 {
            return Err(Error::internal("a chunk's digest is not BLAKE3"));
        }
        self.push(Chunk {
            file_offset: chunk.file_offset,
            length,
            place: Place::Unit {
                unit: chunk.run,
                offset,
            },
            digest: *digest.bytes(),
        })
    }

    fn hole(&mut self, begin: u64, end: u64) -> Result<()> {
        let mut file_offset = begin;
        while file_offset < end {
            let length = (end - file_offset).min(u64::from(MAX_CHUNK));
            self.push(Chunk {
                file_offset,
                length: u32::try_from(length).unwrap_or(MAX_CHUNK),
                place: Place::Zeros,
                digest: [0; 32],
            })?;
            file_offset += length;
        }
        Ok(())
    }

    fn push(&mut self, chunk: Chunk) -> Result<()> {
        if self.chunks.len() == MAX_CHUNKS {
            return Err(Error::unsupported(format!("more than {MAX_CHUNKS} chunks")));
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// The index of all that went by, with the runs it went by in.
    pub(super) fn finish(self, runs: Runs) -> Result<LayerIndex> {
        let mut chunks = self.chunks;
        chunks.shrink_to_fit();
        Ok(LayerIndex {
            entries: last_of_each_name(self.entries)?,
            table: ChunkTable {
                chunks,
                units: runs.units,
                algorithm: Algorithm::Blake3,
                checkpoints: runs.checkpoints,
                spans: Vec::new(),
            },
            prefetch: 0,
        })
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({})", self.entries.len())
    }
}

/// Leaves out entries that a later one of the same name replaces; directories stay, as they add up.
fn last_of_each_name(entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let mut order: Vec<u32> = (0..number(entries.len())?).collect();
    let path = |it: u32| &*entries[it as usize].path;
    order.sort_by(|a, b| path(*a).cmp(path(*b)));
    let is_directory = |it: u32| entries[it as usize].kind == EntryKind::Directory;
    let targets = LazyCell::new(|| -> HashSet<&[u8]> {
        let links = entries.iter().filter_map(|it| match &it.kind {
            EntryKind::Hardlink(target) => Some(&**target),
            _ => None,
        });
        links.collect()
    });
    let mut replaced = Vec::new();
    for pair in order.windows(2) {
        let (earlier, later) = (pair[0], pair[1]);
        if path(earlier) != path(later) || (is_directory(earlier) && is_directory(later)) {
            continue;
        }
        if is_directory(earlier) != is_directory(later) || targets.contains(path(later)) {
            let name = String::from_utf8_lossy(path(later)).into_owned();
            return Err(Error::unsupported(format!(
                "entry {name:?}: it is in the tar twice, and what the first one was is needed"
            )));
        }
        replaced.push(earlier);
    }
    replaced.sort_unstable();
    let kept = (0..).zip(entries);
    let kept = kept.filter(|(number, _)| replaced.binary_search(number).is_err());
    Ok(kept.map(|(_, entry)| entry).collect())
}

fn xattrs(pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Xattr>> {
    let mut all: Vec<Xattr> = pairs
        .iter()
        .map(|(name, value)| (name.as_slice().into(), value.as_slice().into()))
        .collect();
    all.sort_unstable();
    check_xattrs(&all).map_err(Error::invalid)?;
    Ok(all)
}

/// Whether Linux takes these attributes, which are sorted.
pub(super) fn check_xattrs(all: &[Xattr]) -> Result<(), String> {
    let mut list = 0;
    for (name, value) in all {
        let bad = |what: &str| format!("extended attribute {:?}: {what}", name.escape_ascii());
        if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Err(bad("not a name that Linux accepts"));
        }
        list += name.len() + 1;
        if list > MAX_XATTR_LIST {
            return Err(bad("the names are longer than 64 KiB together"));
        }
        if value.len() > MAX_XATTR_VALUE {
            return Err(bad("its value is longer than 64 KiB"));
        }
    }
    if all.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err("an extended attribute is there twice".into());
    }
    Ok(())
}

fn number(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::unsupported(format!("{number} is too large")))
}
