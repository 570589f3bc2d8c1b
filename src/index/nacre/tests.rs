//! What is written is read again, sealed or not, and nothing else is.

use std::sync::Arc;

use ::bytes::Bytes;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{
    codec::{Checkpoint, Checkpoints, Walk},
    index::{Algorithm, Chunk, ChunkTable, Codec, Entry, EntryKind, Place, Unit},
    keys::LayerKey,
    oci::media_type::{Compression, OCI_LAYER_GZIP},
    source::MemoryBlob,
};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    }
}

/// An index with all that there is, of a blob of 1000 bytes.
fn sample() -> Layer {
    let chunk = |file_offset, length, place: Option<(u32, u32)>| Chunk {
        file_offset,
        length,
        place: place.map_or(Place::Zeros, |(unit, offset)| Place::Unit { unit, offset }),
        digest: place.map_or([0; 32], |(unit, offset)| {
            *Algorithm::Blake3
                .digest(&[unit.to_le_bytes(), offset.to_le_bytes()].concat())
                .bytes()
        }),
    };
    let chunks = vec![
        chunk(0, 100, Some((0, 512))),
        chunk(100, 50, Some((1, 0))),
        chunk(150, 1000, None),
        chunk(0, 7, Some((1, 1024))),
    ];
    let mut entries = vec![
        entry("", EntryKind::Directory),
        entry("usr", EntryKind::Directory),
        entry(
            "usr/large",
            EntryKind::Regular {
                size: 1150,
                chunks: 0..3,
            },
        ),
        entry(
            "usr/empty",
            EntryKind::Regular {
                size: 0,
                chunks: 3..3,
            },
        ),
        entry(
            "usr/last",
            EntryKind::Regular {
                size: 7,
                chunks: 3..4,
            },
        ),
        entry("usr/link", EntryKind::Symlink(b"../etc//x"[..].into())),
        entry("usr/hard", EntryKind::Hardlink(b"usr/last"[..].into())),
        entry("dev", EntryKind::CharDevice { major: 1, minor: 3 }),
        entry(
            "blk",
            EntryKind::BlockDevice {
                major: 8,
                minor: 300,
            },
        ),
        entry("fifo", EntryKind::Fifo),
    ];
    entries[2].xattrs = vec![(b"user.a"[..].into(), b"1"[..].into())];
    entries[4].xattrs = entries[2].xattrs.clone();
    entries[4].mode = 0o4755;
    entries[4].mtime = -5;
    entries[4].mtime_nanos = 999_999_999;
    let window: Vec<u8> = (0..32 << 10).map(|it: u32| it.to_le_bytes()[1]).collect();
    let checkpoints = Checkpoints {
        list: vec![
            Checkpoint::new(10, 0, 0, &[]).unwrap(),
            Checkpoint::new(400, 3, 5000, &window).unwrap(),
        ],
        plain_size: 9000,
        ..Checkpoints::default()
    };
    let unit = |offset, length| Unit {
        offset,
        length,
        codec: Codec::Deflate,
    };
    Layer {
        index: LayerIndex {
            entries,
            table: ChunkTable {
                chunks,
                units: vec![unit(10, 391), unit(400, 600)],
                algorithm: Algorithm::Blake3,
                checkpoints,
                spans: Vec::new(),
            },
            prefetch: 0,
        },
        tar_size: 9000,
        diff_id: [9; 32],
    }
}

fn blob() -> Descriptor {
    Descriptor {
        size: 1000,
        ..Descriptor::of(OCI_LAYER_GZIP, b"layer")
    }
}

fn key(byte: u8) -> IndexKey {
    let key = LayerKey::new(Zeroizing::new([byte; 32]), [0; 16], [0; 32], None, "jwe");
    IndexKey::of(&key, &blob().digest)
}

/// Tables and windows of one part.
fn made(layer: &Layer, key: Option<&IndexKey>) -> (Vec<u8>, Arc<dyn BlobSource>) {
    let part = encode(layer, &blob().digest, key).unwrap();
    let (tables, windows) = directory::join(&[part]);
    (tables, Arc::new(MemoryBlob::new(windows.into())))
}

#[tokio::test]
async fn comes_back_as_it_was() {
    for key in [None, Some(key(1))] {
        let (tables, windows) = made(&sample(), key.as_ref());
        assert_eq!(tables, made(&sample(), key.as_ref()).0, "the same bytes");
        let found = decode(&tables, &blob(), key.as_ref(), Some(windows)).unwrap();
        let found = found.unwrap();
        assert_eq!(found.sealed, key.is_some());
        let points = &found.layer.index.table.checkpoints;
        // The first needs no window, that of the second is elsewhere.
        assert_eq!(points.list[0].window().unwrap(), b"");
        assert!(points.list[1].window().is_err());
        points.bring(&[0, 1]).await.unwrap();
        let want = sample();
        let wanted = want.index.table.checkpoints.list[1].window().unwrap();
        assert_eq!(points.list[1].window().unwrap(), wanted);
        assert_eq!(found.layer.index.entries, want.index.entries);
        assert_eq!(found.layer.index.table.chunks, want.index.table.chunks);
        assert_eq!(found.layer.index.table.units, want.index.table.units);
        assert_eq!(found.layer.index.table.algorithm, Algorithm::Blake3);
        assert_eq!(found.layer.diff_id, want.diff_id);
        found.layer.index.check(1000).unwrap();
    }
}

#[test]
fn chunks_of_replaced_files_are_left_out() {
    let mut layer = sample();
    // `usr/large` is gone, its chunks are still there.
    layer.index.entries.remove(2);
    let (tables, windows) = made(&layer, None);
    let found = decode(&tables, &blob(), None, Some(windows))
        .unwrap()
        .unwrap();
    assert_eq!(
        found.layer.index.table.chunks,
        layer.index.table.chunks[3..]
    );
    let mut layer = sample();
    layer.index.table.chunks.swap(0, 3);
    assert!(encode(&layer, &blob().digest, None).is_err());
}

#[test]
fn sealed_means_sealed() {
    let (tables, windows) = made(&sample(), Some(&key(1)));
    let open = |key: Option<&IndexKey>| decode(&tables, &blob(), key, Some(Arc::clone(&windows)));
    for (key, why) in [(None, "not encrypted"), (Some(key(2)), "not sealed under")] {
        let error = open(key.as_ref()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let (plain, _) = made(&sample(), None);
    let text = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|it| it == what);
    assert!(!text(&tables, b"usr/large") && !text(&plain, b"usr/large"));
    let other = Descriptor::of(OCI_LAYER_GZIP, b"other");
    assert!(
        decode(&tables, &other, Some(&key(1)), None)
            .unwrap()
            .is_none()
    );
    assert!(covers(&tables, &blob().digest) && !covers(&tables, &other.digest));
}

#[test]
fn seals_are_those_of_the_layers() {
    let layer = sample();
    let keys = |key: Option<IndexKey>| -> HashMap<Digest, IndexKey> {
        key.into_iter().map(|key| (blob().digest, key)).collect()
    };
    let (sealed, open) = (made(&layer, Some(&key(1))).0, made(&layer, None).0);
    assert_eq!(check_seals(&sealed, &keys(Some(key(1)))), Ok(()));
    assert_eq!(check_seals(&open, &keys(None)), Ok(()));
    for (tables, keys) in [
        (&sealed, keys(Some(key(2)))),
        (&sealed, keys(None)),
        (&open, keys(Some(key(1)))),
    ] {
        let error = check_seals(tables, &keys).unwrap_err();
        assert!(
            error.contains("not sealed under the layer's key"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn damaged_windows_are_refused() {
    for key in [None, Some(key(1))] {
        let part = encode(&sample(), &blob().digest, key.as_ref()).unwrap();
        let (tables, windows) = directory::join(&[part]);
        let mut bad = windows.clone();
        *bad.last_mut().unwrap() ^= 1;
        let source: Arc<dyn BlobSource> = Arc::new(MemoryBlob::new(Bytes::from(bad)));
        let found = decode(&tables, &blob(), key.as_ref(), Some(source))
            .unwrap()
            .unwrap();
        let error = found
            .layer
            .index
            .table
            .checkpoints
            .bring(&[1])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Corrupt, "{error}");
        let short = MemoryBlob::new(Bytes::copy_from_slice(&windows[1..]));
        let error = decode(&tables, &blob(), key.as_ref(), Some(Arc::new(short))).unwrap_err();
        assert!(error.to_string().contains("blob of windows"), "{error}");
    }
}

#[test]
fn every_cut_and_flip_is_refused_or_read() {
    let plain = write::write(&sample(), &[0, 100]).unwrap();
    assert!(read::read(&plain, 1000).is_ok());
    for end in 0..plain.len() {
        assert!(read::read(&plain[..end], 1000).is_err(), "{end}");
    }
    for at in 0..plain.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = plain.clone();
            bad[at] ^= flip;
            if let Ok(read) = read::read(&bad, 1000) {
                read.layer.index.check(1000).unwrap();
            }
        }
    }
    let error = read::read(&plain, 400).err().unwrap();
    assert!(error.contains("checkpoint"), "{error}");
}

#[test]
fn a_real_stream_is_entered_by_what_is_left_of_its_windows() {
    use std::io::Write as _;
    let plain: Vec<u8> = (0..400_000_u32)
        .flat_map(|it| format!("{} {}\n", it, it.wrapping_mul(2_654_435_761) >> 20).into_bytes())
        .collect();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&plain).unwrap();
    let blob = encoder.finish().unwrap();
    let mut walk = Walk::new(Compression::Gzip, 1 << 20).unwrap();
    let mut sink = |_| Ok(());
    for piece in blob.chunks(10_000) {
        walk.push(piece, &mut sink).unwrap();
    }
    let runs = walk.finish(&mut sink).unwrap();
    let list = &runs.checkpoints.list;
    assert!(list.len() > 3, "{}", list.len());
    let packed: usize = list.iter().map(|it| it.packed_window().len()).sum();
    assert!(
        packed < (list.len() - 1) * (8 << 10),
        "{packed} for {}",
        list.len()
    );
    for (run, point) in list.iter().enumerate() {
        let extent = runs.checkpoints.extent(run, blob.len() as u64).unwrap();
        let bytes = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap();
        let length = usize::try_from(runs.checkpoints.plain_length(run).unwrap()).unwrap();
        let begin = usize::try_from(point.plain).unwrap();
        for limit in [length, length / 2] {
            let got = runs
                .checkpoints
                .decode(run, &blob[bytes.clone()], limit)
                .unwrap();
            assert!(
                got == plain[begin..begin + limit],
                "run {run}, {limit} bytes"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        let _ = directory::split(&[&b"NCI1"[..], &bytes].concat());
        if let Ok(read) = read::read(&bytes, 1 << 30) {
            read.layer.index.check(1 << 30).unwrap();
        }
    }
}
