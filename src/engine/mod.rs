//! The chunk engine: plans, fetches, decrypts, decodes, verifies and caches chunks.
//!
//! A read is answered at once if its chunks are in memory. Otherwise a worker looks on disk, and
//! what is still missing is fetched: units that lie near each other in the blob in one request, each
//! unit by one flight however many readers wait for it. Decoding and verifying run on the workers, so
//! neither the front end's threads nor the network's ever do it.

mod arriving;
mod background;
mod counters;
mod fetch;
mod flights;
mod follow;
mod laid;
mod neighbours;
mod operation;
mod pace;
mod plan;
mod profile;
mod recover;
mod rest;
mod streams;
mod switch;
mod workers;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::oneshot, task::AbortHandle};

pub(crate) use self::switch::{Switch, Switched};
pub use self::{
    background::{Background, BackgroundConfig},
    counters::{EngineCounts, EngineSnapshot, Meter, ServedFrom},
    neighbours::Reach,
    profile::{FollowConfig, Profile, Run},
};
use self::{
    counters::Counters,
    flights::{Flights, Waiter},
    follow::Pending,
    laid::Laid,
    neighbours::Neighbours,
    operation::{Answer, Fault, Operation},
    pace::Pace,
    plan::ByUnit,
    profile::Recorder,
    rest::Completion,
    streams::Streams,
    workers::{Task, Workers},
};
use crate::{
    error::{Error, Kind, Result},
    index::{ChunkDigest, ChunkTable, Place},
    oci::Digest,
    source::BlobSource,
    store::{Space, Store},
};

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

    /// What is known to be zeros in a file without reading it: ascending ranges without overlap.
    fn zeros(&self, file: FileData) -> Vec<Range<u64>> {
        let _ = file;
        Vec::new()
    }
}

/// How an [`Engine`] fetches and decodes.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Decoding threads; 0 takes the number of processors.
    pub workers: usize,
    /// Needs with at most so many blob bytes between them are fetched in one request.
    pub join_gap: u64,
    /// A request for less is grown by what lies behind it, to so many blob bytes at first, and as soon
    /// as it is known how the source answers, to what comes in the time that its answer takes.
    pub min_extent: u64,
    /// The least and the most that it is grown to.
    pub grow: (u64, u64),
    /// Longest request, unless one unit is longer.
    pub max_extent: u64,
    /// Largest window that is fetched ahead of a sequential reader, in bytes of the file; 0 fetches
    /// nothing ahead. The first one is as long as a request.
    pub stream_window: u64,
    /// What is fetched ahead of readers who jump about.
    pub neighbours: Reach,
    /// How far an image's profile is followed; none is not even looked for.
    pub follow: Option<FollowConfig>,
}

/// One layer as the engine reads it.
#[derive(Debug)]
pub struct LayerData {
    /// Digest of the blob, for messages.
    pub digest: Digest,
    /// From a verified index; shared by the images that have the layer.
    pub table: Arc<ChunkTable>,
    /// The plain blob (decrypting, if the layer is encrypted).
    pub source: Arc<dyn BlobSource>,
    /// How its chunks are stored.
    pub space: Space,
}

/// Reads the files of one image.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    workers: Workers,
    /// Ends the completion of the image.
    completion: OnceLock<AbortHandle>,
}

/// What reads, workers and fetches have in common.
#[derive(Debug)]
struct Shared {
    layers: Vec<Layer>,
    store: Arc<Store>,
    runtime: Handle,
    flights: Flights,
    streams: Streams,
    pace: Pace,
    /// What a profile has still to fetch.
    pending: Pending,
    /// What has come and is to be decoded.
    laid: Laid,
    neighbours: Neighbours,
    /// Notes what is read, from when somebody asks for it.
    recorder: OnceLock<Recorder>,
    /// Is told what goes before it.
    background: OnceLock<Arc<Background>>,
    counters: Arc<Counters>,
    config: EngineConfig,
}

#[derive(Debug)]
struct Layer {
    data: LayerData,
    /// Digests of chunks that no index gives, by their numbers.
    learnt: Vec<OnceLock<ChunkDigest>>,
    by_unit: ByUnit,
    /// Windows that cannot be had are made again by one at a time.
    recovering: tokio::sync::Mutex<()>,
}

// === impl EngineConfig ===

impl EngineConfig {
    /// What was measured to be good on small machines with a registry near by.
    pub const RECOMMENDED: Self = Self {
        workers: 0,
        join_gap: 16 << 10,
        min_extent: 128 << 10,
        grow: (64 << 10, 1 << 20),
        max_extent: 4 << 20,
        stream_window: 16 << 20,
        neighbours: Reach::RECOMMENDED,
        follow: Some(FollowConfig::RECOMMENDED),
    };
}

// === impl Engine ===

impl Engine {
    /// Starts the workers. `runtime` runs the fetches.
    ///
    /// # Errors
    /// `Invalid` if there are more layers than 65,535; `Io` if threads cannot be started.
    pub fn start(
        layers: Vec<LayerData>,
        store: Arc<Store>,
        runtime: Handle,
        config: EngineConfig,
    ) -> Result<Self> {
        if layers.len() > usize::from(u16::MAX) {
            return Err(Error::invalid(format!("image of {} layers", layers.len())));
        }
        let layers = layers
            .into_iter()
            .map(|data| Layer {
                by_unit: ByUnit::new(&data.table),
                learnt: match data.table.spans.is_empty() {
                    true => Vec::new(),
                    false => vec![OnceLock::new(); data.table.chunks.len()],
                },
                recovering: tokio::sync::Mutex::default(),
                data,
            })
            .collect();
        let shared = Arc::new(Shared {
            layers,
            store,
            runtime,
            flights: Flights::default(),
            streams: Streams::new(config.stream_window),
            pace: Pace::new(config.min_extent, config.grow),
            pending: Pending::default(),
            laid: Laid::default(),
            neighbours: Neighbours::new(config.neighbours),
            recorder: OnceLock::new(),
            background: OnceLock::new(),
            counters: Arc::default(),
            config,
        });
        let workers = Workers::start(&shared)?;
        Ok(Self {
            shared,
            workers,
            completion: OnceLock::new(),
        })
    }

    /// [`ReadFile::read`] for async callers.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not what was signed, and what the source says.
    pub async fn read_async(&self, file: FileData, offset: u64, length: u32) -> Result<Bytes> {
        let (send, receive) = oneshot::channel();
        // The receiver may be gone when the caller gave up.
        self.read(
            file,
            offset,
            length,
            Box::new(move |result| drop(send.send(result))),
        );
        receive
            .await
            .map_err(|_| Error::internal("engine stopped in mid-read"))?
    }

    /// Fetches the units in the first `bytes` of a layer's blob ahead of any read.
    pub fn prefetch(&self, layer: u16, bytes: u64) {
        let Some(data) = self.shared.layers.get(usize::from(layer)) else {
            return;
        };
        let units = &data.data.table.units;
        let count = units.partition_point(|u| u.offset + u64::from(u.length) <= bytes);
        let units = (0..).take(count).collect();
        self.workers.send(Task::Prefetch { layer, units });
    }

    /// Fetches ahead what `profile` names, in its order and in few requests. What a reader wants is
    /// fetched before the rest.
    pub fn follow(&self, profile: &Profile, config: FollowConfig) {
        let extents = profile.extents(&self.shared.tables(), config);
        if !extents.is_empty() {
            self.shared.pending.expect();
            self.workers.send(Task::Follow { extents });
        }
    }

    /// Ends when what [`follow`](Self::follow) fetches has come, or nothing more will; at once if it
    /// was not called.
    pub fn followed(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.pending.over().await }
    }

    /// Has everything fetched into the store that it lacks, while nobody waits for anything and not
    /// before `may_begin`. If that takes little time ([`BackgroundConfig::at_once`]) and a start is
    /// `at_hand` of which no profile tells what it reads, then at once. Nothing happens if the store has
    /// no disk, and at a second call. `image` is what the log calls it.
    pub fn complete(
        &self,
        background: &Arc<Background>,
        image: &str,
        at_hand: bool,
        may_begin: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.shared.store.room() == 0
            || self.shared.background.set(Arc::clone(background)).is_err()
        {
            return;
        }
        let completion = Completion {
            shared: Arc::downgrade(&self.shared),
            queues: self.workers.queues(),
            background: Arc::clone(background),
            image: image.to_owned(),
            at_once: at_hand && self.shared.pending.is_over(),
        };
        let running = self.shared.runtime.spawn(completion.run(may_begin));
        self.completion.get_or_init(|| running.abort_handle());
    }

    /// Begins to note what is read.
    pub fn record(&self) {
        self.shared.recorder.get_or_init(Recorder::default);
    }

    /// What was read since [`record`](Self::record), in order; empty without that.
    #[must_use]
    pub fn recorded(&self) -> Profile {
        let recorder = self.shared.recorder.get();
        recorder.map_or_else(Profile::default, |it| it.profile(&self.shared.tables()))
    }

    /// What it did so far.
    #[must_use]
    pub fn snapshot(&self) -> EngineSnapshot {
        self.shared.counters.snapshot()
    }

    /// Reads its counts from elsewhere, and after its end.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter::new(&self.shared.counters)
    }

    /// Answers a read with an error without looking for its bytes; it counts as a failed read.
    pub fn refuse(&self, error: Error, done: ReadDone) {
        let counters = &self.shared.counters;
        Counters::add(&counters.reads, 1);
        counters.failed(&error);
        done(Err(error));
    }

    /// The store it keeps chunks in.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.get() {
            completion.abort();
        }
        // What is on its way is let go on; the rest of a profile is not.
        self.shared.pending.clear();
    }
}

impl ReadFile for Engine {
    fn read(&self, file: FileData, offset: u64, length: u32, done: ReadDone) {
        let counters = &self.shared.counters;
        Counters::add(&counters.reads, 1);
        let Some(layer) = self.shared.layers.get(usize::from(file.layer)) else {
            let error = Error::internal(format!(
                "file in layer {} of an image without it",
                file.layer
            ));
            counters.failed(&error);
            done(Err(error));
            return;
        };
        let table = &layer.data.table;
        let parts = plan::parts(table, file, offset, length);
        let operation = Arc::new(Operation::new(parts.len(), self.counting(done)));
        let mut missing = Vec::new();
        for (slot, part) in parts.into_iter().enumerate() {
            let chunk = &table.chunks[part.chunk as usize];
            let range = part.start as usize..part.end as usize;
            if let (Some(recorder), Place::Unit { unit, .. }) =
                (self.shared.recorder.get(), chunk.place)
            {
                recorder.note(file.layer, unit);
            }
            if chunk.place == Place::Zeros {
                let zeros = Bytes::from(vec![0; range.len()]);
                operation.fill(slot, zeros, ServedFrom::Memory);
            } else if let Some(kept) = layer
                .digest(part.chunk)
                .and_then(|it| self.shared.store.get_memory(&layer.data.space, &it))
            {
                operation.fill(slot, kept.bytes().slice(range), ServedFrom::Memory);
            } else {
                missing.push(Waiter {
                    operation: Arc::clone(&operation),
                    slot,
                    part,
                });
            }
        }
        let ahead = self.ahead(file, offset, length, !missing.is_empty());
        if !missing.is_empty() || ahead.is_some() {
            let ahead = ahead.map(|range| (file, range));
            self.workers.send(Task::Look {
                layer: file.layer,
                waiters: missing,
                ahead,
            });
        }
    }

    fn zeros(&self, file: FileData) -> Vec<Range<u64>> {
        let layer = self.shared.layers.get(usize::from(file.layer));
        layer.map_or_else(Vec::new, |layer| plan::zeros(&layer.data.table, file))
    }
}

impl Engine {
    /// What to fetch ahead of this reader, who misses some of what he reads or nothing. Nothing while a
    /// profile is followed, which knows better.
    fn ahead(&self, file: FileData, offset: u64, length: u32, misses: bool) -> Option<Range<u64>> {
        let shared = &self.shared;
        let first = misses.then(|| shared.pace.extent());
        let file = (file.layer, file.first_chunk);
        let ahead = shared.streams.note(file, offset, length, first);
        ahead.filter(|_| shared.pending.is_over())
    }

    /// Counts the answer before it is given.
    fn counting(&self, done: ReadDone) -> Answer {
        // Not `shared`: flights hold operations, and those must not hold the flights.
        let counters = Arc::clone(&self.shared.counters);
        let begin = Instant::now();
        Box::new(move |result, from| {
            match &result {
                Ok(bytes) => counters.answered(from, bytes.len(), begin.elapsed()),
                Err(error) => counters.failed(error),
            }
            done(result);
        })
    }
}

impl Shared {
    fn tables(&self) -> Vec<&ChunkTable> {
        self.layers.iter().map(|it| &*it.data.table).collect()
    }
}

impl Layer {
    /// What went wrong with a chunk, named.
    fn corrupt(&self, chunk: u32, what: &str) -> Fault {
        Fault {
            kind: Kind::Corrupt,
            message: format!("layer {} chunk {chunk}: {what}", self.data.digest),
        }
    }
}

#[cfg(test)]
mod tests;
