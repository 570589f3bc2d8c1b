//! Verified chunks kept on this node: in memory, and on disk behind that.
//!
//! Content-addressed by the chunk's digest across layers and images, bounded in bytes. What comes
//! from disk is verified again each time; what fails is forgotten and counted. Chunks of encrypted
//! layers are sealed on disk ([`Seal`]). Writing happens on one thread behind a queue of bounded size:
//! when the disk is slow or full, chunks are served and not kept.

mod chunk;
mod disk;
mod indexes;
mod memory;
mod probe;
mod seal;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use serde::Serialize;

pub use self::{
    chunk::{ChunkId, Space, VerifiedChunk},
    indexes::Indexes,
    seal::Seal,
};
use self::{disk::Disk, memory::Memory};
use crate::{
    error::{Error, Result},
    index::ChunkDigest,
};

/// Bytes waiting to be written; beyond that chunks are not kept.
const QUEUE: u64 = 32 << 20;
/// What a chunk in the queue takes besides its bytes.
const QUEUED: u64 = 256;

/// Where and how much a [`Store`] keeps.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes in memory.
    pub memory_bytes: usize,
    /// Directory and bytes on disk; none keeps chunks in memory only.
    pub disk: Option<(PathBuf, u64)>,
    /// Directory and bytes of the indexes of ordinary layers; none keeps none.
    pub indexes: Option<(PathBuf, u64)>,
}

/// Verified chunks by name.
#[derive(Debug)]
pub struct Store {
    memory: Memory,
    disk: Option<DiskHalf>,
    indexes: Option<Indexes>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct DiskHalf {
    disk: Arc<Disk>,
    queue: Option<Sender<Write>>,
    /// Bytes in the queue.
    queued: Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Write {
    Chunk {
        id: ChunkId,
        chunk: VerifiedChunk,
        space: Space,
    },
    Flush(Sender<()>),
}

#[derive(Debug, Default)]
struct Counters {
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
    corrupt: AtomicU64,
    not_kept: AtomicU64,
    failing: AtomicBool,
}

/// What a store did and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreSnapshot {
    /// Chunks served from memory.
    pub memory_hits: u64,
    /// Chunks served from disk, after they were verified again.
    pub disk_hits: u64,
    /// Chunks that readers waited for and that were nowhere here.
    pub misses: u64,
    /// Chunks on disk that were not what they should be; forgotten.
    pub corrupt: u64,
    /// Chunks not written because the disk was slow, full or broken.
    pub not_kept: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Chunks dropped from memory to make room.
    pub memory_evictions: u64,
    /// Chunks dropped from disk to make room.
    pub disk_evictions: u64,
}

/// Where a store is and what it may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Directory; none where chunks are kept in memory only.
    pub directory: Option<PathBuf>,
    /// Bytes in it.
    pub disk_bytes: u64,
}

// === impl Store ===

impl Store {
    /// Opens the directory, if there is one, and starts the writer.
    ///
    /// # Errors
    /// `Io` if the directory cannot be used.
    pub fn open(config: &StoreConfig) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let disk = match &config.disk {
            None => None,
            Some((directory, capacity)) => Some(DiskHalf::start(
                Arc::new(Disk::open(directory, *capacity)?),
                &counters,
            )?),
        };
        let indexes = config.indexes.as_ref();
        let indexes = indexes.map(|(directory, capacity)| Indexes::open(directory, *capacity));
        Ok(Self {
            memory: Memory::new(config.memory_bytes),
            disk,
            indexes: indexes.transpose()?,
            counters,
        })
    }

    /// A chunk from memory; never blocks on a disk.
    #[must_use]
    pub fn get_memory(&self, space: &Space, digest: &ChunkDigest) -> Option<VerifiedChunk> {
        let chunk = self.memory.get(&space.id(digest))?;
        self.counters.memory_hits.fetch_add(1, Ordering::Relaxed);
        Some(chunk)
    }

    /// A chunk from memory or disk; blocks on the disk. A record on disk that is not the chunk is
    /// forgotten and counted.
    #[must_use]
    pub fn get(&self, space: &Space, digest: &ChunkDigest) -> Option<VerifiedChunk> {
        let found = self
            .get_memory(space, digest)
            .or_else(|| self.get_disk(space, digest));
        if found.is_none() {
            self.counters.misses.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    fn get_disk(&self, space: &Space, digest: &ChunkDigest) -> Option<VerifiedChunk> {
        let disk = &self.disk.as_ref()?.disk;
        let id = space.id(digest);
        let record = disk.get(&id)?;
        let plain = match space {
            Space::Plain => Some(record),
            Space::Sealed(seal) => seal.open(record, &id.0),
        };
        let Some(chunk) = plain.and_then(|p| VerifiedChunk::check(Bytes::from(p), digest)) else {
            tracing::warn!(
                event = "store_corrupt",
                name = %hex::encode(id.0),
                "stored chunk is not what it was; forgotten"
            );
            self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
            disk.forget(&id);
            return None;
        };
        self.counters.disk_hits.fetch_add(1, Ordering::Relaxed);
        self.memory.put(id, chunk.clone());
        Some(chunk)
    }

    /// Whether the chunk is in memory or, by its name, on disk.
    #[must_use]
    pub fn contains(&self, space: &Space, digest: &ChunkDigest) -> bool {
        let id = space.id(digest);
        self.memory.contains(&id) || self.disk.as_ref().is_some_and(|d| d.disk.contains(&id))
    }

    /// Keeps a chunk in memory and queues it for the disk.
    pub fn put(&self, space: &Space, digest: &ChunkDigest, chunk: &VerifiedChunk) {
        let id = space.id(digest);
        self.memory.put(id, chunk.clone());
        if let Some(disk) = &self.disk
            && !disk.write(id, chunk, space)
        {
            self.counters.not_kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a chunk of a layer that is read whole: on disk, and waits for the disk if it is slow. In
    /// memory, where readers' chunks are, only if there is no disk. Blocks.
    pub fn put_whole(&self, space: &Space, digest: &ChunkDigest, chunk: &VerifiedChunk) {
        let id = space.id(digest);
        let Some(disk) = &self.disk else {
            self.memory.put(id, chunk.clone());
            return;
        };
        if disk.disk.contains(&id) || disk.write(id, chunk, space) {
            return;
        }
        self.flush();
        // Others may have filled the queue again: then the chunk is fetched when it is read.
        if !disk.write(id, chunk, space) {
            self.counters.not_kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a chunk on disk, without a place in memory: nobody has asked for it. Does not wait.
    pub fn put_apart(&self, space: &Space, digest: &ChunkDigest, chunk: &VerifiedChunk) {
        let id = space.id(digest);
        if let Some(disk) = &self.disk
            && !disk.disk.contains(&id)
            && !disk.write(id, chunk, space)
        {
            self.counters.not_kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the chunk is on disk, or will be because it is in memory.
    pub fn settles(&self, space: &Space, digest: &ChunkDigest) -> bool {
        let id = space.id(digest);
        let Some(disk) = &self.disk else { return false };
        disk.disk.contains(&id)
            || self
                .memory
                .get(&id)
                .is_some_and(|chunk| disk.write(id, &chunk, space))
    }

    /// Whether much waits to be written: who can wait should ([`flush`](Self::flush)).
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|it| it.queued.load(Ordering::Relaxed) > QUEUE / 2)
    }

    /// Bytes that can be kept on disk without dropping anything; 0 if there is no disk.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.disk.as_ref().map_or(0, |it| {
            let waiting = it.queued.load(Ordering::Relaxed);
            it.disk.capacity().saturating_sub(it.disk.used() + waiting)
        })
    }

    /// The indexes of ordinary layers, if they are kept.
    #[must_use]
    pub fn indexes(&self) -> Option<&Indexes> {
        self.indexes.as_ref()
    }

    /// Waits until what was put has been written.
    pub fn flush(&self) {
        let Some(queue) = self.disk.as_ref().and_then(|d| d.queue.as_ref()) else {
            return;
        };
        let (done, wait) = crossbeam_channel::bounded(1);
        if queue.send(Write::Flush(done)).is_ok() {
            // An error means that the writer is gone: then there is nothing left to wait for.
            let _gone = wait.recv();
        }
    }

    /// What it did and holds.
    #[must_use]
    pub fn snapshot(&self) -> StoreSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreSnapshot {
            memory_hits: load(&self.counters.memory_hits),
            disk_hits: load(&self.counters.disk_hits),
            misses: load(&self.counters.misses),
            corrupt: load(&self.counters.corrupt),
            not_kept: load(&self.counters.not_kept),
            memory_bytes: self.memory.used() as u64,
            disk_bytes: self.disk.as_ref().map_or(0, |d| d.disk.used()),
            memory_evictions: self.memory.dropped(),
            disk_evictions: self.disk.as_ref().map_or(0, |d| d.disk.dropped()),
        }
    }

    /// Where it is and what it may hold.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        let disk = self.disk.as_ref().map(|d| &d.disk);
        StoreLimits {
            memory_bytes: self.memory.capacity() as u64,
            directory: disk.map(|disk| disk.directory().to_owned()),
            disk_bytes: disk.map_or(0, |disk| disk.capacity()),
        }
    }

    /// Whether chunks can be written: writes and removes a file. Blocks on the disk.
    ///
    /// # Errors
    /// `Io` if it cannot; nothing if the store has no directory.
    pub fn probe(&self) -> Result<()> {
        match &self.disk {
            Some(half) => probe::write(half.disk.directory()),
            None => Ok(()),
        }
    }
}

// === impl DiskHalf ===

impl DiskHalf {
    fn start(disk: Arc<Disk>, counters: &Arc<Counters>) -> Result<Self> {
        let (queue, writes) = crossbeam_channel::unbounded();
        let queued = Arc::new(AtomicU64::new(0));
        let (writer_disk, counters) = (Arc::clone(&disk), Arc::clone(counters));
        let written = Arc::clone(&queued);
        let writer = std::thread::Builder::new()
            .name("nacre-store".into())
            .spawn(move || write_all(&writer_disk, &counters, &writes, &written))
            .map_err(|e| Error::io("store writer thread", e))?;
        Ok(Self {
            disk,
            queue: Some(queue),
            queued,
            writer: Some(writer),
        })
    }

    /// Queues a chunk; `false` if the queue is full. An empty one takes a chunk of any size.
    fn write(&self, id: ChunkId, chunk: &VerifiedChunk, space: &Space) -> bool {
        let size = queued_size(chunk);
        let waiting = self.queued.fetch_add(size, Ordering::Relaxed);
        let write = Write::Chunk {
            id,
            chunk: chunk.clone(),
            space: space.clone(),
        };
        let fits = waiting == 0 || waiting + size <= QUEUE;
        let sent = fits && self.queue.as_ref().is_some_and(|q| q.send(write).is_ok());
        if !sent {
            self.queued.fetch_sub(size, Ordering::Relaxed);
        }
        sent
    }
}

impl Drop for DiskHalf {
    /// Ends the queue and waits until it has been written.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("store writer panicked");
        }
    }
}

fn queued_size(chunk: &VerifiedChunk) -> u64 {
    chunk.bytes().len() as u64 + QUEUED
}

fn write_all(disk: &Disk, counters: &Counters, writes: &Receiver<Write>, queued: &AtomicU64) {
    for write in writes {
        match write {
            // The one who waits may have gone away.
            Write::Flush(done) => drop(done.send(())),
            Write::Chunk { id, chunk, space } => {
                if !disk.contains(&id) {
                    let result = match &space {
                        Space::Plain => disk.put(id, chunk.bytes()),
                        Space::Sealed(seal) => seal
                            .seal(chunk.bytes(), &id.0)
                            .and_then(|record| disk.put(id, &record)),
                    };
                    note(result, counters);
                }
                queued.fetch_sub(queued_size(&chunk), Ordering::Relaxed);
            }
        }
    }
}

/// Counts a chunk that was not kept; logs when the disk begins to fail and when it works again.
fn note(result: Result<()>, counters: &Counters) {
    let failed = result.is_err();
    let was_failing = counters.failing.swap(failed, Ordering::Relaxed);
    match result {
        Ok(()) if was_failing => tracing::info!(event = "store_works", "store writes again"),
        Ok(()) => {}
        Err(error) => {
            counters.not_kept.fetch_add(1, Ordering::Relaxed);
            if !was_failing {
                tracing::warn!(
                    event = "store_failing",
                    %error,
                    "store does not write; chunks are served and not kept"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
