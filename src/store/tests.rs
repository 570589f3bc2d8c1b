use zeroize::Zeroizing;

use super::*;
use crate::index::Algorithm;

fn chunk(byte: u8, length: usize) -> (ChunkDigest, VerifiedChunk) {
    let bytes = Bytes::from(vec![byte; length]);
    let digest = Algorithm::Sha256.digest(&bytes);
    (
        digest,
        VerifiedChunk::check(bytes, &digest).expect("its own digest"),
    )
}

fn sealed(byte: u8) -> Space {
    Space::Sealed(Seal::new(&Zeroizing::new([byte; 32])))
}

fn on_disk(directory: &std::path::Path) -> StoreConfig {
    StoreConfig {
        memory_bytes: 0,
        disk: Some((directory.to_owned(), 1 << 20)),
        indexes: None,
    }
}

fn data_file(directory: &std::path::Path) -> PathBuf {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|x| x == "data"))
        .expect("a segment")
}

#[test]
fn keeps_across_a_restart_in_both_spaces() {
    let directory = tempfile::tempdir().unwrap();
    let (digest, content) = chunk(7, 5000);
    for space in [Space::Plain, sealed(1)] {
        let store = Store::open(&on_disk(directory.path())).unwrap();
        assert!(store.get(&space, &digest).is_none(), "{space:?}");
        store.put(&space, &digest, &content);
        drop(store);
        let store = Store::open(&on_disk(directory.path())).unwrap();
        assert_eq!(store.get(&space, &digest).unwrap().bytes(), content.bytes());
        assert_eq!(store.snapshot().disk_hits, 1);
    }
    let store = Store::open(&on_disk(directory.path())).unwrap();
    assert!(
        store.get(&sealed(2), &digest).is_none(),
        "another key finds nothing"
    );
}

#[test]
fn plaintext_of_a_sealed_chunk_never_reaches_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&on_disk(directory.path())).unwrap();
    let (digest, content) = chunk(0x5a, 4096);
    store.put(&sealed(1), &digest, &content);
    drop(store);
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(16).any(|w| w == [0x5a; 16]), "plaintext");
        assert!(
            !bytes.windows(32).any(|w| w == digest.bytes()),
            "digest of the plaintext"
        );
    }
}

#[test]
fn a_flipped_bit_on_disk_is_noticed_forgotten_and_replaced() {
    for space in [Space::Plain, sealed(1)] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&on_disk(directory.path())).unwrap();
        let (digest, content) = chunk(7, 5000);
        store.put(&space, &digest, &content);
        store.flush();
        let path = data_file(directory.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1234] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(store.get(&space, &digest).is_none(), "{space:?}");
        assert_eq!(store.snapshot().corrupt, 1);
        store.put(&space, &digest, &content);
        store.flush();
        assert!(store.get(&space, &digest).is_some());
    }
}

/// A unit of small files puts all its chunks at once.
#[test]
fn small_chunks_in_a_burst_are_all_kept() {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        memory_bytes: 0,
        disk: Some((directory.path().to_owned(), 64 << 20)),
        indexes: None,
    };
    let store = Store::open(&config).unwrap();
    let chunks: Vec<_> = (1..=5000)
        .map(|length| chunk(u8::try_from(length % 251).unwrap(), length))
        .collect();
    for (digest, content) in &chunks {
        store.put(&Space::Plain, digest, content);
    }
    store.flush();
    assert_eq!(store.snapshot().not_kept, 0);
    assert!(
        chunks
            .iter()
            .all(|(it, _)| store.contains(&Space::Plain, it))
    );
}

#[test]
fn what_does_not_fit_into_the_queue_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path(), 1 << 30).unwrap();
    let half = DiskHalf::start(Arc::new(disk), &Arc::default()).unwrap();
    let (digest, content) = chunk(7, 5000);
    let id = Space::Plain.id(&digest);
    half.queued.store(QUEUE - 5000, Ordering::Relaxed);
    assert!(!half.write(id, &content, &Space::Plain));
    half.queued.store(QUEUE - 5000 - QUEUED, Ordering::Relaxed);
    assert!(half.write(id, &content, &Space::Plain));
}

#[test]
fn serves_from_memory_when_the_disk_fails() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let config = StoreConfig {
        memory_bytes: 1 << 20,
        disk: Some((root.clone(), 1 << 20)),
        indexes: None,
    };
    let store = Store::open(&config).unwrap();
    // No segment can be made any more.
    std::fs::remove_dir(&root).unwrap();
    let (digest, content) = chunk(7, 5000);
    store.put(&Space::Plain, &digest, &content);
    store.flush();
    assert_eq!(store.snapshot().not_kept, 1);
    assert!(store.get(&Space::Plain, &digest).is_some());
}

#[test]
fn a_chunk_from_disk_stays_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let (digest, content) = chunk(7, 1 << 20);
    let store = Store::open(&on_disk(directory.path())).unwrap();
    store.put(&Space::Plain, &digest, &content);
    drop(store);
    let disk = Some((directory.path().to_owned(), 8 << 20));
    let store = Store::open(&StoreConfig {
        memory_bytes: 8 << 20,
        disk,
        indexes: None,
    })
    .unwrap();
    for _ in 0..3 {
        assert!(store.get(&Space::Plain, &digest).is_some());
    }
    assert_eq!(store.snapshot().disk_hits, 1);
}
