use std::{
    collections::HashMap,
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use super::*;
use crate::{
    index::{Algorithm, EntryKind, Place, document},
    source::MemoryBlob,
    tar::tests::Archive,
};

type Kept = Arc<Mutex<HashMap<ChunkDigest, Bytes>>>;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    (0..length)
        .map(|_| (next() % 23).to_le_bytes()[0])
        .collect()
}

fn tar() -> (Vec<u8>, HashMap<Vec<u8>, Vec<u8>>) {
    let files = [
        ("./etc/large", noise(3_000_000)),
        ("etc/small", b"small".to_vec()),
        ("etc/empty", Vec::new()),
        ("usr/.wh.gone", Vec::new()),
        ("usr/other", noise(400_000)),
    ];
    let mut archive = Archive::default().entry(b"etc/", b'5', b"", b"");
    for (name, content) in &files {
        archive = archive.file(name, content);
    }
    let archive = archive
        .file("etc/replaced", b"first")
        .entry(b"etc/hard", b'1', b"./etc/small", b"")
        .entry(b"etc/sym", b'2', b"../x", b"")
        .file("etc/replaced", b"second");
    let clean = |name: &str| name.trim_start_matches("./").as_bytes().to_vec();
    let files = files
        .iter()
        .map(|(name, content)| (clean(name), content.clone()));
    let mut files: HashMap<_, _> = files.collect();
    files.insert(b"etc/replaced".to_vec(), b"second".to_vec());
    (archive.finish(), files)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn packed(compression: Compression, tar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => gzip(tar),
        Compression::Zstd => zstd::bulk::compress(tar, 3).unwrap(),
        Compression::None => tar.to_vec(),
    }
}

async fn built(
    compression: Compression,
    blob: Vec<u8>,
    diff_id: Digest,
) -> (Result<BuiltIndex>, Kept) {
    let kept = Kept::default();
    let keep = Arc::clone(&kept);
    let keep: KeepChunk = Box::new(move |bytes| {
        let digest = Algorithm::Blake3.digest(&bytes);
        let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(digest, bytes);
        digest
    });
    let blob = Arc::new(MemoryBlob::new(blob.into()));
    let claim = Claim {
        compression,
        diff_id,
        spacing: crate::codec::DEFAULT_SPACING,
    };
    (build(blob, claim, keep).await, kept)
}

#[tokio::test]
async fn the_index_of_a_layer_reads_all_its_files_from_the_blob_and_from_what_was_kept() {
    let (tar, files) = tar();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let blob = packed(compression, &tar);
        let (index, kept) = built(compression, blob.clone(), Digest::sha256(&tar)).await;
        let index = index.unwrap();
        let kept = kept.lock().unwrap();
        let index = index.get();
        index.check(blob.len() as u64).unwrap();
        let table = &index.table;
        let needs = table.plain_lengths();
        let mut found = HashMap::new();
        for entry in &index.entries {
            let EntryKind::Regular { size, chunks } = &entry.kind else {
                continue;
            };
            let mut content = Vec::new();
            for chunk in &table.chunks[chunks.start as usize..chunks.end as usize] {
                let Place::Unit { unit, .. } = chunk.place else {
                    panic!("a hole in a file without holes")
                };
                let it = table.units[unit as usize];
                let begin = usize::try_from(it.offset).unwrap();
                let compressed = &blob[begin..begin + it.length as usize];
                let plain = table
                    .decode(unit, compressed, needs[unit as usize] as usize)
                    .unwrap();
                let bytes = table.chunk_bytes(&plain, chunk).unwrap();
                assert_eq!(kept[&table.digest(chunk)], bytes);
                content.extend_from_slice(bytes);
            }
            assert_eq!(content.len() as u64, *size);
            found.insert(entry.path.to_vec(), content);
        }
        assert!(found == files, "{compression:?}");
        assert!(
            compression == Compression::Zstd || table.units.len() > 3,
            "{compression:?}"
        );
        let paths: Vec<_> = index.entries.iter().map(|it| &*it.path).collect();
        assert_eq!(paths.len(), 9, "{paths:?}");
    }
}

#[tokio::test]
async fn a_sparse_file_has_holes() {
    // GNU's old sparse format: a map in the header, and only the runs stored.
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_mtime(1);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(1000);
    {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..4].copy_from_slice(b"hole");
        let octal = |field: &mut [u8; 12], value: u64| {
            field.copy_from_slice(format!("{value:011o}\0").as_bytes());
        };
        octal(&mut gnu.sparse[0].offset, 4096);
        octal(&mut gnu.sparse[0].numbytes, 1000);
        octal(&mut gnu.realsize, 100_000_000);
    }
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(&[b'x'; 1000]);
    tar.resize(512 + 1024 + 1024, 0);
    let (index, _) = built(Compression::Gzip, gzip(&tar), Digest::sha256(&tar)).await;
    let index = index.unwrap();
    index.get().check(u64::MAX).unwrap();
    let places: Vec<_> = { index.get().table.chunks.iter() }
        .map(|it| (it.file_offset, it.place == Place::Zeros))
        .collect();
    assert_eq!(places[..3], [(0, true), (4096, false), (5096, true)]);
}

#[tokio::test]
async fn a_layer_that_is_not_what_it_claims_has_no_index() {
    let (tar, _) = tar();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let blob = packed(compression, &tar);
        let other = Digest::sha256(b"another tar");
        let (index, _) = built(compression, blob.clone(), other.clone()).await;
        let error = index.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let text = error.to_string();
        assert!(text.contains(&other.to_string()), "{text}");
        assert!(text.contains(&Digest::sha256(&tar).to_string()), "{text}");
        assert!(text.contains(&Digest::sha256(&blob).to_string()), "{text}");
        // Cut off, and with something behind.
        let cut = blob[..blob.len() / 2].to_vec();
        assert!(
            built(compression, cut, Digest::sha256(&tar))
                .await
                .0
                .is_err()
        );
        let more = [&blob[..], b"more"].concat();
        assert!(
            built(compression, more, Digest::sha256(&tar))
                .await
                .0
                .is_err()
        );
    }
    let tars = [
        Archive::default().file("../x", b"x").finish(),
        Archive::default()
            .file("x", b"x")
            .entry(b"x/", b'5', b"", b"")
            .finish(),
        Archive::default()
            .file("x", b"first")
            .entry(b"y", b'1', b"x", b"")
            .file("x", b"second")
            .finish(),
        Archive::default().entry(b"y", b'2', b"", b"").finish(),
        b"not a tar, and longer than a block of a tar would be".repeat(20),
    ];
    for tar in tars {
        let (index, _) = built(Compression::Gzip, gzip(&tar), Digest::sha256(&tar)).await;
        let kind = index.unwrap_err().kind();
        assert!(
            matches!(kind, Kind::Invalid | Kind::Unsupported),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn a_document_comes_back_and_a_changed_one_does_not() {
    let (tar, _) = tar();
    let blob = gzip(&tar);
    let (index, _) = built(Compression::Gzip, blob.clone(), Digest::sha256(&tar)).await;
    let index = index.unwrap();
    let document = index.document();
    let again = BuiltIndex::reopen(&document, index.subject()).unwrap();
    assert_eq!(again.get(), index.get());
    let other = Subject {
        diff_id: Digest::sha256(b"another"),
        ..index.subject().clone()
    };
    let refused = BuiltIndex::reopen(&document, &other).unwrap_err();
    assert!(
        refused.contains(&Digest::sha256(&tar).to_string()),
        "{refused}"
    );
    let plain = zstd::bulk::decompress(&document, 64 << 20).unwrap();
    for at in (0..plain.len()).step_by(97).chain(0..300) {
        for flip in [1, 0x80] {
            let mut changed = plain.clone();
            changed[at] ^= flip;
            let changed = zstd::bulk::compress(&changed, 1).unwrap();
            if let Ok((index, subject)) = document::parse(&changed) {
                index.check(subject.blob_size).unwrap();
            }
        }
        let cut = zstd::bulk::compress(&plain[..at], 1).unwrap();
        assert!(document::parse(&cut).is_err());
    }
}
