//! Bounds on what an index may say, each with its reason. They hold before anything is trusted.

/// Compressed table of contents: 50,000 files need about 3 MB; a million stay below this.
pub const MAX_TOC_COMPRESSED: u64 = 96 << 20;
/// Table of contents as JSON: what the other reader of zstd:chunked allows (150 MiB), about 500,000
/// files.
pub const MAX_TOC_JSON: u64 = 150 << 20;
/// Entries: Linux images stay below one million; the largest JSON could hold six.
pub const MAX_ENTRIES: usize = 2_000_000;
/// Chunks: 64 bytes each in memory.
pub const MAX_CHUNKS: usize = 4_000_000;
/// Units of a layer that was not made lazy: a terabyte at the spacing of checkpoints, or as many small gzip
/// members as there can be files.
pub const MAX_UNITS: usize = 1 << 20;
/// A kept index once it is decompressed: windows of checkpoints are most of it, 12 KiB for each MiB of
/// the layer, and 100 bytes or so for each file and chunk.
pub const MAX_DOCUMENT: usize = 1 << 30;
/// Path: `PATH_MAX` of Linux.
pub const MAX_PATH: usize = 4096;
/// One name in a path: `NAME_MAX` of Linux.
pub const MAX_NAME: usize = 255;
/// Name of an extended attribute: `XATTR_NAME_MAX` of Linux.
pub const MAX_XATTR_NAME: usize = 255;
/// Value of an extended attribute: `XATTR_SIZE_MAX` of Linux.
pub const MAX_XATTR_VALUE: usize = 64 << 10;
/// All names of one entry's extended attributes, each with its final 0: `XATTR_LIST_MAX` of Linux.
pub const MAX_XATTR_LIST: usize = 64 << 10;
/// Decoded bytes that the chunks of one unit may reach: the largest chunk and the small files that a
/// publisher packed before it.
pub const MAX_UNIT_PLAIN: u32 = super::MAX_CHUNK + (16 << 20);
