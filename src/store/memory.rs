//! Verified chunks in memory: least recently used, bounded in bytes.

use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use super::chunk::{ChunkId, VerifiedChunk};

/// What one cached chunk costs beyond its bytes: map entry, list links, reference count.
const ENTRY_COST: usize = 160;

#[derive(Debug)]
pub(super) struct Memory {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chunks: LruCache<ChunkId, VerifiedChunk>,
    used: usize,
    dropped: u64,
}

// === impl Memory ===

impl Memory {
    /// Keeps at most `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::new(State {
                chunks: LruCache::unbounded(),
                used: 0,
                dropped: 0,
            }),
        }
    }

    pub(super) fn get(&self, id: &ChunkId) -> Option<VerifiedChunk> {
        self.lock().chunks.get(id).cloned()
    }

    /// Whether the chunk is here; its turn to be dropped stays what it was.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.lock().chunks.contains(id)
    }

    /// Adds a chunk and drops the least recently used ones until all fit. A chunk that alone is
    /// larger than the capacity is not kept.
    pub(super) fn put(&self, id: ChunkId, chunk: VerifiedChunk) {
        let cost = cost(&chunk);
        if cost > self.capacity {
            return;
        }
        let mut state = self.lock();
        if let Some(old) = state.chunks.put(id, chunk) {
            state.used -= self::cost(&old);
        }
        state.used += cost;
        while state.used > self.capacity {
            let Some((_, dropped)) = state.chunks.pop_lru() else {
                break;
            };
            state.used -= self::cost(&dropped);
            state.dropped += 1;
        }
    }

    /// Bytes kept, bookkeeping included.
    pub(super) fn used(&self) -> usize {
        self.lock().used
    }

    /// Bytes that may be kept.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Chunks that were dropped for others.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(chunk: &VerifiedChunk) -> usize {
    chunk.bytes().len() + ENTRY_COST
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::Space;

    fn chunk(byte: u8, length: usize) -> (ChunkId, VerifiedChunk) {
        let bytes = vec![byte; length];
        let digest = crate::index::Algorithm::Sha256.digest(&bytes);
        (
            Space::Plain.id(&digest),
            VerifiedChunk::check(Bytes::from(bytes), &digest).expect("its own digest"),
        )
    }

    #[test]
    fn drops_the_least_recently_used_within_its_bytes() {
        let memory = Memory::new(3 * (100 + ENTRY_COST));
        let chunks: Vec<_> = (0..4).map(|i| chunk(i, 100)).collect();
        for (id, chunk) in &chunks[..3] {
            memory.put(*id, chunk.clone());
        }
        assert!(memory.get(&chunks[0].0).is_some());
        memory.put(chunks[3].0, chunks[3].1.clone());
        assert!(
            memory.get(&chunks[1].0).is_none(),
            "the oldest use goes first"
        );
        assert!(memory.get(&chunks[0].0).is_some());
        assert_eq!(memory.used(), 3 * (100 + ENTRY_COST));
        assert_eq!(memory.dropped(), 1);
        memory.put(chunks[3].0, chunks[3].1.clone());
        assert_eq!(
            memory.used(),
            3 * (100 + ENTRY_COST),
            "the same chunk counts once"
        );
        let (id, large) = chunk(9, 1000);
        memory.put(id, large);
        assert!(memory.get(&id).is_none() && memory.get(&chunks[0].0).is_some());
    }
}
