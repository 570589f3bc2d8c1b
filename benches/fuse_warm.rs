//! Reads through a FUSE mount whose chunks are all in the store, page cache dropped each time.
//!
//! `memory` has them in the memory half; `disk` has them on disk, with a memory half that is smaller
//! than the file, so that each chunk is read back and verified (`disk-sealed`: and unsealed) once.
//! `memory-handed-over` is `memory` with one descriptor for all threads, as mounts of `nacre serve` have
//! it. `scattered` reads single pages by several threads, so that round trips count.
//! `file` reads the same bytes from an ordinary file in the temporary directory, page cache dropped
//! too. Needs root and /dev/fuse; says so and measures nothing where they are missing.

use std::{
    fs::File,
    io::Write,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nacre::{
    engine::{Engine, EngineConfig, LayerData, ReadFile},
    index::{Chunk, ChunkTable, Codec, Entry, EntryKind, Place, Unit},
    mount::{self, MountOptions},
    source::{BlobSource, MemoryBlob},
    store::{Seal, Space, Store, StoreConfig},
    tree::Tree,
};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const CHUNK: usize = 1 << 20;
const CHUNKS: u32 = 64;
const SIZE: u64 = CHUNK as u64 * CHUNKS as u64;
const READERS: u64 = 4;
const STRIDE: u64 = 16 << 10;

/// Bytes that do not repeat.
fn content() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHUNK * CHUNKS as usize);
    let mut state = [0_u8; 32];
    while bytes.len() < CHUNK * CHUNKS as usize {
        state = Sha256::digest(state).into();
        bytes.extend_from_slice(&state);
    }
    bytes
}

fn table(content: &[u8]) -> ChunkTable {
    let mut table = ChunkTable::default();
    for (index, bytes) in (0..).zip(content.chunks(CHUNK)) {
        let file_offset = u64::from(index) * CHUNK as u64;
        let length = u32::try_from(bytes.len()).expect("a chunk is small");
        table.units.push(Unit {
            offset: file_offset,
            length,
            codec: Codec::Raw,
        });
        table.chunks.push(Chunk {
            file_offset,
            length,
            place: Place::Unit {
                unit: index,
                offset: 0,
            },
            digest: Sha256::digest(bytes).into(),
        });
    }
    table
}

fn tree() -> Tree {
    let entry = |path: &[u8], kind, mode| Entry {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    };
    let file = EntryKind::Regular {
        size: SIZE,
        chunks: 0..CHUNKS,
    };
    Tree::merge(vec![vec![
        entry(b"", EntryKind::Directory, 0o755),
        entry(b"file", file, 0o644),
    ]])
    .expect("a tree of one file")
}

/// Reads the file in pieces of 1 MiB after dropping its pages.
fn read_through(path: &Path, buffer: &mut [u8]) {
    let file = File::open(path).expect("it is there");
    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice");
    let mut offset = 0;
    while offset < SIZE {
        offset += file.read_at(buffer, offset).expect("it can be read") as u64;
    }
}

/// Reads a page of every 16 KiB by four threads, after dropping the file's pages: one request each.
fn read_scattered(path: &Path) {
    let file = File::open(path).expect("it is there");
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice");
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).expect("advice");
    std::thread::scope(|scope| {
        for thread in 0..READERS {
            let file = &file;
            scope.spawn(move || {
                let mut page = [0; 4096];
                let mine = (0..SIZE / STRIDE).filter(|it| it % READERS == thread);
                for number in mine {
                    file.read_exact_at(&mut page, number * STRIDE)
                        .expect("it can be read");
                }
            });
        }
    });
}

fn warm_store(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let content = content();
    let mut group = criterion.benchmark_group("fuse_warm");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
    let mut buffer = vec![0; 1 << 20];

    let plain = directory.path().join("plain");
    let mut file = File::create(&plain).expect("a file");
    file.write_all(&content)
        .and_then(|()| file.sync_all())
        .expect("it can be written");
    group.bench_function(BenchmarkId::new("file", "sequential"), |bencher| {
        bencher.iter(|| read_through(&plain, &mut buffer));
    });

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sealed = Space::Sealed(Seal::new(&Zeroizing::new([7; 32])));
    let big = content.len() * 2;
    for (name, memory_bytes, space, hand_over) in [
        ("memory", big, Space::Plain, false),
        ("memory-handed-over", big, Space::Plain, true),
        ("disk", 8 * CHUNK, Space::Plain, false),
        ("disk-sealed", 8 * CHUNK, sealed, false),
    ] {
        let store = directory.path().join(name);
        let config = StoreConfig {
            memory_bytes,
            disk: Some((store, SIZE * 4)),
            indexes: None,
        };
        let store = Arc::new(Store::open(&config).expect("a store"));
        let source = Arc::new(MemoryBlob::new(Bytes::from(content.clone())));
        let layer = LayerData {
            digest: source.digest().clone(),
            table: Arc::new(table(&content)),
            source,
            space,
        };
        let handle = runtime.handle().clone();
        let engine = Engine::start(vec![layer], store, handle, EngineConfig::RECOMMENDED);
        let engine = Arc::new(engine.expect("an engine"));
        let target = directory.path().join(format!("mount-{name}"));
        std::fs::create_dir(&target).expect("a directory");
        let reader = Arc::clone(&engine) as Arc<dyn ReadFile>;
        let options = MountOptions {
            hand_over,
            ..MountOptions::new("bench")
        };
        let mounted = match mount::mount(Arc::new(tree()), reader, &target, &options) {
            Ok(mounted) => mounted,
            Err(error) => {
                println!("skipped: fuse_warm needs root and /dev/fuse: {error}");
                return;
            }
        };
        let file = target.join("file");
        read_through(&file, &mut buffer);
        engine.store().flush();
        let fetched = engine.snapshot().extent_bytes;
        group.bench_function(BenchmarkId::new(name, "sequential"), |bencher| {
            bencher.iter(|| read_through(&file, &mut buffer));
        });
        if memory_bytes == big {
            group.throughput(Throughput::Elements(SIZE / STRIDE));
            group.bench_function(BenchmarkId::new(name, "scattered"), |bencher| {
                bencher.iter(|| read_scattered(&file));
            });
            group.throughput(Throughput::Bytes(SIZE));
        }
        assert_eq!(
            engine.snapshot().extent_bytes,
            fetched,
            "the store was warm"
        );
        mounted.unmount().expect("it can be unmounted");
    }
    group.finish();
}

criterion_group!(benches, warm_store);
criterion_main!(benches);
