//! Layer indexes: where a layer's files and their chunks are inside its plain blob.
//!
//! [`LayerIndex`] is the one model that every format is read into. A chunk is the unit of
//! verification; a [`Unit`] is a run of the plain blob that decompresses on its own (a gzip member, a
//! zstd frame, raw bytes, a stretch of a gzip stream between two checkpoints) and holds one or more
//! chunks. [`open()`] reads and verifies one; [`build()`] makes one of a layer that has none;
//! [`mod@write`] makes a lazy layer of a tar.

use crate::codec::Checkpoints;

pub mod binding;
mod build;
mod builder;
mod check;
mod chunk;
mod document;
mod entry;
mod estargz;
mod files;
pub mod limits;
pub mod nacre;
mod open;
mod path;
mod soci;
pub mod write;
mod zstd_chunked;

#[cfg(test)]
mod tests;

pub use self::{
    binding::{Binding, Dialect, Position},
    build::{Claim, KeepChunk, build},
    chunk::{Algorithm, ChunkDigest},
    open::{BuiltIndex, Subject, VerifiedIndex, open},
    path::clean as clean_path,
};
pub(crate) use self::{
    document::parse_plain as parse_document,
    estargz::{footer, toc_json},
    open::parse,
    soci::parse as parse_ztoc,
};

/// One layer's files in the order of its tar, as an index told them. Not verified by itself: see
/// `VerifiedIndex`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerIndex {
    /// Entries in the order in which they apply.
    pub entries: Vec<Entry>,
    /// Where the files' bytes are.
    pub table: ChunkTable,
    /// Length of the run of plain blob from offset 0 that the publisher wants fetched ahead
    /// (eStargz `.prefetch.landmark`); 0 if none.
    pub prefetch: u64,
}

/// Chunks and units of one layer: what the chunk engine needs to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkTable {
    /// Chunks of all regular files; each file has one contiguous run, ordered by file offset.
    pub chunks: Vec<Chunk>,
    /// Units ordered by offset in the plain blob.
    pub units: Vec<Unit>,
    /// What the chunks' digests are.
    pub algorithm: Algorithm,
    /// How to enter units of [`Codec::Deflate`]: one for each unit, and by its number. Empty if
    /// there are none of those.
    pub checkpoints: Checkpoints,
    /// SHA-256 of each unit's bytes in the plain blob, where those are what is verified (SOCI); empty
    /// where chunks have digests. With it, digests of chunks are learnt when a unit has been verified.
    pub spans: Vec<[u8; 32]>,
}

/// Name and value of an extended attribute.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// One file, directory or other entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root: no leading `/`, no `.` or `..`; empty for the root itself. Bytes:
    /// file names need not be UTF-8. Whiteouts keep their `.wh.` names here.
    pub path: Box<[u8]>,
    /// Type, with what only that type has.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970 (may be negative).
    pub mtime: i64,
    /// Nanoseconds of the modification time, below 10^9.
    pub mtime_nanos: u32,
    /// Extended attributes, name to value.
    pub xattrs: Vec<Xattr>,
}

/// Type of an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Directory.
    Directory,
    /// Regular file.
    Regular {
        /// Bytes in the file.
        size: u64,
        /// Its run of [`ChunkTable::chunks`], which cover `0..size` without gap or overlap.
        chunks: std::ops::Range<u32>,
    },
    /// Symbolic link to the given target.
    Symlink(Box<[u8]>),
    /// Another name of the entry with the given path (cleaned as [`Entry::path`]).
    Hardlink(Box<[u8]>),
    /// Character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
}

/// The unit of verification: a run of one file's bytes with a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Offset in the file.
    pub file_offset: u64,
    /// Length in bytes; never 0, at most [`MAX_CHUNK`].
    pub length: u32,
    /// Where its bytes are.
    pub place: Place,
    /// Digest of the chunk's bytes, of the table's [`Algorithm`] (not looked at for
    /// [`Place::Zeros`]).
    pub digest: [u8; 32],
}

/// Where a chunk's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a unit, at an offset of its decompressed bytes.
    Unit {
        /// Index into [`ChunkTable::units`].
        unit: u32,
        /// Offset in the unit's decompressed bytes.
        offset: u32,
    },
    /// Nowhere: a hole.
    Zeros,
}

/// A run of the plain blob that decompresses on its own, or from its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Offset in the plain blob (equal to the offset in the ciphertext: the cipher is CTR).
    pub offset: u64,
    /// Compressed length in bytes; at most [`MAX_UNIT`]. May include a little beyond the end.
    pub length: u32,
    /// How it is compressed.
    pub codec: Codec,
}

/// Compression of a [`Unit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// One gzip member (RFC 1952), perhaps followed by others that do not matter.
    Gzip,
    /// One zstd frame (RFC 8878), perhaps followed by others that do not matter.
    Zstd,
    /// Stored as it is.
    Raw,
    /// Deflate blocks of a gzip stream, from a [`Checkpoint`](crate::codec::Checkpoint) to the next.
    /// The first and the last byte may be shared with the neighbours, and further members follow if
    /// one ends inside.
    Deflate,
}

/// Largest chunk: what a 4 KiB read may cost in memory. eStargz writes 4 MiB by default.
pub const MAX_CHUNK: u32 = 64 << 20;
/// Largest compressed unit: an incompressible chunk with framing.
pub const MAX_UNIT: u32 = MAX_CHUNK + (1 << 20);
