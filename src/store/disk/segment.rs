//! One segment: a data file of records one after another, and an index file of fixed-size entries.
//!
//! ```text
//! NAME.data   record | record | ...      a chunk's plain bytes, or nonce | ciphertext | tag
//! NAME.index  entry | entry | ...        56 bytes each, little endian:
//!             magic u32 | length u32 | offset u64 | id [32] | CRC-32 of those u32 | 0 u32
//! ```
//!
//! A record is written before its entry, so that an index never names bytes that no write reached.
//! Nothing is synced to disk: a torn record fails its digest when it is read, and is then forgotten.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::Crc;

use crate::{
    error::{Error, Result},
    store::chunk::ChunkId,
};

/// Bytes of one entry in an index file.
const ENTRY: usize = 56;
/// `NCI1`.
const MAGIC: u32 = u32::from_le_bytes(*b"NCI1");
/// Largest index file that is read: segments end long before.
const MAX_INDEX: u64 = 256 << 20;

/// A record's place in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ChunkId,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// A segment's open data file.
#[derive(Debug)]
pub(super) struct Segment {
    data: File,
    path: PathBuf,
}

/// A segment that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    data: File,
    index: File,
    length: u64,
}

// === impl Entry ===

impl Entry {
    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.id.0);
        let sum = checksum(&bytes[..48]);
        bytes[48..52].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` for what a crash or the disk made of an entry.
    fn decode(bytes: &[u8; ENTRY]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
        if u32_at(0)? != MAGIC || u32_at(48)? != checksum(&bytes[..48]) {
            return None;
        }
        Some(Self {
            length: u32_at(4)?,
            offset: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            id: ChunkId(bytes[16..48].try_into().ok()?),
        })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

// === impl Segment ===

impl Segment {
    /// Makes the two files of a new segment; they must not exist.
    pub(super) fn create(directory: &Path, name: &str) -> Result<(Self, Writer)> {
        let path = directory.join(format!("{name}.data"));
        let new = |path: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
        };
        let io = |e| Error::io(format!("store segment {}", path.display()), e);
        let data = new(&path).map_err(io)?;
        let index = new(&path.with_extension("index")).map_err(io)?;
        let writer = Writer {
            data: data.try_clone().map_err(io)?,
            index,
            length: 0,
        };
        Ok((Self { data, path }, writer))
    }

    /// Opens a segment that an earlier or another process wrote, with those of its entries that are
    /// whole and inside the data file.
    pub(super) fn open(directory: &Path, name: &str) -> Result<(Self, Vec<Entry>)> {
        let path = directory.join(format!("{name}.data"));
        let io = |e| Error::io(format!("store segment {}", path.display()), e);
        let data = File::open(&path).map_err(io)?;
        let size = data.metadata().map_err(io)?.len();
        let index = File::open(path.with_extension("index")).map_err(io)?;
        let index_size = index.metadata().map_err(io)?.len().min(MAX_INDEX);
        let mut bytes = vec![0; usize::try_from(index_size).unwrap_or(0)];
        index.read_exact_at(&mut bytes, 0).map_err(io)?;
        let (whole, _torn) = bytes.as_chunks::<ENTRY>();
        let entries = whole
            .iter()
            .filter_map(Entry::decode)
            .filter(|e| {
                e.offset
                    .checked_add(e.length.into())
                    .is_some_and(|end| end <= size)
            })
            .collect();
        Ok((Self { data, path }, entries))
    }

    /// The record's bytes; an error if the file is shorter than it was.
    pub(super) fn read(&self, entry: &Entry) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; entry.length as usize];
        self.data.read_exact_at(&mut bytes, entry.offset)?;
        Ok(bytes)
    }

    /// Removes both files; open descriptors keep working.
    pub(super) fn remove(&self) {
        for path in [&self.path, &self.path.with_extension("index")] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "store segment not removed");
            }
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Appends a record, then its entry.
    pub(super) fn append(&mut self, id: ChunkId, record: &[u8]) -> std::io::Result<Entry> {
        let length = u32::try_from(record.len())
            .map_err(|_| std::io::Error::other("record longer than 4 GiB"))?;
        let entry = Entry {
            id,
            offset: self.length,
            length,
        };
        self.data.write_all_at(record, self.length)?;
        self.index.write_all(&entry.encode())?;
        self.length += u64::from(length);
        Ok(entry)
    }

    /// Bytes of data so far.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_torn_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut writer) = Segment::create(directory.path(), "a").unwrap();
        let first = writer.append(ChunkId([1; 32]), b"first").unwrap();
        let second = writer.append(ChunkId([2; 32]), b"second").unwrap();
        let (segment, entries) = Segment::open(directory.path(), "a").unwrap();
        assert_eq!(entries, [first, second]);
        assert_eq!(segment.read(&second).unwrap(), b"second");

        let index = directory.path().join("a.index");
        let mut bytes = std::fs::read(&index).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&index, &bytes[..ENTRY * 2 - 1]).unwrap();
        let (_, entries) = Segment::open(directory.path(), "a").unwrap();
        assert_eq!(entries, [], "one flipped, one cut short");
    }

    #[test]
    fn an_entry_beyond_the_data_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut writer) = Segment::create(directory.path(), "a").unwrap();
        writer.append(ChunkId([1; 32]), b"first").unwrap();
        let data = OpenOptions::new()
            .write(true)
            .open(directory.path().join("a.data"))
            .unwrap();
        data.set_len(3).unwrap();
        assert_eq!(Segment::open(directory.path(), "a").unwrap().1, []);
    }
}
