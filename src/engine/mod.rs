//! The chunk engine: plans, fetches, decrypts, decodes, verifies and caches chunks.

use bytes::Bytes;

use crate::error::Result;

/// Called once with the bytes of a read, or with why there are none.
pub type ReadDone = Box<dyn FnOnce(Result<Bytes>) + Send + 'static>;

/// A regular file's data as the tree knows it: a run of one layer's chunk table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileData {
    /// Which layer, counted from the lowest.
    pub layer: u16,
    /// First chunk in the layer's [`ChunkTable::chunks`](crate::index::ChunkTable::chunks).
    pub first_chunk: u32,
    /// How many chunks.
    pub chunk_count: u32,
    /// Bytes in the file.
    pub size: u64,
}

/// Reads file bytes that have been verified. What front ends are given instead of the engine, so
/// that they can be tried without one.
pub trait ReadFile: Send + Sync + 'static {
    /// Reads `length` bytes at `offset`, fewer at the end of the file. Never blocks on the network:
    /// `done` is called from a worker, or at once if the bytes are at hand.
    fn read(&self, file: FileData, offset: u64, length: u32, done: ReadDone);
}
