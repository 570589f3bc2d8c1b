#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers of the tests' own"
)]

use std::{
    io::Write,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    index::{Chunk, Codec, Unit},
    source::{BlobStream, MemoryBlob, PlacedStream},
    store::StoreConfig,
};

/// A blob whose reads are logged, can be held back, flipped or refused.
#[derive(Debug)]
struct Scripted {
    blob: MemoryBlob,
    log: Mutex<Vec<Range<u64>>>,
    gate: Semaphore,
    flips: AtomicUsize,
    down: AtomicBool,
}

impl BlobSource for Scripted {
    fn digest(&self) -> &Digest {
        self.blob.digest()
    }

    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            self.pass(range.clone()).await?;
            self.bytes(range).await
        })
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            // One request, as long as all of them.
            let length: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let start = ranges[0].start;
            self.pass(start..start + length).await?;
            let mut pieces = Vec::new();
            for range in ranges {
                pieces.push(Ok((range.start, self.bytes(range).await?)));
            }
            Ok(stream::iter(pieces).boxed())
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        self.blob.stream()
    }
}

impl Scripted {
    async fn pass(&self, range: Range<u64>) -> Result<()> {
        self.log.lock().unwrap().push(range);
        let _pass = self.gate.acquire().await.expect("the gate stays open");
        match self.down.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("registry is away")),
            false => Ok(()),
        }
    }

    async fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.blob.read_at(range).await?;
        let flip = self
            .flips
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if flip.is_err() {
            return Ok(bytes);
        }
        let mut bytes = bytes.to_vec();
        bytes[15] ^= 1;
        Ok(Bytes::from(bytes))
    }
}

struct Fixture {
    engine: Engine,
    source: Arc<Scripted>,
    plain: Vec<u8>,
    file: FileData,
}

const CHUNK: usize = 1000;

/// One file of `chunks` chunks of 1000 bytes, each in a gzip member of its own; chunks are kept in
/// memory.
fn fixture(chunks: u32, config: EngineConfig, gate: usize) -> Fixture {
    let store = StoreConfig {
        memory_bytes: 1 << 20,
        disk: None,
        indexes: None,
    };
    fixture_on(&store, chunks, config, gate)
}

fn fixture_on(store: &StoreConfig, chunks: u32, config: EngineConfig, gate: usize) -> Fixture {
    let mut blob = Vec::new();
    let mut table = ChunkTable::default();
    let mut plain = Vec::new();
    for index in 0..chunks {
        let bytes: Vec<u8> = (0..CHUNK)
            .map(|i| Sha256::digest([index.to_le_bytes(), (i as u32).to_le_bytes()].concat())[0])
            .collect();
        let offset = blob.len();
        let mut gzip = flate2::write::GzEncoder::new(&mut blob, flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        gzip.finish().unwrap();
        table.units.push(Unit {
            offset: offset as u64,
            length: u32::try_from(blob.len() - offset).unwrap(),
            codec: Codec::Gzip,
        });
        table.chunks.push(Chunk {
            file_offset: plain.len() as u64,
            length: CHUNK as u32,
            place: Place::Unit {
                unit: index,
                offset: 0,
            },
            digest: Sha256::digest(&bytes).into(),
        });
        plain.extend(bytes);
    }
    let source = Arc::new(Scripted {
        blob: MemoryBlob::new(Bytes::from(blob)),
        log: Mutex::default(),
        gate: Semaphore::new(gate),
        flips: AtomicUsize::new(0),
        down: AtomicBool::new(false),
    });
    let store = Store::open(store).unwrap();
    let layer = LayerData {
        digest: source.digest().clone(),
        table: Arc::new(table),
        source: Arc::clone(&source) as Arc<dyn BlobSource>,
        space: Space::Plain,
    };
    let engine = Engine::start(vec![layer], Arc::new(store), Handle::current(), config).unwrap();
    let file = FileData {
        layer: 0,
        first_chunk: 0,
        chunk_count: chunks,
        size: plain.len() as u64,
    };
    Fixture {
        engine,
        source,
        plain,
        file,
    }
}

/// Fetches what is asked for and nothing more.
const BARE: EngineConfig = EngineConfig {
    workers: 2,
    join_gap: 0,
    min_extent: 0,
    grow: (0, 0),
    neighbours: Reach::NONE,
    max_extent: 1 << 20,
    stream_window: 0,
    follow: None,
};

impl Fixture {
    async fn read(&self, offset: u64, length: u32) -> Result<Bytes> {
        self.engine.read_async(self.file, offset, length).await
    }

    fn requests(&self) -> usize {
        self.source.log.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_any_range_and_fetches_each_chunk_once() {
    let f = fixture(5, BARE, 100);
    for (offset, length) in [
        (0, 10),
        (995, 10),
        (4990, 100),
        (0, 5000),
        (5000, 1),
        (1500, 0),
    ] {
        let end = (offset as usize + length as usize).min(f.plain.len());
        let want = &f.plain[(offset as usize).min(end)..end];
        assert_eq!(
            f.read(offset, length).await.unwrap(),
            want,
            "{offset}+{length}"
        );
    }
    let bytes: u64 = f
        .source
        .log
        .lock()
        .unwrap()
        .iter()
        .map(|r| r.end - r.start)
        .sum();
    assert_eq!(bytes, f.source.size(), "every unit was fetched once");
    assert_eq!(f.engine.snapshot().chunks, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_disk_is_not_fetched_however_many_join() {
    let directory = tempfile::tempdir().unwrap();
    // Nothing stays in memory, so every read looks on disk.
    let store = StoreConfig {
        memory_bytes: 0,
        disk: Some((directory.path().to_owned(), 1 << 20)),
        indexes: None,
    };
    let config = EngineConfig {
        stream_window: 4000,
        ..BARE
    };
    let f = fixture_on(&store, 4, config, 100);
    assert_eq!(f.read(0, 4000).await.unwrap(), f.plain);
    f.engine.store().flush();
    let requests = f.requests();
    for round in 0..2000_u64 {
        // Readers of one unit, and those that read on, which fetches ahead.
        let reads = (0..6).map(|reader| f.read((round + reader) % 4 * 1000, 600));
        for read in futures::future::join_all(reads).await {
            read.unwrap();
        }
        assert_eq!(f.requests(), requests, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_fetched_in_one_request() {
    let f = fixture(5, BARE, 100);
    assert_eq!(f.read(0, 5000).await.unwrap(), f.plain);
    assert_eq!(f.requests(), 1);

    let grown = fixture(
        5,
        EngineConfig {
            min_extent: 1 << 20,
            grow: (1 << 20, 1 << 20),
            ..BARE
        },
        100,
    );
    grown.read(1000, 1).await.unwrap();
    assert_eq!(grown.read(1000, 4000).await.unwrap(), &grown.plain[1000..]);
    assert_eq!(grown.requests(), 1, "what lies behind came along");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_chunk_share_one_flight() {
    let f = Arc::new(fixture(1, BARE, 0));
    let readers: Vec<_> = (0..50_u64)
        .map(|i| {
            let f = Arc::clone(&f);
            tokio::spawn(async move { f.read(i, 10).await })
        })
        .collect();
    // All reads are with the engine before the first byte arrives.
    while f.engine.snapshot().reads < 50 {
        tokio::task::yield_now().await;
    }
    f.source.gate.add_permits(1);
    for (i, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.unwrap().unwrap(), &f.plain[i..i + 10]);
    }
    assert_eq!(f.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_fetched_again_and_twice_is_corrupt() {
    let f = fixture(1, BARE, 100);
    f.source.flips.store(1, Ordering::SeqCst);
    assert_eq!(f.read(0, 1000).await.unwrap(), f.plain);
    assert_eq!(f.requests(), 2);

    let f = fixture(1, BARE, 100);
    f.source.flips.store(2, Ordering::SeqCst);
    let error = f.read(0, 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("chunk 0"), "{error}");
    assert_eq!(f.engine.snapshot().failed_reads, 1);
    assert_eq!(
        f.read(0, 1000).await.unwrap(),
        f.plain,
        "mended, it can be read"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_away_fails_new_reads_only() {
    let f = fixture(2, BARE, 100);
    f.read(0, 10).await.unwrap();
    f.source.down.store(true, Ordering::SeqCst);
    assert_eq!(f.read(0, 1000).await.unwrap(), &f.plain[..1000]);
    assert_eq!(
        f.read(1000, 10).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    f.source.down.store(false, Ordering::SeqCst);
    assert_eq!(f.read(1000, 10).await.unwrap(), &f.plain[1000..1010]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_reader_is_fetched_ahead_of() {
    let f = fixture(
        200,
        EngineConfig {
            stream_window: 64 << 10,
            ..BARE
        },
        1000,
    );
    for offset in (0..200_000).step_by(500) {
        assert_eq!(
            f.read(offset, 500).await.unwrap(),
            &f.plain[offset as usize..][..500]
        );
    }
    assert!(
        f.requests() < 40,
        "{} requests for 200 chunks",
        f.requests()
    );
    let bytes: u64 = f
        .source
        .log
        .lock()
        .unwrap()
        .iter()
        .map(|r| r.end - r.start)
        .sum();
    assert_eq!(bytes, f.source.size(), "no unit twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_counted_by_where_they_came_from_and_how_they_failed() {
    let directory = tempfile::tempdir().unwrap();
    // Room for two chunks in memory.
    let store = StoreConfig {
        memory_bytes: 2500,
        disk: Some((directory.path().to_owned(), 1 << 20)),
        indexes: None,
    };
    // One worker, so that chunks come into memory in their order.
    let config = EngineConfig { workers: 1, ..BARE };
    let f = fixture_on(&store, 4, config, 100);
    let meter = f.engine.meter();
    let counts = || {
        let counts = meter.counts();
        let took = counts.took.map(|it| it.count());
        (took, counts.numbers.read_bytes, counts.numbers.reads)
    };
    f.read(0, 700).await.unwrap();
    assert_eq!(counts(), ([0, 0, 1], 700, 1));
    f.read(100, 700).await.unwrap();
    assert_eq!(counts(), ([1, 0, 1], 1400, 2));
    f.read(1000, 3000).await.unwrap();
    f.engine.store().flush();
    // Fell out of memory; and half of this read is in memory, the other is not.
    f.read(0, 10).await.unwrap();
    f.read(3990, 10).await.unwrap();
    f.read(900, 200).await.unwrap();
    let (took, bytes, _) = counts();
    assert_eq!((took, bytes), ([2, 2, 2], 4620));
    let numbers = meter.snapshot();
    assert_eq!((numbers.chunks, numbers.ahead_bytes), (4, 0));
    assert_eq!(f.engine.store().snapshot().misses, 4);

    let (send, receive) = oneshot::channel();
    let poisoned = Error::corrupt("poisoned");
    f.engine
        .refuse(poisoned, Box::new(move |r| drop(send.send(r))));
    receive.await.unwrap().unwrap_err();
    let counts = meter.counts();
    assert_eq!(counts.failed.of(Kind::Corrupt), 1);
    assert_eq!((counts.numbers.reads, counts.numbers.failed_reads), (7, 1));

    // The counts outlive the engine.
    assert!(!meter.is_last());
    drop(f);
    assert!(meter.is_last());
    assert_eq!(meter.counts(), counts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_ahead_is_counted() {
    let f = fixture(4, BARE, 100);
    f.read(0, 10).await.unwrap();
    assert_eq!(f.engine.snapshot().ahead_bytes, 0);
    f.engine.prefetch(0, f.source.size());
    let ahead = |f: &Fixture| f.engine.snapshot().ahead_bytes;
    while ahead(&f) == 0 {
        tokio::task::yield_now().await;
    }
    let first = u64::from(f.engine.shared.layers[0].data.table.units[0].length);
    assert_eq!(ahead(&f), f.source.size() - first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_answers_who_waits() {
    let f = fixture(1, BARE, 0);
    let (send, receive) = oneshot::channel();
    f.engine
        .read(f.file, 0, 10, Box::new(move |r| drop(send.send(r))));
    while f.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let source = Arc::clone(&f.source);
    drop(f);
    source.gate.add_permits(1);
    let answer = receive.await.expect("an answer, not a dropped reader");
    assert_eq!(answer.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_start_is_fetched_in_few_requests_the_next_time() {
    let first = fixture(40, BARE, 100);
    first.engine.record();
    for chunk in [30, 2, 3, 2, 31, 9] {
        first.read(chunk * 1000, 500).await.unwrap();
    }
    let profile = first.engine.recorded();
    assert_eq!(profile.runs.len(), 4, "{profile:?}");
    assert_eq!(first.requests(), 5);

    let second = fixture(40, BARE, 0);
    let config = FollowConfig {
        budget: 1 << 20,
        requests: 2,
    };
    second.engine.follow(&profile, config);
    // Wanted before it is there, and one that the profile does not name.
    let named = second.read(9 * 1000, 500);
    let other = second.read(20 * 1000, 500);
    let ((), named, other) =
        tokio::join!(async { second.source.gate.add_permits(100) }, named, other);
    assert_eq!(named.unwrap(), second.plain[9000..9500]);
    assert_eq!(other.unwrap(), second.plain[20_000..20_500]);
    for chunk in [30, 2, 3, 31] {
        second.read(chunk * 1000, 1000).await.unwrap();
    }
    let requests = second.requests();
    // The profile's two, the other, and the named one if its reader came before the profile.
    assert!(requests <= 4, "{requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_wants_is_fetched_before_the_rest_of_a_profile() {
    let f = fixture(200, BARE, 0);
    let unit = |n: usize| {
        let unit = &f.engine.shared.layers[0].data.table.units[n];
        unit.offset..unit.offset + u64::from(unit.length)
    };
    let runs = (0..200).step_by(20).map(|n| Run {
        layer: 0,
        bytes: unit(n),
    });
    let profile = Profile {
        runs: runs.collect(),
    };
    // Ten extents: what lies between is too much to be fetched over.
    let extents = profile.extents(&f.engine.shared.tables(), FollowConfig::RECOMMENDED);
    let apart = extents.len();
    f.engine.follow(&profile, FollowConfig::RECOMMENDED);
    let last = f.read(180 * 1000, 1000);
    let (last, ()) = tokio::join!(last, async { f.source.gate.add_permits(1000) });
    assert_eq!(last.unwrap(), f.plain[180_000..181_000]);
    for n in (0..200).step_by(20) {
        f.read(n * 1000, 1000).await.unwrap();
    }
    // One more if the reader came before the profile.
    assert!(f.requests() <= apart + 1, "none is fetched twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_is_followed_when_all_of_it_has_come() {
    let f = fixture(10, BARE, 0);
    f.engine.followed().await;
    let profile = Profile {
        runs: vec![Run {
            layer: 0,
            bytes: 0..f.source.size(),
        }],
    };
    f.engine.follow(&profile, FollowConfig::RECOMMENDED);
    let followed = f.engine.followed();
    tokio::pin!(followed);
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut followed).await;
    assert!(early.is_err(), "nothing has come");
    f.source.gate.add_permits(100);
    followed.await;
    assert_eq!(f.requests(), 1);
    assert_eq!(f.read(0, 10_000).await.unwrap(), f.plain);
    assert_eq!(f.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_of_what_was_read_come_after_it() {
    let config = EngineConfig {
        neighbours: Reach {
            same_file: 1 << 20,
            next_files: 0,
        },
        min_extent: 2000,
        ..BARE
    };
    let f = fixture(30, config, 1000);
    f.read(10_000, 10).await.unwrap();
    // As much as was asked for in the first place, behind it.
    while f.requests() < 2 {
        tokio::task::yield_now().await;
    }
    let log = f.source.log.lock().unwrap().clone();
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!(log[1].start, log[0].end, "{log:?}");
}

/// A store with room for so many bytes on disk.
fn on_disk(directory: &std::path::Path, memory_bytes: usize, bytes: u64) -> StoreConfig {
    StoreConfig {
        memory_bytes,
        disk: Some((directory.to_owned(), bytes)),
        indexes: None,
    }
}

fn background(at_once: Duration) -> Arc<Background> {
    Arc::new(Background::new(BackgroundConfig {
        after: Duration::ZERO,
        rate: 0,
        at_once,
        pause: Duration::from_millis(50),
    }))
}

/// Waits until so many chunks are on disk.
async fn until_on_disk(f: &Fixture, chunks: u64) {
    let all = async {
        while f.engine.store().snapshot().disk_bytes < chunks * CHUNK as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(600), all).await;
    assert!(came.is_ok(), "{:?}", f.engine.store().snapshot());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_completed_on_disk_and_does_without_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let f = fixture_on(&on_disk(directory.path(), 1 << 20, 1 << 20), 5, BARE, 100);
    f.read(2000, 1000).await.unwrap();
    f.engine
        .complete(&background(Duration::ZERO), "image", false, async {});
    until_on_disk(&f, 5).await;
    let counted = f.engine.snapshot();
    assert_eq!(counted.chunks, 5, "none comes twice");
    // The gap that was there is smaller than what another run costs.
    assert_eq!(counted.rest_bytes, f.source.size());
    let in_memory = f.engine.store().snapshot().memory_bytes;
    assert!(
        in_memory < 2 * CHUNK as u64,
        "{in_memory}: only what was read"
    );
    f.source.down.store(true, Ordering::SeqCst);
    assert_eq!(f.read(0, 5000).await.unwrap(), f.plain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_comes_back_to_a_source_that_was_away() {
    let directory = tempfile::tempdir().unwrap();
    let f = fixture_on(&on_disk(directory.path(), 0, 1 << 20), 3, BARE, 100);
    f.source.down.store(true, Ordering::SeqCst);
    let begin = tokio::time::Instant::now();
    f.engine
        .complete(&background(Duration::ZERO), "image", false, async {});
    while f.requests() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(150), "{took:?}: with pauses");
    f.source.down.store(false, Ordering::SeqCst);
    until_on_disk(&f, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_never_takes_the_room_of_what_was_read() {
    let directory = tempfile::tempdir().unwrap();
    let f = fixture_on(&on_disk(directory.path(), 0, 2500), 5, BARE, 100);
    f.read(4000, 1000).await.unwrap();
    f.engine.store().flush();
    let requests = f.requests();
    f.engine
        .complete(&background(Duration::ZERO), "image", false, async {});
    // Its task ends when it finds that there is no room, and with it its hold on the background.
    while Arc::strong_count(f.engine.shared.background.get().unwrap()) > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        f.requests(),
        requests,
        "all of what is missing is one request"
    );
    assert_eq!(f.engine.store().snapshot().disk_evictions, 0);
}

/// An image of a thousand chunks, more than is asked for to see how fast its source is; nothing is
/// fetched but at once.
fn at_once(directory: &std::path::Path, gate: usize, at_once: Duration) -> Fixture {
    let f = fixture_on(&on_disk(directory, 0, 4 << 20), 1000, BARE, gate);
    let config = BackgroundConfig {
        after: Duration::from_secs(3600),
        rate: 1,
        at_once,
        ..BackgroundConfig::RECOMMENDED
    };
    let background = Arc::new(Background::new(config));
    if gate == 0 {
        // Not asked for what is known.
        note_speed(&f, 1 << 30);
    }
    f.engine.complete(&background, "image", true, async {});
    f
}

/// As many answers as are remembered, from far away and so fast.
fn note_speed(f: &Fixture, bytes_a_second: u64) {
    for _ in 0..16 {
        let second = Duration::from_secs(1);
        f.engine.shared.pace.note(second, bytes_a_second, second);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_comes_soon_is_fetched_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let f = at_once(directory.path(), 100, Duration::from_secs(5));
    while f.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    f.read(999_000, 1000).await.unwrap();
    note_speed(&f, 100_000);
    assert_eq!(
        f.engine.snapshot().extents,
        2,
        "what comes in ten seconds is not"
    );
    // Answers that were under way may be noted yet, and were near by.
    let noting = async {
        loop {
            note_speed(&f, 1_000_000);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = until_on_disk(&f, 1000) => {}
        () = noting => {}
    }
    assert_eq!(f.engine.snapshot().extents, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_does_not_come_soon_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let f = at_once(directory.path(), 0, Duration::from_millis(50));
    while f.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The second half waits for nobody yet: its unit is in the extent that is given up.
    let read = f.read(999_000, 1000);
    let opened = async {
        while !f.engine.shared.pending.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        f.source.gate.add_permits(100);
    };
    let (read, ()) = tokio::join!(read, opened);
    assert_eq!(read.unwrap(), f.plain[999_000..]);
}
