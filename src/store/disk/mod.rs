//! Chunks on disk: a log of segments, oldest dropped first, with a second chance for chunks that
//! were used.
//!
//! Files of chunks would cost an inode each; a log costs two writes a chunk. Several processes may
//! share the directory: each writes segments of its own and reads all that were there when it
//! started. A segment that another process removes stays readable through its descriptor.

mod segment;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use self::segment::{Entry, Segment, Writer};
use super::chunk::ChunkId;
use crate::error::{Error, Result};

/// Largest segment; smaller where the store is small, so that dropping one never drops much.
const SEGMENT: u64 = 64 << 20;
/// A store is at least this many segments.
const MIN_SEGMENTS: u64 = 8;

/// The disk half of the store. All calls block on file I/O.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    capacity: u64,
    segment_size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: HashMap<ChunkId, Place>,
    /// Oldest first; the name begins with the time of creation.
    segments: Vec<Held>,
    active: Option<Writer>,
    used: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Held {
    name: String,
    segment: Arc<Segment>,
    bytes: u64,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Place {
    segment: Arc<Segment>,
    entry: Entry,
    used: bool,
}

// === impl Disk ===

impl Disk {
    /// Opens or makes the directory and learns what earlier processes left there.
    ///
    /// # Errors
    /// `Io` if the directory cannot be made or read. A damaged segment is left out, not an error.
    pub(super) fn open(directory: &Path, capacity: u64) -> Result<Self> {
        let io = |e| Error::io(format!("store directory {}", directory.display()), e);
        std::fs::create_dir_all(directory).map_err(io)?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if let Some(name) = name.to_str().and_then(|n| n.strip_suffix(".data")) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        let mut state = State::default();
        for name in names {
            match Segment::open(directory, &name) {
                Ok((segment, entries)) => state.adopt(name, segment, entries),
                Err(error) => tracing::warn!(%error, "store segment left out"),
            }
        }
        let segment_size = SEGMENT.min(capacity / MIN_SEGMENTS).max(1);
        let disk = Self {
            directory: directory.to_owned(),
            capacity,
            segment_size,
            state: Mutex::new(state),
        };
        disk.shrink(&mut disk.lock());
        Ok(disk)
    }

    /// The record kept under `id`. A record that cannot be read is forgotten.
    pub(super) fn get(&self, id: &ChunkId) -> Option<Vec<u8>> {
        let place = {
            let mut state = self.lock();
            let place = state.chunks.get_mut(id)?;
            place.used = true;
            place.clone()
        };
        match place.segment.read(&place.entry) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "store record not readable");
                self.forget(id);
                None
            }
        }
    }

    /// Whether there is a record under `id`.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.lock().chunks.contains_key(id)
    }

    /// Drops a record whose content turned out wrong.
    pub(super) fn forget(&self, id: &ChunkId) {
        self.lock().chunks.remove(id);
    }

    /// Keeps a record; what is there already stays.
    ///
    /// # Errors
    /// `Io` if the disk is full or fails; nothing half-written is ever named.
    pub(super) fn put(&self, id: ChunkId, record: &[u8]) -> Result<()> {
        let mut state = self.lock();
        if state.chunks.contains_key(&id) || record.len() as u64 > self.capacity {
            return Ok(());
        }
        self.append(&mut state, id, record)?;
        self.shrink(&mut state);
        Ok(())
    }

    /// Bytes of records on disk.
    pub(super) fn used(&self) -> u64 {
        self.lock().used
    }

    /// Chunks that were dropped for others.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Bytes that may be kept.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn append(&self, state: &mut State, id: ChunkId, record: &[u8]) -> Result<()> {
        if state
            .active
            .as_ref()
            .is_none_or(|writer| writer.length() >= self.segment_size)
        {
            let name = new_name()?;
            let (segment, writer) = Segment::create(&self.directory, &name)?;
            state.adopt(name, segment, Vec::new());
            state.active = Some(writer);
        }
        let (Some(writer), Some(held)) = (&mut state.active, state.segments.last_mut()) else {
            return Err(Error::internal("store has no segment to write to"));
        };
        let entry = match writer.append(id, record) {
            Ok(entry) => entry,
            Err(error) => {
                // The segment may end in half a record: begin another next time.
                state.active = None;
                return Err(Error::io(
                    format!("store in {}", self.directory.display()),
                    error,
                ));
            }
        };
        held.bytes += record.len() as u64;
        held.entries.push(entry);
        let segment = Arc::clone(&held.segment);
        state.used += record.len() as u64;
        state.chunks.insert(
            id,
            Place {
                segment,
                entry,
                used: false,
            },
        );
        Ok(())
    }

    /// Drops the oldest segments until all fit. Chunks that were used since they were written move
    /// to the newest segment, at most half a segment of them, so that this ends.
    fn shrink(&self, state: &mut State) {
        while state.used > self.capacity && state.segments.len() > 1 {
            let held = state.segments.remove(0);
            let mut rescued = 0;
            for entry in &held.entries {
                let Some(place) = state.chunks.get(&entry.id) else {
                    continue;
                };
                if !Arc::ptr_eq(&place.segment, &held.segment) {
                    continue;
                }
                let rescue = place.used
                    && rescued + u64::from(entry.length) <= held.bytes.min(self.segment_size) / 2;
                state.chunks.remove(&entry.id);
                if rescue && let Ok(record) = held.segment.read(entry) {
                    rescued += u64::from(entry.length);
                    if let Err(error) = self.append(state, entry.id, &record) {
                        tracing::warn!(%error, "store chunk not kept");
                        state.dropped += 1;
                    }
                } else {
                    state.dropped += 1;
                }
            }
            state.used -= held.bytes;
            held.segment.remove();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can at worst have lost cached chunks.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn adopt(&mut self, name: String, segment: Segment, entries: Vec<Entry>) {
        let segment = Arc::new(segment);
        let bytes = entries.iter().map(|e| u64::from(e.length)).sum();
        for &entry in &entries {
            let segment = Arc::clone(&segment);
            self.chunks.insert(
                entry.id,
                Place {
                    segment,
                    entry,
                    used: false,
                },
            );
        }
        self.used += bytes;
        self.segments.push(Held {
            name,
            segment,
            bytes,
            entries,
        });
        self.segments.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// A name that sorts by time and that no other process takes.
fn new_name() -> Result<String> {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let salt = getrandom::u32().map_err(|e| Error::internal(format!("random numbers: {e}")))?;
    Ok(format!("{nanos:024}-{salt:08x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> ChunkId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_le_bytes());
        ChunkId(id)
    }

    #[test]
    fn survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), 1 << 20).unwrap();
        disk.put(id(1), b"one").unwrap();
        disk.put(id(2), b"two").unwrap();
        drop(disk);
        let disk = Disk::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(disk.get(&id(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!(disk.get(&id(2)).as_deref(), Some(&b"two"[..]));
        assert_eq!(disk.used(), 6);
        assert_eq!(disk.get(&id(3)), None);
    }

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), 64 << 10).unwrap();
        for n in 0..1000_u16 {
            disk.put(id(n), &[n.to_le_bytes()[0]; 1024]).unwrap();
            if n % 10 == 0 {
                assert!(disk.get(&id(0)).is_some(), "used at every turn, {n}");
            }
        }
        assert!(disk.used() <= 64 << 10);
        assert!(disk.get(&id(1)).is_none());
        assert!(disk.get(&id(999)).is_some());
        let here = (0..1000).filter(|n| disk.contains(&id(*n))).count();
        assert_eq!(disk.dropped(), 1000 - here as u64);
        let on_disk: u64 = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap())
            .filter(|e| e.path().extension().is_some_and(|x| x == "data"))
            .map(|e| e.metadata().unwrap().len())
            .sum();
        assert_eq!(on_disk, disk.used());
    }

    #[test]
    fn a_smaller_capacity_at_restart_shrinks_it() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), 1 << 20).unwrap();
        for n in 0..512 {
            disk.put(id(n), &[7; 1024]).unwrap();
        }
        drop(disk);
        let disk = Disk::open(directory.path(), 128 << 10).unwrap();
        assert!(disk.used() <= 128 << 10, "{}", disk.used());
    }

    #[test]
    fn a_truncated_segment_loses_its_chunks_only() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), 1 << 20).unwrap();
        disk.put(id(1), &[1; 100]).unwrap();
        let data = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().is_some_and(|x| x == "data"))
            .unwrap();
        std::fs::OpenOptions::new()
            .write(true)
            .open(data)
            .unwrap()
            .set_len(10)
            .unwrap();
        assert_eq!(disk.get(&id(1)), None);
        assert!(!disk.contains(&id(1)));
        disk.put(id(1), &[1; 100]).unwrap();
        assert_eq!(disk.get(&id(1)), Some(vec![1; 100]));
    }
}
