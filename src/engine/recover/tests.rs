use std::{
    io::Write as _,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures::future::BoxFuture;

use super::*;
use crate::{
    codec::{Checkpoint, Checkpoints, WindowSource},
    engine::{Engine, EngineConfig, FileData, LayerData, Reach},
    error::Kind,
    index::{self, Algorithm, Claim, EntryKind, LayerIndex},
    oci::{Digest, media_type::Compression},
    source::{BlobSource, MemoryBlob},
    store::StoreConfig,
    tar::tests::Archive,
};

/// Windows that cannot be fetched any more.
#[derive(Debug, Default)]
struct Lost(AtomicU64);

impl WindowSource for Lost {
    fn bring<'a>(&'a self, _: &'a Checkpoints, _: &'a [u32]) -> BoxFuture<'a, Result<()>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(Error::not_found("the windows are gone")) })
    }
}

/// A blob that counts what is streamed of it, flips a byte of the first answers, and can be away.
#[derive(Debug)]
struct Blob {
    bytes: MemoryBlob,
    streamed: AtomicU64,
    flip: AtomicBool,
    away: AtomicBool,
}

impl BlobSource for Blob {
    fn digest(&self) -> &Digest {
        self.bytes.digest()
    }

    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.bytes.read_at(range)
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            if self.away.load(Ordering::SeqCst) {
                return Err(Error::unavailable("the layer is away"));
            }
            self.streamed
                .fetch_add(range.end - range.start, Ordering::SeqCst);
            let mut bytes = self.bytes.read_at(range).await?.to_vec();
            if self.flip.swap(false, Ordering::SeqCst) {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
            }
            // Pieces that end anywhere.
            let pieces: Vec<_> = { bytes.chunks(10_007) }
                .map(|it| Ok(Bytes::copy_from_slice(it)))
                .collect();
            Ok(futures::stream::iter(pieces).boxed())
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        self.bytes.stream()
    }
}

struct Fixture {
    engine: Engine,
    blob: Arc<Blob>,
    windows: Arc<Lost>,
    plain: Vec<u8>,
    file: FileData,
    runs: usize,
}

/// Text whose windows matter: it repeats what was long before.
fn text(length: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(length + 64);
    let mut state = 7_u64;
    while plain.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        write!(plain, "{:x} {} ", (state >> 33) % 4096, (state >> 50) % 77).unwrap();
    }
    plain.truncate(length);
    plain
}

async fn fixture(spacing: u32) -> Fixture {
    let plain = text(3 << 20);
    let tar = Archive::default().file("large", &plain).finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&tar).unwrap();
    let bytes = MemoryBlob::new(gzip.finish().unwrap().into());
    let blob = Arc::new(Blob {
        bytes,
        streamed: AtomicU64::new(0),
        flip: AtomicBool::new(false),
        away: AtomicBool::new(false),
    });
    let claim = Claim {
        compression: Compression::Gzip,
        diff_id: Digest::sha256(&tar),
        spacing,
    };
    let keep = Box::new(|bytes: Bytes| Algorithm::Blake3.digest(&bytes));
    let built = index::build(Arc::clone(&blob) as Arc<dyn BlobSource>, claim, keep);
    let LayerIndex {
        mut table, entries, ..
    } = built.await.unwrap().into_index();
    let windows = Arc::new(Lost::default());
    let elsewhere = |it: &Checkpoint| match it.packed_window() {
        [] => it.clone(),
        _ => Checkpoint::elsewhere(it.offset, it.bits, it.plain),
    };
    table.checkpoints.list = table.checkpoints.list.iter().map(elsewhere).collect();
    table.checkpoints.windows = Some(Arc::clone(&windows) as Arc<dyn WindowSource>).into();
    let EntryKind::Regular { size, chunks } = entries[0].kind.clone() else {
        panic!("a file")
    };
    let runs = table.units.len();
    let layer = LayerData {
        digest: blob.digest().clone(),
        table: Arc::new(table),
        source: Arc::clone(&blob) as Arc<dyn BlobSource>,
        space: Space::Plain,
    };
    let store = Store::open(&StoreConfig {
        memory_bytes: 64 << 20,
        disk: None,
        indexes: None,
    });
    let config = EngineConfig {
        workers: 2,
        join_gap: 0,
        min_extent: 0,
        grow: (0, 0),
        neighbours: Reach::NONE,
        max_extent: 1 << 20,
        stream_window: 0,
        follow: None,
    };
    let runtime = tokio::runtime::Handle::current();
    Fixture {
        engine: Engine::start(vec![layer], Arc::new(store.unwrap()), runtime, config).unwrap(),
        blob,
        windows,
        plain,
        file: FileData {
            layer: 0,
            first_chunk: chunks.start,
            chunk_count: chunks.end - chunks.start,
            size,
        },
        runs,
    }
}

impl Fixture {
    async fn read(&self, offset: usize, length: u32) -> Result<()> {
        let read = self
            .engine
            .read_async(self.file, offset as u64, length)
            .await?;
        assert!(read == self.plain[offset..offset + length as usize]);
        Ok(())
    }

    fn streamed(&self) -> u64 {
        self.blob.streamed.load(Ordering::SeqCst)
    }

    fn asked(&self) -> u64 {
        self.windows.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_is_lost_is_made_again_from_the_checkpoint_before() {
    for spacing in [20_000, 200_000] {
        let f = fixture(spacing).await;
        assert!(f.runs > 10, "{} runs", f.runs);
        f.read(1_500_000, 5000).await.unwrap();
        let (half, size) = (f.streamed(), f.blob.size());
        assert!(half > size / 3 && half < size * 2 / 3, "{half} of {size}");
        // Not from the beginning again.
        f.read(2_900_000, 5000).await.unwrap();
        let most = f.streamed();
        assert!(most < size * 11 / 10, "{most} of {size}");
        // All windows before are here now, and nobody is asked for them.
        let asked = f.asked();
        for offset in (0..2_900_000).step_by(123_457) {
            f.read(offset, 4096).await.unwrap();
        }
        assert_eq!((f.streamed(), f.asked()), (most, asked));
        let snapshot = f.engine.snapshot();
        assert_eq!((snapshot.failed_reads, snapshot.mismatches), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_have_it_made_once() {
    let f = fixture(100_000).await;
    let reads = (0..20).map(|n| f.read(2_800_000 + n * 1000, 1000));
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    let (streamed, size) = (f.streamed(), f.blob.size());
    assert!(streamed <= size, "{streamed} of {size}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_the_way_is_noticed() {
    let f = fixture(100_000).await;
    f.blob.flip.store(true, Ordering::SeqCst);
    f.read(2_800_000, 100_000).await.unwrap();
    for offset in (0..2_900_000).step_by(100_003) {
        f.read(offset, 4096).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_layer_the_read_says_what_was_lost() {
    let f = fixture(100_000).await;
    f.blob.away.store(true, Ordering::SeqCst);
    let error = f.read(2_800_000, 100).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(
        error.to_string().contains("the windows are gone"),
        "{error}"
    );
    // It is tried again.
    f.blob.away.store(false, Ordering::SeqCst);
    f.read(2_800_000, 100).await.unwrap();
}
